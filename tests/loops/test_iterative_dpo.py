"""Iterative DPO and self-rewarding as whole runs on a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import checked, lines, stopped_and_resumed, tiny_model, told, weights

from posttrain.errors import ConfigError, DataError

TASK = {"name": "arithmetic", "num_examples": 12, "num_steps": 1}
ROUNDS: dict[str, Any] = {
    "method": "iterative_dpo",
    "task": TASK,
    "rewards": [{"name": "keyword", "words": list("aeimqu0369")}],
    "batch_size": 4,
    "num_generations": 3,
    "num_rounds": 2,
    "sampling": {"max_tokens": 8},
    "learning_rate": 1e-3,
}
OWN = {**ROUNDS, "rewards": [{"name": "judge", "levels": 3, "instruction": "Judge."}]}


@pytest.mark.parametrize("raw", [ROUNDS, OWN], ids=["rewards", "own judge"])
def test_resume_is_exact(
    raw: dict[str, Any], run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    model = tiny_model(tiny_folder)
    whole, half = stopped_and_resumed(run_recipe, tmp_path, 4, **raw, model=model)
    assert weights(whole) == weights(half) and told(whole) == told(half)
    assert (whole / "rollouts.jsonl").read_text() == (half / "rollouts.jsonl").read_text()
    assert len(told(whole)) == 6 and sum(m["pairs/trained"] for m in told(whole)) > 0


def test_the_judge_is_the_model_as_the_round_starts(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    """A fast learner and one that stands still give equal rewards in the first round, to equal
    completions; later a text that both write is judged by other weights.
    """
    rounds = []
    for rate in (1e-2, 1e-12):
        raw = {**OWN, "learning_rate": rate, "output": str(tmp_path / str(rate))}
        folder = run_recipe(**raw, model=tiny_model(tiny_folder))
        rows = [lines(folder / f"round-{n}" / "rows.jsonl") for n in (1, 2)]
        rewards = [[[c["reward"] for c in row["completions"]] for row in part] for part in rows]
        rounds.append(rewards)
    (first, second), (still_first, still_second) = rounds
    assert first == still_first and second != still_second


def test_rounds_learn_from_the_best_against_the_worst(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    raw = {**ROUNDS, "num_rounds": 3, "learning_rate": 1e-2}
    metrics = told(run_recipe(**raw, model=tiny_model(tiny_folder)))
    margins = [m["rewards/margins"] for m in metrics if "rewards/margins" in m]
    assert margins[0] == pytest.approx(0.0, abs=1e-4) and max(margins) > 0.01


@pytest.mark.parametrize(
    "change",
    [
        {"num_rounds": 0},
        {"num_generations": 1},
        {"sampling": {"temperature": 0.0}},
        {"rewards": [{"name": "judge", "levels": 1}]},
    ],
)
def test_what_cannot_work_is_refused(
    tmp_path: Path, tiny_folder: Path, change: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError):
        checked(tmp_path, tiny_folder, **{**ROUNDS, **change})


def test_a_round_without_a_pair_is_an_error(
    run_recipe: Callable[..., Path], tiny_folder: Path
) -> None:
    raw = {**ROUNDS, "rewards": [{"name": "keyword", "words": ["never written"]}]}
    with pytest.raises(DataError):
        run_recipe(**raw, model=tiny_model(tiny_folder))
