"""Batches of single completions, with what their losses want to know of the whole step."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from posttrain.data.forest import Batch, TokenSequence
from posttrain.errors import DataError
from posttrain.models.language_model import LanguageModel
from posttrain.models.scoring import scored
from posttrain.sources.rows import DataSource
from posttrain.world import World

_ALONE = World.alone()
_DECAY = 0.9  # of BCO's running means, a step


def mismatched(
    sequences: Sequence[TokenSequence], *, seed: int, max_length: int
) -> dict[int, TokenSequence]:
    """For each sequence its prompt with the completion of another prompt: where KTO measures how
    far the policy has moved.

    The partners are drawn once, by the seed, so that their reference log-probs can be kept. Returns
    them by `id(sequence)`.

    Raises:
        DataError: fewer than two different prompts.
    """
    starts = [int(np.argmax(s.loss_mask)) for s in sequences]
    prompts = [s.ids[:n].tobytes() for s, n in zip(sequences, starts)]
    if len(set(prompts)) < 2:
        raise DataError(
            "all rows have the same prompt; estimating KL(pi || ref) takes completions of at "
            "least two prompts"
        )
    order = np.random.default_rng((seed, 3)).permutation(len(sequences))
    partners: dict[int, TokenSequence] = {}
    for place, i in enumerate(order):
        others = (order[(place + k) % len(order)] for k in range(1, len(order)))
        j = next(j for j in others if prompts[j] != prompts[i])
        own, other = sequences[i], sequences[j]
        ids = np.concatenate([own.ids[: starts[i]], other.ids[starts[j] :]])[:max_length]
        mask = np.concatenate([np.zeros(starts[i], dtype=bool), other.loss_mask[starts[j] :]])[
            :max_length
        ]
        partners[id(own)] = TokenSequence(
            ids, mask, row=f"{own.row} with the completion of {other.row}"
        )
    return partners


class UnpairedSource(DataSource):
    """Single completions, with values that are the same for all of a step, measured before it
    without a gradient.

    kl: mean log-ratio of the rows' mismatched sequences (`mismatched`), not below 0: an estimate of
    KL(pi || ref).
    shift: the middle between the running means (decay 0.9 a step, kept in checkpoints) of the
    log-ratios of desirable and undesirable completions.

    Args:
        partners: what `mismatched` gave, for these sequences and any that are held out; may be
        empty where no loss asks for
            kl. wanted: which of "kl" and "shift" the losses ask for.
        world: the processes that measure together.
    """

    def __init__(
        self,
        sequences: Sequence[TokenSequence],
        partners: Mapping[int, TokenSequence],
        *,
        model: LanguageModel,
        wanted: Collection[str],
        batch_size: int,
        seed: int,
        max_tokens: int,
        world: World = _ALONE,
    ) -> None:
        super().__init__([[s] for s in sequences], batch_size=batch_size, seed=seed)
        self.partners = partners
        self.model = model
        self.wanted = frozenset(wanted) & {"kl", "shift"}
        self.max_tokens = max_tokens
        self.world = world
        self._means: dict[str, float] = {}  # of log-ratios, by label

    def batches(self, step: int) -> Iterator[Batch]:
        groups = self.drawn(step)
        if "shift" in self.wanted:
            self._follow([s for group in groups for s in group])
        yield self.measured(groups)

    def measured(self, groups: Sequence[Sequence[TokenSequence]]) -> Batch:
        """Groups as a batch, with the values of a step; running means stay as they are."""
        values: dict[str, float] = {}
        if "kl" in self.wanted:
            ratios = [
                x
                for _, x in self._log_ratios(
                    [self.partners[id(s)] for group in groups for s in group]
                )
            ]
            values["kl"] = max(float(np.mean(ratios)), 0.0)
        if "shift" in self.wanted:
            values["shift"] = float(np.mean(list(self._means.values()))) if self._means else 0.0
        for sequence in (s for group in groups for s in group):
            sequence.values |= values
        return self.batch(groups)

    def _follow(self, sequences: list[TokenSequence]) -> None:
        log_ratios: dict[str, list[float]] = {}
        for sequence, ratio in self._log_ratios(sequences):
            log_ratios.setdefault(str(int(sequence.values["label"])), []).append(ratio)
        for label, ratios in sorted(log_ratios.items()):
            now = float(np.mean(sorted(ratios)))
            self._means[label] = (
                _DECAY * self._means[label] + (1 - _DECAY) * now if label in self._means else now
            )

    def _log_ratios(self, sequences: list[TokenSequence]) -> list[tuple[TokenSequence, float]]:
        names = ("logprobs", "ref_logprobs")
        outputs = scored(
            self.model,
            [[s] for s in sequences],
            names,
            max_tokens=self.max_tokens,
            world=self.world,
        )
        return [
            (s, float(np.sum(n["logprobs"].astype(np.float64) - n["ref_logprobs"])))
            for s, n in outputs
        ]

    def state(self) -> dict[str, Any]:
        return {"means": dict(self._means)}

    def load_state(self, state: dict[str, Any]) -> None:
        self._means = dict(state["means"])
