"""`posttrain forgetting`: ledgers of runs, and what is refused before weights are loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import posttrain as pt
from posttrain.cli import main
from posttrain.cli.forgetting import task_named
from posttrain.errors import ConfigError
from posttrain.tasks.sorting import sorting

SMALL = ["num_examples=6", "num_prompts=3"]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    for seed in range(2):
        task = sorting(num_examples=16, num_numbers=2, seed=seed)
        pt.fit(pt.load("embedded"), pt.sft(task=task), steps=1, output=f"run{seed}")
    return ["run0", "run1"]


def test_each_run_gets_its_ledger_and_several_a_plot(runs: list[str], capsys: Any) -> None:
    old = ["--old", "arithmetic:num_steps=2,split=test", "--new", "sorting:num_numbers=2"]
    assert main(["forgetting", *runs, *old, "--before", "embedded", *SMALL]) == 0
    shown = capsys.readouterr().out
    assert "arithmetic" in shown and "new: sorting" in shown
    for run in runs:
        ledger = json.loads(Path(run, "forgetting.json").read_text())
        assert ledger["before"] == "embedded"
        assert ledger["old"][0]["difference"]["n"] == 6
        assert ledger["kl"]["forward"]["n"] == 3
    assert Path("runs/forgetting/pareto.svg").is_file()


def test_rows_are_suites_by_the_name_of_their_file(runs: list[str], capsys: Any) -> None:
    Path("poems.jsonl").write_text('{"text": "12 + 30 = 42"}\n' * 3)
    arguments = ["--rows", "poems.jsonl", "--before", "embedded", *SMALL]
    assert main(["forgetting", runs[0], *arguments]) == 0
    ledger = json.loads(Path(runs[0], "forgetting.json").read_text())
    assert [change["name"] for change in ledger["old"]] == ["poems"]
    assert ledger["kl"] is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["run0"],
        ["none", "--old", "sorting"],
        ["run0", "--old", "sortin"],
        ["run0", "--old", "sorting:num_numbers"],
        ["run0", "--old", "sorting", "num_exmples=3"],
    ],
)
def test_wrong_calls_are_refused(runs: list[str], arguments: list[str], capsys: Any) -> None:
    assert main(["forgetting", *arguments, "--before", "embedded"]) == 2
    assert not Path("run0/forgetting.json").exists()


def test_a_task_with_settings() -> None:
    task = task_named("arithmetic:num_steps=2,split=test")
    assert task.name == "arithmetic"
    assert task.settings == {"num_steps": 2, "split": "test"}
    with pytest.raises(ConfigError):
        task_named("arithmetic:two")
