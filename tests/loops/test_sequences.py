"""Methods side by side: the same runs as `continual`, a kill, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import posttrain as pt
from posttrain.config import Component, EvaluationConfig
from posttrain.errors import ConfigError
from posttrain.evaluation.sequences import Sequences
from posttrain.loops import continual as sequence
from posttrain.tasks.sorting import sorting

TASKS = {
    "two": sorting(num_examples=8, num_numbers=2),
    "three": sorting(num_examples=8, num_numbers=3),
}
METHODS: list[Any] = ["naive", {"name": "l2_to_stages", "weight": 2.0}]


def table(model: Path, **more: Any) -> Sequences:
    plans = {
        name: pt.sft(task=task, batch_size=4, learning_rate=1e-2) for name, task in TASKS.items()
    }
    options = {"steps": 1, "num_examples": 2, "num_seeds": 2, "retentions": METHODS, **more}
    return pt.continual_table(str(model), plans, **options)


def test_each_run_is_a_sequence_of_its_own(tiny_folder: Path, tmp_path: Path) -> None:
    result = table(tiny_folder, output=tmp_path / "out", others={"old": TASKS["two"]})
    assert list(result.scores) == ["naive", "l2_to_stages(weight=2.0)"]
    assert result.seeds == [0, 1] and result.stages == ["two", "three"]
    plans = {n: pt.sft(task=t, batch_size=4, learning_rate=1e-2) for n, t in TASKS.items()}
    alone = pt.continual(
        str(tiny_folder), plans, retention=METHODS[1], steps=1, num_examples=2, seed=1000
    )
    assert result.scores["l2_to_stages(weight=2.0)"][1] == alone.scores.tolist()
    assert [len(rows) for rows in result.others["naive"]["old"]] == [3, 3]
    place = tmp_path / "out" / "l2_to_stages-weight=2.0" / "seed-1"
    assert (place / "model").is_dir() and not (place / "two" / "run").exists()
    assert (tmp_path / "out" / "sequences.txt").is_file()
    assert (tmp_path / "out" / "accuracy-naive.svg").is_file()


def test_a_loaded_model_stays_as_it_is(tiny_folder: Path) -> None:
    model = pt.load(str(tiny_folder), dtype="float32")
    before = [p.clone() for p in model.hf.parameters()]
    plans = {"two": pt.sft(task=TASKS["two"], batch_size=4, learning_rate=1e-2)}
    pt.continual_table(model, plans, retentions=["naive"], num_seeds=1, steps=1, num_examples=1)
    assert all((a == b).all() for a, b in zip(before, model.hf.parameters(), strict=True))


@pytest.mark.parametrize("number", [2, 5, 9])
def test_a_kill_is_resumed_exactly(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    whole = table(tiny_folder, output=tmp_path / "whole")

    class Killed(BaseException):
        pass

    real, calls = sequence._Sequence._measured, {"n": 0}

    def killed(*arguments: Any) -> Any:
        calls["n"] += 1
        if calls["n"] == number:
            raise Killed
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sequence._Sequence, "_measured", killed)
        with pytest.raises(Killed):
            table(tiny_folder, output=tmp_path / "half")
    half = table(tiny_folder, output=tmp_path / "half", resume=True)
    assert half == whole


def test_settings_and_suites_of_a_stage(tiny_folder: Path, tmp_path: Path) -> None:
    suite = EvaluationConfig(task=Component("sorting"), num_examples=3, num_samples=2)
    table(
        tiny_folder,
        output=tmp_path,
        retentions=["naive"],
        num_seeds=1,
        keep_models=True,
        suites={"two": suite},
        of_stage={"two": {"steps": 3, "weight_decay": 0.1}},
    )
    run = tmp_path / "naive" / "seed-0" / "two"
    assert len((run / "run" / "metrics.jsonl").read_text().splitlines()) >= 3
    assert "weight_decay: 0.1" in (run / "run" / "recipe.yaml").read_text()
    assert '"num_samples": 2' in (run / "evaluation-two.json").read_text()


@pytest.mark.parametrize(
    "settings",
    [
        {"retentions": []},
        {"retentions": ["naive", "naive"]},
        {"retentions": ["ewcc"]},
        {"num_seeds": 0},
        {"of_stage": {"four": {}}},
    ],
)
def test_wrong_calls_are_refused(tiny_folder: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        table(tiny_folder, **settings)
