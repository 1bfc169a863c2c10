"""When the rounds of active learning end, and how rows are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.component import Component
from posttrain.labellers.base import Cost


@dataclass(frozen=True, slots=True)
class Budget:
    """When the rounds end. 0 switches a rule off.

    Attributes:
        num_rounds: of selection, after the first rows.
        max_labels: rows that are asked about. max_money, max_tokens, max_minutes: the round in
            which the cost reaches the bound is the last.
        plateau_rounds: end where the mean gain of this many rounds is below plateau_gain.
        stable_share: end where the predictions of two rounds agree on this share of the pool.
    """

    num_rounds: int = 5
    max_labels: int = 0
    max_money: float = 0.0
    max_tokens: int = 0
    max_minutes: float = 0.0
    plateau_rounds: int = 0
    plateau_gain: float = 0.005
    stable_share: float = 0.0

    def reason(self, number: int, scores: Sequence[float], spent: Cost, agreement: float) -> str:
        """Why the rounds end after this one; "" where they go on."""
        bounds = (
            ("money", spent.money, self.max_money),
            ("tokens", spent.tokens, self.max_tokens),
            ("minutes", spent.minutes, self.max_minutes),
        )
        for name, value, bound in bounds:
            if bound and value >= bound:
                return f"the budget of {bound:g} {name} is spent"
        if self.plateau_rounds and len(scores) > self.plateau_rounds:
            gain = (scores[-1] - scores[-1 - self.plateau_rounds]) / self.plateau_rounds
            if gain < self.plateau_gain:
                return f"plateau: the last {self.plateau_rounds} rounds gained {gain:+.3f} each"
        if self.stable_share and agreement >= self.stable_share:
            return f"stable: {agreement:.1%} of the predictions stayed"
        return f"all {self.num_rounds} rounds are done" if number >= self.num_rounds else ""


@dataclass(frozen=True, slots=True)
class Choice:
    """How rows are chosen.

    Attributes:
        selector: what chooses. name: in words. cold_start: chooses the first rows.
        num_initial: first rows. rows_per_round: of every later round.
        prune: chooses the part of the pool that is scored, prune_share of it, where there is one.
        num_candidates: rows that are scored in a round, drawn at random; 0 = all.
        min_confidence: labels below it are not learnt from.
        questions_at_a_time: rows of one question to the labeller.
        num_proposals: rows that the adviser writes in each later round, beside those of the pool.
    """

    selector: Component
    name: str
    cold_start: Component
    num_initial: int
    rows_per_round: int
    prune: Component | None = None
    prune_share: float = 0.5
    num_candidates: int = 0
    min_confidence: float = 0.0
    questions_at_a_time: int = 16
    num_proposals: int = 0
