"""Several runs on one page."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from posttrain.cli import main
from posttrain.errors import DataError
from posttrain.report.comparison import compared
from posttrain.report.html import write_report
from posttrain.report.run_folder import read_run


@pytest.fixture
def two(tmp_path: Path, fake: ModuleType) -> list[Path]:
    folders = [tmp_path / name for name in ("low", "high")]
    for i, folder in enumerate(folders):
        fake.write_lines(folder / "metrics.jsonl", fake.metrics(20, rl=True, seed=i))
        rate = 10.0 ** -(4 + i)
        (folder / "recipe.yaml").write_text(f"method: grpo\nlearning_rate: {rate}\noutput: {i}\n")
    return folders


def test_one_chart_with_a_line_per_run(two: list[Path]) -> None:
    path = write_report(two)
    assert path == two[0].parent / "comparison.html"
    text = path.read_text()
    charts = [part for part in text.split("<figure") if "<figcaption>reward<" in part]
    assert len(charts) == 1
    assert ">low</li>" in charts[0] and ">high</li>" in charts[0]


def test_the_table_holds_means_of_the_last_steps(two: list[Path]) -> None:
    runs = [(folder.name, read_run(folder)) for folder in two]
    _, results, recipes = compared(runs)
    rewards = [row["reward"] for row in runs[0][1].metrics[-5:]]
    assert f'data-label="reward">{sum(rewards) / 5:.3g}<' in results
    assert "learning_rate" in recipes and ">output<" not in recipes


def test_alike_names_are_told_apart(tmp_path: Path, fake: ModuleType) -> None:
    folders = [tmp_path / name / "grpo" for name in ("a", "b")]
    for folder in folders:
        fake.write_lines(folder / "metrics.jsonl", fake.metrics(3, rl=True))
    text = write_report(folders, tmp_path / "both.html").read_text()
    assert "<h1>a/grpo and b/grpo</h1>" in text


def test_stages_of_pipelines_are_compared(folder: Path, two: list[Path]) -> None:
    text = write_report([folder, two[0]], folder.parent / "c.html").read_text()
    assert ">quickstart/grpo</li>" in text and ">low</li>" in text


def test_one_folder_named_twice_is_one_run(two: list[Path]) -> None:
    assert write_report([two[0], two[0]]) == two[0] / "report.html"


def test_a_folder_without_a_run_is_named(two: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing"):
        write_report([two[0], tmp_path / "missing"])


def test_the_command_takes_several_folders(
    two: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    target = two[0].parent / "page.html"
    assert main(["report", *map(str, two), "--output", str(target)]) == 0
    assert ">low</li>" in target.read_text() and str(target) in capsys.readouterr().out
    assert main(["report", str(two[0])]) == 0
    assert (two[0] / "report.html").is_file()
