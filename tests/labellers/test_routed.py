"""Routing by confidence, doubt by the small model, and what both cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from posttrain.errors import ConfigError
from posttrain.labellers.base import Cost, Label, Labeller, Question, Row, labeller_of
from posttrain.labellers.routed import Checked, free_al, noise_al, routed
from posttrain.labellers.written import Written

ROWS: list[Row] = [{"id": str(i), "text": f"t{i}"} for i in range(4)]


class Says(Labeller):
    """Fixed answers by row, at a fixed cost."""

    def __init__(self, values: str, sure: Sequence[float], money: float) -> None:
        self.values, self.sure, self.money = values, sure, money
        self.asked: list[str] = []

    def label(self, rows: Sequence[Row], question: Question) -> list[Label | None]:
        self.asked += [row["id"] for row in rows]
        return [
            Label(self.values[int(r["id"])], Cost(self.money), self.sure[int(r["id"])])
            for r in rows
        ]


def test_routing_keeps_sure_labels_and_repairs_the_others() -> None:
    cheap, dear = Says("xyxy", [0.9, 0.5, 0.8, 0.0], 1.0), Says("yyyy", [1.0] * 4, 10.0)
    labels = routed(first=cheap, second=dear, threshold=0.8).label(ROWS, Question("label"))
    assert [a.value for a in labels if a] == ["x", "y", "x", "y"]
    assert dear.asked == ["1", "3"]
    assert [a.cost.money for a in labels if a] == [1.0, 11.0, 1.0, 11.0]


def test_a_doubted_label_is_repaired() -> None:
    cheap, dear = Says("xxxx", [1.0] * 4, 1.0), Says("yyyy", [1.0] * 4, 10.0)
    made = noise_al(first=cheap, second=dear, threshold=0.7)
    question = Question(
        "label", ("x", "y"), predict=lambda rows: (["x", "y", "y", "x"], [0.9, 0.9, 0.5, 0.9])
    )
    labels = made.label(ROWS, question)
    assert dear.asked == ["1"] and [a.value for a in labels if a] == ["x", "y", "x", "x"]
    untrained = made.label(ROWS, Question("label", ("x", "y")))
    assert [a.value for a in untrained if a] == ["x"] * 4  # no small model, no doubt


def test_free_al_asks_again_with_clean_rows() -> None:
    class Adviser:
        tokens = 0

        def __init__(self) -> None:
            self.asked: list[list[Any]] = []

        def answers(self, questions: Sequence[Any], **settings: Any) -> list[list[str]]:
            self.asked.append(list(questions))
            return [["y"] if "Class: x" in q else ["x"] for q in questions]

    adviser: Any = Adviser()
    made = free_al(first=Written(adviser, num_demonstrations=2))
    question = Question("label", ("x", "y"), predict=lambda rows: (["x", "y", "x", "x"], [0.9] * 4))
    labels = made.label(ROWS, question)
    assert [a.value for a in labels if a] == ["x", "y", "x", "x"]
    assert len(adviser.asked) == 2 and len(adviser.asked[1]) == 1
    assert "t0" in adviser.asked[1][0]


def test_what_is_refused() -> None:
    says = Says("x", [1.0], 1.0)
    with pytest.raises(ConfigError):
        routed(first=says, second="oracle", threshold=2.0)
    with pytest.raises(ConfigError):
        routed(first=says, second="file")  # it would be paid again
    with pytest.raises(ConfigError):
        free_al(first=says)
    with pytest.raises(ConfigError):
        Checked(says, None, 0.5).check(Question("completion"))
    with pytest.raises(ConfigError):
        noise_al(first="file", second="oracle").check(Question("label", ("x", "y")))


def test_labellers_within_a_labeller_are_named_as_in_a_recipe() -> None:
    made, name = labeller_of(
        {"name": "routed", "first": {"name": "oracle", "noise": 0.2}, "second": "oracle"}
    )
    assert made.is_oracle and name.startswith("routed(first=")
    with pytest.raises(ConfigError):
        labeller_of({"name": "routed", "first": {"name": "oracle", "noize": 0.2}, "second": "file"})
