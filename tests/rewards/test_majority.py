"""The vote of completions as their reward."""

from __future__ import annotations

import pytest

from posttrain.errors import ConfigError
from posttrain.rewards.majority import majority
from posttrain.types import Example, Task

TASK = Task("t", [Example("p", id="p")], lambda text, e: 0.0, lambda text: text.strip() or None)


def test_the_most_frequent_answer_of_each_prompt_wins() -> None:
    examples = [Example("p", id="p")] * 4 + [Example("q", id="q")] * 3
    texts = ["1", "2", " 2 ", "", "5", "6", "6"]
    assert majority(texts, examples, TASK) == [0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]


def test_of_a_tie_the_first_wins_and_no_answer_wins_nothing() -> None:
    examples = [Example("p", id="p")] * 2 + [Example("q", id="q")] * 2
    assert majority(["1", "2", "", " "], examples, TASK) == [1.0, 0.0, 0.0, 0.0]


def test_an_unsure_vote_has_no_reward() -> None:
    """Two of four agree: enough for a half, too little for three quarters."""
    examples = [Example("p")] * 4
    messages = [[{"role": "assistant", "content": x}] for x in ("1", "1", "2", "3")]
    assert majority(messages, examples, TASK, min_share=0.5) == [1.0, 1.0, 0.0, 0.0]
    assert majority(messages, examples, TASK, min_share=0.75) == [None] * 4


@pytest.mark.parametrize("settings", [{"min_share": 1.5}, {"min_share": -0.1}])
def test_wrong_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        majority(["1"], [Example("p")], TASK, **settings)
    with pytest.raises(ConfigError):
        majority(["1"], [Example("p")], None)
