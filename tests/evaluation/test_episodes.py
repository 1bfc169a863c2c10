"""Evaluations by episodes: verdicts, rewards of the environment, failures, and their record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from posttrain.evaluation.comparison import unlikeness
from posttrain.evaluation.episodes import measure_episodes, transcript
from posttrain.evaluation.outcomes import Evaluation
from posttrain.sources.episodes import EpisodeSampler
from posttrain.types import Example, Request, Sample, Sampling, Task, Trace, Turn


class Echo:
    """Every completion is one token, the last of its prompt."""

    weights_version = 0

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        return [[Sample([r.prompt_ids[-1]], [0.0], [0.0], "stop")] * r.n for r in requests]


async def two_turns(example: Example, ask: Any, tools: Sequence[Any]) -> Trace:
    """Says "1 2" twice; the reward is the example's `worth`. The example "broken" fails."""
    if example.id == "broken":
        raise RuntimeError("the board is gone")
    turns = []
    for number in range(2):
        (sample,) = await ask((1, 2), Sampling(max_tokens=4))
        said = [{"role": "user", "content": "again"}] if number else []
        turns.append(Turn((1, 2), sample, f"text {number}", messages=said))
    worth = example.columns["worth"]
    return Trace(turns, rewards={} if worth is None else {"environment": worth})


def measured(worths: Sequence[float | None], *, scored: bool, **more: Any) -> Evaluation:
    examples = [
        Example("?", None, "text 1" if i == 0 else "other", {"worth": worth}, id=f"q{i}")
        for i, worth in enumerate(worths)
    ]
    examples += more.pop("examples", [])
    task = Task(
        "two",
        examples,
        lambda text, e: float(text == e.answer),
        lambda text: text,
        unscored="" if scored else "nothing grades",
    )
    return measure_episodes(
        Echo(),  # type: ignore[arg-type]
        [(example, ()) for example in examples],
        task,
        EpisodeSampler(two_turns),
        environment="two turns",
        num_samples=2,
        sampling=Sampling(max_tokens=4),
        seed=1,
        **more,
    )


def test_the_task_grades_the_last_turn_where_it_can() -> None:
    result = measured([None, None], scored=True)
    assert [o.correct for o in result.outcomes] == [[1, 1], [0, 0]]
    assert result.outcomes[0].answers == ["text 1", "text 1"]
    assert result.reward() is None and "reward" not in result.metrics()


def test_else_a_reward_of_one_is_right() -> None:
    result = measured([1.0, 0.5, 0.0], scored=False)
    assert [o.correct for o in result.outcomes] == [[1, 1], [0, 0], [0, 0]]
    reward = result.reward()
    assert reward is not None and reward.estimate == pytest.approx(0.5)
    metrics = result.metrics()
    assert (metrics["mean_turns"], metrics["mean_tokens"]) == (2.0, 2.0)
    assert result.outcomes[0].answers == ["completed", "completed"]  # why it ended


def test_a_failed_episode_is_wrong_counted_and_without_a_reward() -> None:
    broken = Example("?", None, "text 1", {"worth": 1.0}, id="broken")
    result = measured([1.0, 1.0], scored=False, examples=[broken])
    assert result.outcomes[-1].correct == [0, 0] and result.errors == 2
    assert [o.rewards for o in result.outcomes] == [[1.0, 1.0], [1.0, 1.0], []]
    assert result.reward().estimate == 1.0  # type: ignore[union-attr]


def test_progress_counts_problems_whose_episodes_have_ended() -> None:
    seen: list[tuple[int, int]] = []
    measured([1.0, 0.0], scored=False, progress=lambda done, total: seen.append((done, total)))
    assert sorted(seen) == [(1, 2), (2, 2)]


def test_the_file_keeps_what_episodes_add() -> None:
    result = measured([1.0, 0.5], scored=False)
    again = Evaluation.from_json(json.loads(json.dumps(result.to_json())))
    assert again.to_json() == json.loads(json.dumps(result.to_json()))
    assert unlikeness(result, again) == []
    again.environment = None
    assert unlikeness(result, again) == ["environment: two turns and none"]


def test_a_transcript_has_all_turns_and_what_was_said_between() -> None:
    first = Turn((1,), Sample([2], [0.0], [0.0], "stop"), "a", messages=[{"content": "prompt"}])
    second = Turn((1, 2), Sample([3], [0.0], [0.0], "stop"), "b")
    second.messages = [{"role": "tool", "content": "42"}]
    assert transcript(Trace([first, second])) == "a\n[tool] 42\nb"
    assert transcript(Trace.of_text("alone")) == "alone"
