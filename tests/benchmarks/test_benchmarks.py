"""The benchmarks that need neither a peer nor a GPU run at toy size, and what they tell adds up."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parent.parent.parent / "benchmarks"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    sys.modules.pop(name, None)
    return importlib.import_module(name)


def test_gpu_benchmark_runs_at_toy_size_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = load("gpu", monkeypatch)
    told = gpu.main(["--tiny", "--device", "cpu", "--steps", "1"])
    results = told["results"]
    assert set(results) == {"tiny sft", "tiny dpo", "tiny grpo", "tiny decode"}
    # Rows of SFT share nothing; in a pair and in a group the prompt is counted once, and once a row
    # where unshared.
    assert (
        results["tiny sft"]["unshared_tokens_per_second"]
        == results["tiny sft"]["distinct_tokens_per_second"]
    )
    grpo = results["tiny grpo"]
    sizes = gpu.Sizes(2, 8, 6, 2, 4, 64)
    shared = (sizes.prompt + sizes.group * sizes.completion) / (
        sizes.group * (sizes.prompt + sizes.completion)
    )
    assert grpo["distinct_tokens_per_second"] / grpo["unshared_tokens_per_second"] == pytest.approx(
        shared
    )
    for found in results.values():
        assert all(value > 0 for value in found.values())


def test_gpu_benchmark_counts_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = load("gpu", monkeypatch)
    model = gpu.make_model("tiny", "cpu")
    # Two layers of width 64: q and o 64 x 64, k and v 32 x 64, three matrices of 128 x 64; 512
    # tokens tied.
    assert gpu.arithmetic(model) == (2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64), 512 * 64)


def test_scaling_benchmark_runs_at_toy_size(monkeypatch: pytest.MonkeyPatch) -> None:
    scaling = load("scaling", monkeypatch)
    # Kept memory would hold for the whole test process.
    monkeypatch.setattr(scaling, "setup", lambda: None)
    told = scaling.main(["--largest", "2048", "--steps", "10", "--rounds", "1", "--dry"])
    assert [row["tokens"] for row in told["costs"]] == [1024, 2048]
    assert list(told["resident_mib"]) == list(range(1, 11))
