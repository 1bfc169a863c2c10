"""Rows without answers: what does without them, and what says that it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import write

from posttrain.config import Component
from posttrain.errors import DataError
from posttrain.tasks.answers import missing_answers, refuse_missing_answers, refuse_unscored
from posttrain.tasks.rows import make_task
from posttrain.types import Example

NONE = [{"prompt": f"Q{i}"} for i in range(4)]
SOME = [{"prompt": "Q", "answer": "1"}, {"prompt": "Q", "id": "seven"}]


def test_missing_answers_are_counted() -> None:
    assert missing_answers([Example("Q", answer=0)]) == ""
    text = missing_answers(make_task(SOME).examples)
    assert "1 of 2 rows" in text and "seven" in text


@pytest.mark.parametrize(("rows", "count"), [(NONE, "4 of 4"), (SOME, "1 of 2")])
def test_what_needs_answers_says_how_many_are_missing(
    rows: list[dict[str, Any]], count: str
) -> None:
    task = make_task(rows)
    with pytest.raises(DataError, match=f"an evaluation .*{count} rows"):
        refuse_unscored(task, "an evaluation")
    for name in ("task", "exact", "math"):
        with pytest.raises(DataError, match=f"reward '{name}' .*{count} rows"):
            refuse_missing_answers(task, [Component("length"), Component(name)])
    with pytest.raises(DataError, match=f"{count} rows"):
        task.score("1", task.examples[0])
    refuse_missing_answers(task, [Component("length", {"target": 5})])


def test_an_own_reward_may_handle_rows_without_an_answer() -> None:
    def lenient(completions, answer):  # type: ignore[no-untyped-def]
        return [None if a is None else float(a in c) for c, a in zip(completions, answer)]

    refuse_missing_answers(make_task(SOME), [Component.of(lenient)])
    with pytest.raises(DataError, match=r"reward 'lenient' .*4 of 4 rows"):
        refuse_missing_answers(make_task(NONE), [Component.of(lenient)])


def test_an_own_score_needs_no_answer() -> None:
    task = make_task(NONE, score=lambda text, example: float(text == example.prompt))
    refuse_unscored(task, "an evaluation")
    refuse_missing_answers(task, [Component("task")])
    assert task.score("Q1", task.examples[1]) == 1.0


SAMPLED: dict[str, Any] = {"sampling": {"max_tokens": 4}, "batch_size": 2}


@pytest.mark.parametrize(
    "raw",
    [
        {"method": "grpo", "num_generations": 2, "max_steps": 1},
        {"method": "online_dpo", "max_steps": 1},
        {"method": "sample", "num_generations": 2, "keep_truncated": True},
    ],
    ids=lambda raw: raw["method"],
)
def test_methods_that_sample_need_prompts_alone(
    raw: dict[str, Any], run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    task = {"name": "jsonl", "path": write(tmp_path / "prompts.jsonl", NONE)}
    with pytest.raises(DataError, match=r"reward 'exact' .*4 of 4 rows"):
        run_recipe(**raw, **SAMPLED, task=task, rewards=["exact"])
    assert not (tmp_path / "run").exists()
    folder = run_recipe(**raw, **SAMPLED, task=task, rewards=[{"name": "length", "target": 3}])
    assert (folder / "metrics.jsonl").is_file()


def test_an_evaluation_without_answers_is_refused_before_weights_are_loaded(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    task = {"name": "jsonl", "path": write(tmp_path / "prompts.jsonl", NONE)}
    with pytest.raises(DataError, match=r"evaluation .*4 of 4 rows"):
        run_recipe(method="evaluate", evaluation={"task": task, "sampling": {"max_tokens": 4}})


def test_what_sft_recommends_for_prompts_works(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path = write(tmp_path / "prompts.jsonl", NONE)
    with pytest.raises(DataError, match=r"method grpo: task: .name: jsonl.*rewards: .*no answer"):
        run_recipe(method="sft", data=path, max_steps=1)
    answered = write(tmp_path / "answered.jsonl", [{**row, "answer": "1"} for row in NONE])
    with pytest.raises(DataError, match="method grpo") as caught:
        run_recipe(method="sft", data=answered, max_steps=1)
    assert "rewards" not in str(caught.value)
