"""Several labellers: by confidence, or by what the small model says of a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from posttrain.errors import ConfigError
from posttrain.labellers.base import Cost, Label, Labeller, Question, Row, labeller_of
from posttrain.labellers.written import Written
from posttrain.registry import labellers


class Routed(Labeller):
    """The first labeller, and the second where the first is not sure enough."""

    def __init__(self, first: Labeller, second: Labeller, threshold: float) -> None:
        self.first, self.second, self.threshold = first, second, threshold
        self.repeats = first.repeats and second.repeats
        self.is_oracle = first.is_oracle or second.is_oracle

    def check(self, question: Question) -> None:
        self.first.check(question)
        self.second.check(question)

    def waiting(self) -> str:
        return self.second.waiting()

    def label(self, rows: Sequence[Row], question: Question) -> list[Label | None]:
        """Sure answers of the first, and of the second for the rest."""
        answers = self.first.label(rows, question)
        unsure = [place for place, a in enumerate(answers) if a is None or self._is_unsure(a)]
        repaired = self.second.label([rows[place] for place in unsure], question) if unsure else []
        for place, answer in zip(unsure, repaired, strict=True):
            answers[place] = _paid(answers[place], answer)
        return answers

    def _is_unsure(self, label: Label) -> bool:
        return label.value is None or (label.confidence or 0.0) < self.threshold


def _paid(before: Label | None, after: Label | None) -> Label | None:
    """The repaired label at the price of both; None where a person has not answered yet."""
    if after is None:
        return None
    return replace(after, cost=(before.cost if before else Cost()) + after.cost)


@labellers.register
def routed(*, first: Any, second: Any, threshold: float = 0.8) -> Labeller:
    """label = first(x) if its confidence >= threshold, else second(x): a cheap labeller with an
    expensive one behind it (HybridAL; CoAnnotating, arXiv 2310.15638).

    An answer without a confidence counts as unsure. A repaired label costs both. The second may be
    a file: rows that the first is unsure of are then asked of a person, and the first is asked
    again when the run goes on, so that one that is paid should not stand before a file.

    Args:
        first: the cheap labeller by name, as {name: model, model: ..., num_samples: 5}, or itself.
        second: the one that repairs, such as oracle.
        threshold: least confidence of the first.
    """
    if not 0 <= threshold <= 1:
        raise ConfigError(f"routed: threshold is {threshold}; a confidence is from 0 to 1")
    one, other = labeller_of(first)[0], labeller_of(second)[0]
    if _waits(other) and not one.repeats:
        raise ConfigError(
            "routed: the first labeller would be paid again when a run that waits for the file "
            "goes on; let a person label alone, or repair with another labeller"
        )
    return Routed(one, other, threshold)


def _waits(labeller: Labeller) -> bool:
    return type(labeller).waiting is not Labeller.waiting


class Checked(Labeller):
    """A model's label, checked by the small model, and repaired where they differ."""

    def __init__(self, first: Labeller, repair: Labeller | None, threshold: float) -> None:
        self.first, self.repair, self.threshold = first, repair, threshold
        self.is_oracle = first.is_oracle or (repair is not None and repair.is_oracle)

    def check(self, question: Question) -> None:
        """As of both labellers; a person cannot stand here."""
        for labeller in (self.first, *([] if self.repair is None else [self.repair])):
            labeller.check(question)
            if _waits(labeller):
                raise ConfigError("a person's file cannot stand here; use routed, or file alone")
        if not question.labels:
            raise ConfigError("this labeller compares classes; labels here are texts")

    def label(self, rows: Sequence[Row], question: Question) -> list[Label | None]:
        """Answers of the first, repaired where the small model doubts them."""
        answers = self.first.label(rows, question)
        if question.predict is None:  # the first round has no small model
            return answers
        predicted, confidences = question.predict(rows)
        doubted = [
            place
            for place, a in enumerate(answers)
            if a is None
            or a.value is None
            or (str(a.value) != predicted[place] and confidences[place] >= self.threshold)
        ]
        clean = [
            {**row, question.column: a.value}
            for place, (row, a) in enumerate(zip(rows, answers, strict=True))
            if place not in doubted and a is not None
        ]
        asked = [rows[place] for place in doubted]
        for place, answer in zip(doubted, self._again(asked, question, clean), strict=True):
            answers[place] = _paid(answers[place], answer)
        return answers

    def _again(
        self, rows: Sequence[Row], question: Question, clean: Sequence[Row]
    ) -> Sequence[Label | None]:
        if not rows:
            return []
        if self.repair is not None:
            return self.repair.label(rows, question)
        assert isinstance(self.first, Written)
        return self.first.labelled(rows, question, [*clean, *question.labelled])


@labellers.register
def free_al(*, first: Any, threshold: float = 0.7) -> Labeller:
    """No person: a model labels, the small model doubts, the model labels again with clean rows as
    demonstrations: FreeAL (arXiv 2311.15614) in short.

    A label is doubted where the small model predicts another class with confidence >= threshold.
    The paper's small model finds clean rows by their loss and is trained robustly.

    Args:
        first: a labeller that is a model, with num_demonstrations of at least 1.
        threshold: least confidence of a doubt.
    """
    made = labeller_of(first)[0]
    if not isinstance(made, Written) or made.num_demonstrations < 1:
        raise ConfigError(
            "free_al: first must be a model with num_demonstrations of at least 1, such as "
            "{name: model, model: ..., num_demonstrations: 4}"
        )
    return Checked(made, None, threshold)


@labellers.register
def noise_al(*, first: Any, second: Any, threshold: float = 0.7) -> Labeller:
    """A small language model labels, the small classifier finds noise, and a large one repairs it:
    NoiseAL in short (described in arXiv 2502.11767, section 3.1.3).

    A label is noise where the classifier predicts another class with confidence >= threshold.

    Args:
        first: the cheap labeller.
        second: the one that repairs.
        threshold: least confidence of a doubt.
    """
    return Checked(labeller_of(first)[0], labeller_of(second)[0], threshold)
