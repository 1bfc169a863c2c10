"""The ledger: what was asked is known, whatever happens between question and answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from posttrain.errors import CheckpointError, ConfigError
from posttrain.labellers.base import Cost, Label, Labeller, Question, Row
from posttrain.labellers.ledger import Ledger

ROWS: list[Row] = [{"id": str(i)} for i in range(5)]
QUESTION = Question("label")


class Teacher(Labeller):
    def __init__(self, fails_at: int = 99, repeats: bool = False) -> None:
        self.asked: list[str] = []
        self.fails_at, self.repeats = fails_at, repeats

    def label(self, rows: Sequence[Row], question: Question) -> list[Label | None]:
        for row in rows:
            if len(self.asked) == self.fails_at:
                raise OSError("cut off")
            self.asked.append(row["id"])
        return [Label(f"of {row['id']}", Cost(2.0, 3, 0.25)) for row in rows]


def test_answers_are_kept_and_costs_add_up(tmp_path: Path) -> None:
    ledger, teacher = Ledger(tmp_path / "l.jsonl"), Teacher()
    labels = ledger.ask(ROWS[:3], teacher, QUESTION)
    assert [label.value for label in labels if label] == ["of 0", "of 1", "of 2"]
    again = Ledger(tmp_path / "l.jsonl")
    assert again.ask(ROWS, teacher, QUESTION)[4] == Label("of 4", Cost(2.0, 3, 0.25))
    assert teacher.asked == ["0", "1", "2", "3", "4"]
    assert again.spent == Cost(10.0, 15, 1.25)


def test_a_cut_off_question_is_lost_or_asked_again(tmp_path: Path) -> None:
    for repeats in (False, True):
        file = tmp_path / f"{repeats}.jsonl"
        teacher = Teacher(fails_at=2, repeats=repeats)
        with pytest.raises(OSError):
            Ledger(file).ask(ROWS, teacher, QUESTION, at_a_time=1)
        teacher.fails_at = 99
        ledger = Ledger(file)
        values = [label and label.value for label in ledger.ask(ROWS, teacher, QUESTION)]
        if repeats:
            assert values == [f"of {i}" for i in range(5)] and not ledger.lost
        else:
            assert values == ["of 0", "of 1", None, "of 3", "of 4"] and ledger.lost == ["2"]
            assert len(teacher.asked) == len(set(teacher.asked))


def test_runs_that_share_a_ledger_pay_once(tmp_path: Path) -> None:
    known, teacher = Ledger(tmp_path / "all.jsonl"), Teacher()
    Ledger().ask(ROWS[:3], teacher, QUESTION, known=known)
    other = Ledger(tmp_path / "other.jsonl")
    labels = other.ask(ROWS, teacher, QUESTION, known=known)
    assert [label and label.value for label in labels] == [f"of {i}" for i in range(5)]
    assert teacher.asked == ["0", "1", "2", "3", "4"]
    assert other.spent == Cost(10.0, 15, 1.25) == Ledger(tmp_path / "all.jsonl").spent
    teacher.fails_at = 5
    with pytest.raises(OSError):
        Ledger().ask([{"id": "x"}], teacher, QUESTION, known=known)
    teacher.fails_at = 99
    (label,) = Ledger().ask([{"id": "x"}], teacher, QUESTION, known=known)
    assert label is not None and label.value is None and "x" not in teacher.asked
    teacher.repeats = True
    Ledger().ask(ROWS[:1], teacher, QUESTION, known=known)
    assert teacher.asked[-1] == "0"


def test_a_wrong_number_of_answers_and_a_broken_file(tmp_path: Path) -> None:
    class Short(Labeller):
        def label(self, rows: Sequence[Row], question: Question) -> list[Label | None]:
            return []

    with pytest.raises(ConfigError):
        Ledger().ask(ROWS, Short(), QUESTION)
    (tmp_path / "l.jsonl").write_text("{")
    with pytest.raises(CheckpointError):
        Ledger(tmp_path / "l.jsonl")
