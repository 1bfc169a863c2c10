"""A model's labels, with a scripted adviser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from posttrain.errors import ConfigError
from posttrain.labellers.base import Question
from posttrain.labellers.written import Written, llmaaa, model

LABELS = ("sport", "sports car", "news")


class Scripted:
    """Gives the same answers to each question and remembers the questions."""

    def __init__(self, *answers: str) -> None:
        self.script, self.tokens, self.asked = list(answers), 0, []  # type: ignore[var-annotated]

    def answers(self, questions: Sequence[Any], **settings: Any) -> list[list[str]]:
        self.asked += list(questions)
        self.tokens += 10 * len(questions)
        return [self.script for _ in questions]


def written(*answers: str, **settings: Any) -> Written:
    adviser: Any = Scripted(*answers)
    settings = {"num_samples": len(answers), "temperature": 1.0, **settings}
    return Written(adviser, **settings)


def test_votes_and_cost() -> None:
    made = written(" News.", "it is sport", "news, I think", money_per_million_tokens=1000.0)
    (label,) = made.label([{"id": "a", "text": "t"}], Question("label", LABELS))
    assert label is not None and label.value == "news"
    assert label.confidence == pytest.approx(2 / 3)
    assert label.cost.tokens == 10 and label.cost.money == pytest.approx(0.01)


def test_the_longest_class_at_a_place_and_none() -> None:
    question = Question("label", LABELS)
    (label,) = written("sports car").label([{"id": "a", "text": "t"}], question)
    assert label is not None and label.value == "sports car" and label.confidence is None
    (label,) = written("who knows").label([{"id": "a", "text": "t"}], question)
    assert label is not None and label.value is None


def test_a_prompt_is_completed_where_a_label_is_a_text() -> None:
    made = written("four ")
    (label,) = made.label([{"id": "a", "prompt": "2+2="}], Question("completion"))
    assert label is not None and label.value == "four"
    assert made.adviser.asked == ["2+2="]  # type: ignore[attr-defined]


def test_the_nearest_rows_are_shown_the_nearest_last() -> None:
    places = {"near": [1.0, 0.0], "middle": [1.0, 1.0], "far": [0.0, 1.0], "asked": [1.0, 0.1]}
    question = Question(
        "label",
        ("x", "y"),
        labelled=[{"text": name, "label": "x"} for name in ("far", "near", "middle")],
        embed=lambda rows: np.array([places[row["text"]] for row in rows]),
    )
    made = written("x", num_demonstrations=2, nearest=True)
    made.label([{"id": "a", "text": "asked"}], question)
    (prompt,) = made.adviser.asked  # type: ignore[attr-defined]
    assert "far" not in prompt
    assert prompt.index("middle") < prompt.index("near") < prompt.index("asked")
    assert prompt.endswith("Class:")


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError):
        model()
    with pytest.raises(ConfigError):
        model(model="embedded", num_samples=3)
    with pytest.raises(ConfigError):
        llmaaa(model="embedded", num_demonstrations=-1)
