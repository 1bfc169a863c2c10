"""Decoder layers through `torch.compile`, each for itself.

A layer's attention over a forest stays as it is (`models.attention`): the graph breaks there, and
what is before and after becomes two kernels for any number of tokens. Compiled layers run in place
of the CPU's fused ones.
"""

from __future__ import annotations

import importlib.util
import os
import shutil

import torch
from torch import nn

from posttrain.errors import ModelError
from posttrain.models import attention
from posttrain.models.forest_model import ForestModel
from posttrain.models.program import decoder_layers


def check_compiler(device: torch.device) -> None:
    """Refuse to compile where the compiler's own tools are missing, before weights are loaded.

    Raises:
        ModelError: a C++ compiler (CPU) or Triton (GPU) is not there.
    """
    if device.type == "cpu":
        names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
        if not any(map(shutil.which, names)):
            raise ModelError(
                f"model.compile: torch.compile needs a C++ compiler on a CPU, and there is no "
                f"{' or '.join(names)}; install one (package g++), or leave out compile"
            )
    elif importlib.util.find_spec("triton") is None:
        raise ModelError(
            "model.compile: torch.compile needs Triton on a GPU, which is not installed; install "
            "the package triton, or leave out compile"
        )


def compile_layers(model: ForestModel, backend: str = "inductor") -> None:
    """Compile the decoder layers of a model; nothing is compiled before the first pass."""
    attention.leave_uncompiled()
    model.uses_kernels = False
    layers: list[nn.Module] = decoder_layers(model.hf)
    for layer in layers:
        layer.compile(backend=backend, dynamic=True)
