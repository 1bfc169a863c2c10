"""Costs, labels, and labellers by name, object and function."""

from __future__ import annotations

import pytest

from posttrain.errors import ConfigError
from posttrain.labellers.base import Called, Cost, Label, Question, labeller_of
from posttrain.labellers.given import Oracle

ROWS = [{"id": "a", "label": "x"}, {"id": "b", "label": "y"}]
QUESTION = Question("label", ("x", "y"))


def test_costs_add_up_and_are_shown() -> None:
    total = Cost(1.5, 10, 0.5) + Cost(0.5, 5, 1.0)
    assert total == Cost(2.0, 15, 1.5)
    assert str(total) == "2.00 money, 15 tokens, 1.5 minutes" and str(Cost()) == "nothing"


def test_a_label_there_and_back() -> None:
    label = Label("x", Cost(1.0, 2, 3.0), 0.5, "model")
    assert Label.read(label.record()) == label


def test_who_labels() -> None:
    made, name = labeller_of({"name": "oracle", "minutes_per_row": 0.5})
    assert isinstance(made, Oracle) and name == "oracle(minutes_per_row=0.5)" and made.is_oracle
    assert labeller_of(made) == (made, "Oracle")
    called, name = labeller_of(lambda rows: [Label("x", Cost(1.0)), None])
    assert isinstance(called, Called) and name == "lambda"
    answers = called.label(ROWS, QUESTION)
    assert answers[0] == Label("x", Cost(1.0)) and answers[1] is not None
    assert answers[1].value is None


@pytest.mark.parametrize("labeller", ["nobody", {"name": "oracle", "prise": 2}])
def test_unknown_labellers(labeller: object) -> None:
    with pytest.raises(ConfigError):
        labeller_of(labeller)  # type: ignore[arg-type]


def test_a_function_answers_for_each_row() -> None:
    with pytest.raises(ConfigError):
        Called(lambda rows: []).label(ROWS, QUESTION)
