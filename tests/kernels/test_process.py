"""The process-wide switches: off in a library, chosen once, and back where they were."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from posttrain import kernels
from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.engines.torch import TorchEngine
from posttrain.kernels import process, products
from posttrain.kernels.products import fast_products, kernel_products
from posttrain.memory import without_collection
from posttrain.models.language_model import LanguageModel
from posttrain.types import Request, Sampling

Build = Callable[[str], LanguageModel]


def allowed() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision


def test_a_library_has_all_switches_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_family", lambda: 26)
    assert not any(asdict(kernels.switches()).values())
    with fast_products(), kernel_products(), without_collection():
        assert allowed() == "none" and gc.isenabled()
        assert torch.get_float32_matmul_precision() == "highest"


def test_the_precision_that_a_user_chose_holds_in_a_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(products, "_family", lambda: 26)
    before = allowed()
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        with kernel_products():
            assert allowed() == "bf16"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


def test_setup_chooses_and_reset_takes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(process, "_keep_freed_memory", lambda: bool(calls.append(1)) or True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    chosen = kernels.setup(keep_freed_memory=False)
    assert chosen == kernels.switches() == kernels.Switches(True, False, True) and not calls
    with without_collection():
        assert not gc.isenabled()
    assert kernels.setup() == kernels.Switches(True, True, True) and len(calls) == 1
    kernels.reset()
    assert kernels.switches() == kernels.Switches()
    with without_collection():
        assert gc.isenabled()


def test_beside_a_gpu_products_and_memory_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert kernels.setup() == kernels.Switches(pause_collection=True)


def test_the_command_line_asks(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain.cli import runs
    from posttrain.recipe import parse_recipe

    calls: list[str] = []

    monkeypatch.setattr(kernels, "setup", lambda: calls.append("setup"))
    recipe = {"method": "sft", "model": "embedded", "task": "arithmetic", "output": str(tmp_path)}
    runs.check(parse_recipe(recipe))
    assert calls == ["setup"]


def sequences(seed: int) -> list[TokenSequence]:
    draw = np.random.default_rng(seed)
    stem = draw.integers(3, 90, 12)
    lists = [np.concatenate([stem, draw.integers(3, 90, n)]) for n in (9, 21, 4)]
    return [TokenSequence(ids, np.arange(len(ids)) > 5) for ids in lists]


def trained(model: LanguageModel, steps: int = 12) -> torch.Tensor:
    """All weights after some steps of gradient descent."""
    forest = Forest.pack([Tree.build(sequences(0)), Tree.build(sequences(1))])
    model.train()
    for _ in range(steps):
        model.backward(-model.forward(forest)["logprobs"].mean())
        with torch.no_grad():
            for p in model.trainable_parameters():
                assert p.grad is not None
                p.sub_(p.grad, alpha=0.05)
                p.grad = None
    return torch.cat([p.detach().flatten() for p in model.trainable_parameters()])


def sampled(model: LanguageModel, calls: int = 6) -> list[float]:
    """Log-probs of all tokens of some calls."""
    engine = TorchEngine(model)
    numbers: list[float] = []
    for seed in range(calls):
        (samples,) = engine.generate([Request((3, 4, 5), Sampling(max_tokens=12), n=4, seed=seed)])
        numbers += [x for sample in samples for x in sample.raw_logprobs]
    return numbers


@pytest.mark.parametrize("family", [25, 26], ids=["head only", "all products"])
def test_training_and_sampling_in_two_threads_give_what_they_give_alone(
    family: int, llama_like: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, and the switch is back where it was."""
    if not products._keeps_float32():
        pytest.skip("this processor would round products to bfloat16")
    monkeypatch.setattr(products, "_family", lambda: family)
    kernels.setup(keep_freed_memory=False)
    before = allowed()
    expected_weights = trained(llama_like("qwen3"))
    expected_numbers = sampled(llama_like("llama"))
    together = threading.Barrier(2)

    def at_once(function: Callable[[LanguageModel], Any], model: LanguageModel) -> Any:
        together.wait()
        return function(model)

    with ThreadPoolExecutor(2) as threads:
        weights = threads.submit(at_once, trained, llama_like("qwen3"))
        numbers = threads.submit(at_once, sampled, llama_like("llama"))
        assert torch.equal(weights.result(), expected_weights)
        assert numbers.result() == expected_numbers
    assert allowed() == before
    assert torch.get_float32_matmul_precision() == "highest"


def test_no_thread_runs_under_the_switch_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scopes of two threads that overlap in the order that leaves a plain saved value wrong."""
    monkeypatch.setattr(products, "_family", lambda: 26)
    kernels.setup(keep_freed_memory=False)
    before = allowed()
    inside, leave = threading.Event(), threading.Event()
    seen: list[str] = []

    def first() -> None:
        with fast_products():
            inside.set()
            leave.wait(10)
            seen.append(f"first {allowed()}")

    def second() -> None:
        inside.wait(10)
        with kernel_products():
            seen.append(f"second {allowed()}")

    threads = [threading.Thread(target=f) for f in (first, second)]
    for thread in threads:
        thread.start()
    inside.wait(10)
    threads[1].join(0.2)
    assert threads[1].is_alive() and not seen  # it waits for the first
    leave.set()
    for thread in threads:
        thread.join(10)
    assert seen == ["first bf16", "second none"]
    assert allowed() == before
