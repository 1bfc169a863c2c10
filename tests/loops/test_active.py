"""`pt.active` on a tiny model: all selectors of classes, resume, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import posttrain as pt
from posttrain.errors import CheckpointError, ConfigError, DataError
from posttrain.evaluation.learning_curves import read_active
from posttrain.learners.classes import ClassLearner
from posttrain.training.ending import Interrupted

QUIET = Console(quiet=True)
WORDS = {"fruit": ["apple", "plum", "pear"], "tool": ["saw", "drill", "axe"]}


def rows(num: int, seed: int = 0) -> list[dict[str, str]]:
    draw = np.random.default_rng(seed)
    names = [("fruit", "tool")[n % 2] for n in range(num)]
    return [{"text": f"{draw.choice(WORDS[n])} {draw.integers(99)}", "label": n} for n in names]


def active(model: Path | str, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "data": rows(24),
        "eval_data": rows(10, 1),
        "num_initial": 4,
        "rows_per_round": 3,
        "num_rounds": 1,
        "training": {"steps": 1, "learning_rate": 3e-3},
        "num_samples": 3,
        "console": QUIET,
    }
    settings = {**values, **changes}
    return pt.active(str(model), settings.pop("data"), **settings)


def test_curves_files_and_models(tiny_folder: Path, tmp_path: Path) -> None:
    result = active(tiny_folder, selectors=["random", "badge"], output=tmp_path / "run")
    assert result.selectors == ["random", "badge"] and result.is_oracle
    assert {tuple(curve.num_labels) for curve in result.curves} == {(4, 7)}
    assert len({curve.scores[0] for curve in result.curves}) == 1  # the same first rows
    assert "oracle" in str(result) and result.area("badge").n == 1
    assert read_active(tmp_path / "run").curves == result.curves
    assert (tmp_path / "run" / "active.svg").read_text().startswith("<svg")
    assert (tmp_path / "run" / "seed-0" / "2-badge" / "model" / "config.json").is_file()


def test_seeds_are_paired_and_a_run_goes_on(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"selectors": ["entropy", "random"], "num_seeds": 2}
    whole = active(tiny_folder, **options)
    (compared,) = whole.compare()
    assert compared.selector == "entropy" and compared.area.n == 2

    real, trained = ClassLearner.train, []

    def stop(self: Any, some: Any, seed: int) -> None:
        trained.append(seed)
        if len(trained) == 4:
            raise KeyboardInterrupt
        real(self, some, seed)

    monkeypatch.setattr(ClassLearner, "train", stop)
    with pytest.raises(Interrupted):
        active(tiny_folder, output=tmp_path / "run", **options)
    again = active(tiny_folder, output=tmp_path / "run", resume=True, **options)
    assert again.curves == whole.curves
    with pytest.raises(CheckpointError):
        active(tiny_folder, data=rows(25), output=tmp_path / "run", resume=True, **options)


def test_a_function_a_strategy_and_a_cold_start(tiny_folder: Path) -> None:
    class First:
        def query(self, X: Any, y: Any, candidates: Any = None, batch_size: int = 1) -> Any:
            return candidates[:batch_size]

    def last(num_candidates: int, num: int) -> Any:
        return list(range(num_candidates))[-num:]

    asked: list[str] = []

    def mine(some: Any) -> list[str]:
        asked.extend(row["id"] for row in some)
        return [row["label"] for row in some]

    active(tiny_folder, selectors=[First(), last], labeller=mine, cold_start="kmeans")
    assert len(asked) == len(set(asked)) and 7 <= len(asked) <= 10  # the first rows are shared
    assert {"22", "23", "24"} & set(asked)


def test_a_person(tiny_folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "data": [{"text": row["text"]} for row in rows(24)],
        "labels": ["fruit", "tool"],
        "selectors": ["entropy"],
        "labeller": "file",
        "output": tmp_path / "run",
    }
    with pytest.raises(Interrupted):
        active(tiny_folder, **options)
    file = tmp_path / "run" / "to_label.jsonl"
    gold = [row["label"] for row in rows(24)]
    for _ in range(2):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            line["label"] = gold[int(line["id"]) - 1]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        try:
            result = active(tiny_folder, resume=True, **options)
        except Interrupted:
            continue
    assert list(result.curves[0].num_labels) == [4, 7] and not result.is_oracle


def test_an_adviser_writes_rows(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain.labellers.adviser import Adviser

    def answers(self: Any, questions: Any, **settings: Any) -> list[list[str]]:
        return [[f"new saw {number * 7}"] for number, _ in enumerate(questions)]

    monkeypatch.setattr(Adviser, "answers", answers)

    def newest(texts: Any, num: int) -> Any:
        return [place for place, text in enumerate(texts) if text.startswith("new")][:num]

    labelled: list[str] = []

    def tools(some: Any) -> list[str]:
        labelled.extend(row["text"] for row in some)
        return ["tool" if "saw" in row["text"] else row["label"] for row in some]

    active(
        tiny_folder,
        selectors=[newest],
        adviser=str(tiny_folder),
        num_proposals=2,
        labeller=tools,
    )
    assert sum(text.startswith("new saw") for text in labelled) >= 1


@pytest.mark.parametrize(
    "changes",
    [
        {"num_proposals": 3},
        {"selectors": []},
        {"selectors": ["entropy", "entropy"]},
        {"selectors": ["sequence_entropy"]},
        {"selectors": ["delta_ucb"]},
        {"selectors": ["ask_llm"]},
        {"selectors": ["nothing"]},
        {"labeller": "file"},
        {"labeller": {"name": "oracle", "noise": 2.0}},
        {"eval_data": None},
        {"training": {"max_stepz": 3}},
        {"num_initial": 0},
    ],
)
def test_what_is_refused_before_weights_load(
    tiny_folder: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.models.named import NamedModel

    def never(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(NamedModel, "load", never)
    monkeypatch.setattr(NamedModel, "load_scores", never)
    with pytest.raises(ConfigError):
        active(tiny_folder, **changes)


def test_rows_that_are_refused(tiny_folder: Path) -> None:
    with pytest.raises(DataError):
        active(tiny_folder, data=[{"id": "a", "text": "x"}, {"id": "a", "text": "y"}])
    with pytest.raises(DataError):
        active(tiny_folder, data=[{"label": "fruit"}])
    with pytest.raises(ConfigError):
        pt.active(str(tiny_folder), eval_data=rows(4), console=QUIET)
