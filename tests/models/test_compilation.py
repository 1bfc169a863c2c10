"""Compiled layers compute what the layers compute, and are refused where no compiler is."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.data.forest import Forest
from posttrain.errors import ModelError
from posttrain.models.compilation import check_compiler, compile_layers
from posttrain.models.language_model import LanguageModel
from posttrain.models.load import load_model

Make = Callable[..., LanguageModel]


@pytest.mark.timeout(600)
def test_numbers_and_gradients_agree(tiny: Make, forest: Forest) -> None:
    """The graphs as autograd runs them; the compiler's own code is PyTorch's to test."""
    model = tiny("Llama")
    weights = list(model.hf.parameters())

    def run() -> tuple[torch.Tensor, list[torch.Tensor]]:
        logprobs = model.forward(forest)["logprobs"]
        return logprobs.detach(), list(torch.autograd.grad(logprobs.sum(), weights))

    logprobs, gradients = run()
    compile_layers(model, backend="aot_eager")
    found, others = run()
    torch.testing.assert_close(found, logprobs, rtol=1e-6, atol=1e-6)
    for mine, theirs in zip(others, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert not model.uses_kernels


def test_a_missing_compiler_is_refused_before_weights_load(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    read: list[Any] = []
    monkeypatch.setattr("posttrain.models.load.load_weights", lambda *_: read.append(1))
    with pytest.raises(ModelError, match="C\\+\\+ compiler"):
        load_model(str(tiny_folder), compile=True)
    assert not read
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="Triton"):
        check_compiler(torch.device("cuda"))


def test_offload_needs_a_gpu(tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match="activation_offload"):
        load_model(str(tiny_folder), activation_offload=True, device="cpu")
