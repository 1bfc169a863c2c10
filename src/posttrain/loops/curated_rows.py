"""Which samples of a round are trained on, whose labels are bought, and how much both weigh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.data.forest import TokenSequence
from posttrain.training.rollout_rows import RolloutRow
from posttrain.types import TraceGroup


@dataclass(frozen=True, slots=True)
class Curation:
    """What of a round is trained on; see `weak_data` for the settings."""

    arm: str
    labels_per_round: int
    label_accuracy: float
    false_accepts: float
    label_weight: float
    filter_labels: bool
    min_reward: float
    accumulate: bool

    def facts(self, steps: int, num_rounds: int) -> list[tuple[str, str]]:
        """What a preview says of the rounds."""
        return [("trained on", self.text()), ("steps", f"{steps}, {num_rounds} rounds")]

    def text(self) -> str:
        """As a check shows it."""
        mistakes = (
            f", and {self.false_accepts:.0%} of the others by mistake" if self.false_accepts else ""
        )
        if self.arm == "none":
            return "all samples"
        text = f"samples of a reward of at least {self.min_reward:g}{mistakes}"
        if self.arm == "filter":
            return text
        return (
            f"{text}; {self.labels_per_round} labels of {self.arm} prompts, "
            f"{self.label_accuracy:.0%} right, weight {self.label_weight:g}"
        )

    def accepted(self, group: TraceGroup, draw: np.random.Generator) -> tuple[int, ...]:
        """Places of the completions of a prompt that are trained on."""
        mistakes = draw.random(len(group.traces)) < self.false_accepts
        places = []
        for place, (trace, mistaken) in enumerate(zip(group.traces, mistakes, strict=True)):
            if trace.reward is None or not trace.sample.ids:
                continue
            if self.arm == "none" or trace.reward >= self.min_reward or mistaken:
                places.append(place)
        return tuple(places)

    def labelled(self, rows: Sequence[RolloutRow], draw: np.random.Generator) -> list[int]:
        """Places of the prompts whose labels are bought."""
        if self.arm == "random":
            number = min(self.labels_per_round, len(rows))
            return [int(i) for i in draw.permutation(len(rows))[:number]]
        if self.arm != "hardest":
            return []
        hard = [i for i, row in enumerate(rows) if not row.selected]
        ties = draw.permutation(len(rows))
        order = sorted(hard, key=lambda i: (_mean_reward(rows[i].group), ties[i]))
        return order[: self.labels_per_round]


def _mean_reward(group: TraceGroup) -> float:
    rewards = [trace.reward for trace in group.traces if trace.reward is not None]
    return sum(rewards) / len(rewards) if rewards else -np.inf


def mixture(
    samples: Sequence[TokenSequence], labels: Sequence[TokenSequence], share: float
) -> list[TokenSequence]:
    """Samples and labels, whose trained tokens have this share of all weight.

        w_label = share / (1 - share) * tokens(samples) / tokens(labels),   w_sample = 1

    Without one of the two the other counts whole.
    """
    tokens = [sum(int(s.loss_mask.sum()) for s in part) for part in (samples, labels)]
    weight = share / (1 - share) * tokens[0] / tokens[1] if all(tokens) else 1.0
    mixed = []
    for part, value in ((samples, 1.0), (labels, weight)):
        for sequence in part:
            weights = np.full(len(sequence.ids), value, dtype=np.float32)
            streams = {"weights": weights}
            mixed.append(TokenSequence(sequence.ids, sequence.loss_mask, streams, row=sequence.row))
    return mixed
