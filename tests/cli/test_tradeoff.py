"""`posttrain tradeoff`: a table, files, and a policy that `posttrain search` uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.cli import main
from posttrain.cli.tradeoff import budgets_of, strategy_of
from posttrain.errors import ConfigError

TASK = ["--task", "arithmetic", "num_examples=4", "task.num_steps=1", "task.num_examples=9"]


def test_texts_of_budgets_and_strategies() -> None:
    assert budgets_of("64, 256") == [64, 256]
    chosen = strategy_of("majority_vote:num_samples=3")
    assert (chosen.name, chosen.settings) == ("majority_vote", {"num_samples": 3})
    for text in ("", "a", "0", "1.5"):
        with pytest.raises(ConfigError):
            budgets_of(text)
    for text in ("majority_vot", "majority_vote:3"):
        with pytest.raises(ConfigError):
            strategy_of(text)


def test_a_table_and_a_policy(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    searches = ["--search", "sample", "--search", "majority_vote:num_samples=3"]
    command = ["tradeoff", str(tiny_folder), *searches, *TASK, "max_tokens=6"]
    assert main([*command, "--budgets", "8,20"]) == 0
    assert "majority vote of 3" in capsys.readouterr().out
    names = {path.name for path in Path("runs/tradeoff").iterdir()}
    assert names == {"tradeoff.json", "tradeoff.svg", "tradeoff.txt"}
    assert main([*command, "--budgets", "8,20"]) == 2  # the folder is taken
    assert main([*command, "--budgets", "8", "pilot=2", "--output", "other"]) == 2

    assert main([*command, "--budgets", "20", "--policy", "p.json", "pilot=2", "num_bins=2"]) == 0
    assert "cross-fitted" in capsys.readouterr().out
    use = ["search", str(tiny_folder), "--policy", "p.json", *TASK, "max_tokens=6"]
    assert main([*use, "--budget", "20"]) == 0
    assert "compute_optimal" in Path("runs/search/recipe.yaml").read_text()


def test_wrong_arguments_are_status_2(tiny_folder: Path) -> None:
    for words in (
        ["--budgets", "9"],
        ["--search", "sample"],
        ["--search", "sample", "--budgets", "9"],
    ):
        assert main(["tradeoff", str(tiny_folder), *words]) == 2
