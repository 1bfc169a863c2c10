"""The GPU benchmark at toy size on a CPU: its figures add up, and its parts fail alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from .loading import load

RATES = {"matmul_gflops": 1.0, "bandwidth_gb": 1.0}
SHAPES = ("sft", "dpo", "grpo", "decode", "prefixes", "transformers sft", "transformers dpo")


def figures(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> dict[str, dict[str, float]]:
    gpu = load("gpu", monkeypatch)
    gpu.run_part(f"tiny {kind}", "cpu", 1, RATES)
    found: dict[str, dict[str, float]] = gpu.figures_in(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("kind", [*SHAPES, "transformers sampling"])
def test_every_part_runs_at_toy_size(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = figures(kind, monkeypatch, capsys)
    assert found
    for name, numbers in found.items():
        may_be_zero = {"reused_share"} if "not kept" in name else set()
        assert all(value > 0 for key, value in numbers.items() if key not in may_be_zero), name
    if kind == "sft":  # rows share nothing
        numbers = found[""]
        assert numbers["unshared_tokens_per_second"] == numbers["distinct_tokens_per_second"]
    if kind == "grpo":  # in a group the prompt is counted once, and once a row where unshared
        sizes = load("gpu_model", monkeypatch).Sizes.of("tiny")
        shared = (sizes.prompt + sizes.group * sizes.completion) / (
            sizes.group * (sizes.prompt + sizes.completion)
        )
        ratio = found[""]["distinct_tokens_per_second"] / found[""]["unshared_tokens_per_second"]
        assert ratio == pytest.approx(shared)
    if kind == "decode":
        assert set(found) == {"1 rows, graphs off", "4 rows, graphs off"}
    if kind == "prefixes":
        assert found["turns, prefixes kept"]["reused_share"] > 0.5
        # The longest beginning is shared by all and computed once even where nothing is kept.
        assert (
            found["search, prefixes kept"]["reused_share"]
            > (found["search, prefixes not kept"]["reused_share"])
        )


def test_weights_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_model = load("gpu_model", monkeypatch)
    model = gpu_model.make_model("tiny", "cpu")
    # Two layers of width 64: q and o 64 x 64, k and v 32 x 64, three matrices of 128 x 64; 512
    # tokens tied.
    body = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64)
    assert gpu_model.arithmetic(model) == (body, 512 * 64)


def test_padded_rows_give_the_loss_of_the_forest(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' own loss of the padded micro-batches is the mean over all labelled tokens."""
    gpu_model, peer = load("gpu_model", monkeypatch), load("gpu_peer", monkeypatch)
    sizes = gpu_model.Sizes.of("tiny")
    groups = gpu_model.random_groups("sft", sizes, 512, 2)
    batches = peer.micro_batches(groups, 30)
    rows = [row for batch in batches for row in batch]
    assert len(rows) == len(groups) and len(batches) > 1
    assert {id(row) for row in rows} == {id(group[0]) for group in groups}
    batch = peer.padded(rows, torch.device("cpu"))
    counts = [int(row.loss_mask.sum()) for row in rows]
    assert (batch["labels"] >= 0).sum(1).tolist() == counts
    assert batch["attention_mask"].sum(1).tolist() == [len(row.ids) for row in rows]


def test_a_part_that_fails_or_takes_too_long_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The others are measured all the same, and what a part had printed is kept."""
    gpu = load("gpu", monkeypatch)
    line = f"{gpu._MARK}{json.dumps(['first', {'seconds': 1.0}])}"
    scripts = {
        "slow": f"print({line!r}, flush=True); import time; time.sleep(600)",
        "wrong": f"print({line!r}); raise RuntimeError('out of memory')",
        "good": f"print({line!r}); print({gpu._MARK!r} + '[')",
    }
    found = {
        name: gpu.run_process([sys.executable, "-c", script], 5 if name == "slow" else 60)
        for name, script in scripts.items()
    }
    for text, _ in found.values():
        assert gpu.figures_in(text) == {"first": {"seconds": 1.0}}
    assert found["good"][1] is None
    assert "cut off" in found["slow"][1] and "out of memory" in found["wrong"][1]


def test_results_are_written_after_every_part(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu, target, seen = load("gpu", monkeypatch), tmp_path / "gpu.json", []

    def process(command: list[str], seconds: float) -> tuple[str, str | None]:
        seen.append(json.loads(target.read_text())["parts"].keys() if target.exists() else set())
        name = command[command.index("--part") + 1] if "--part" in command else gpu.TESTS
        if name == "tiny sft":
            return "Traceback\nRuntimeError: no | memory", "status 1: RuntimeError: no | memory"
        if name == gpu.TESTS:
            return "4 passed in 3.1s\n", None
        return f"{gpu._MARK}{json.dumps(['', {'seconds': 0.25}])}\n", None

    monkeypatch.setattr(gpu, "run_process", process)
    parts = "tests,tiny decode,tiny sft,tiny dpo,tiny trl sft"
    told: dict[str, Any] = gpu.main(
        ["--device", "cpu", "--shape", "tiny", "--only", parts, "--output", str(target)]
    )
    assert json.loads(target.read_text()) == told
    assert list(told["parts"]) == ["tests", "tiny decode", "tiny sft", "tiny dpo", "tiny trl sft"]
    assert [len(names) for names in seen][:4] == [0, 1, 2, 3]
    assert told["parts"]["tiny sft"]["failed"].startswith("status 1")
    text = target.with_suffix(".md").read_text()
    assert "seconds 0.25" in text and "4 passed" in text and "no / memory" in text


def test_parts_that_there_is_no_time_for_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu = load("gpu", monkeypatch)
    at_toy_size = ["--device", "cpu", "--shape", "tiny", "--output", str(tmp_path / "gpu.json")]
    told = gpu.main([*at_toy_size, "--only", "tiny sft", "--seconds", "1"])
    assert told["parts"]["tiny sft"] == {
        "figures": {},
        "failed": "not begun: the 1.0 s of all parts are spent",
    }
    with pytest.raises(SystemExit, match="no part 'huge'"):
        gpu.main([*at_toy_size, "--only", "huge"])


def test_files_of_gpu_tests_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only they are collected: others may need libraries that a GPU machine lacks."""
    names = {Path(name).name for name in load("gpu", monkeypatch).gpu_test_files()}
    assert {"test_graphs.py", "test_attention.py"} <= names and "test_rows.py" not in names
