"""Rollouts that are credited by an advantage: the source of policy gradients."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from posttrain.averages import Averages
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.data.tree import marked
from posttrain.models.scoring import scored
from posttrain.sources.collect import Collector, trained
from posttrain.sources.credit import Creditor, Nested
from posttrain.sources.rows import DataSource
from posttrain.types import Rollout, RolloutGroup, Sample


class RolloutSource:
    """Collects the rollouts of a step, credits them, and yields one batch per optimiser update.

    Args:
        credit: from rewards to advantages and the other streams that losses read.
        num_iterations: passes over a step's rollouts. num_minibatches: updates a pass.
        mask_truncated: leave completions that hit the length limit out of the loss (DAPO's overlong
        filtering).
        drop_duplicates: of equal completions of a prompt only the first is trained on.
        learns: whether the objective may have a gradient on a tree (`Objective.learns`); no
            training pass is spent on the others.
        whole: what a batch never splits, as in `Batch`.
        mixed: rows that every update also learns from. Their targets are marked by the stream
            `given`, so that losses of sampled targets pass over them.
    """

    def __init__(
        self,
        collector: Collector,
        *,
        model: Any,
        credit: Creditor,
        num_iterations: int = 1,
        num_minibatches: int = 1,
        mask_truncated: bool = False,
        drop_duplicates: bool = False,
        learns: Callable[[Tree], bool] = lambda tree: True,
        max_tokens: int = 16384,
        whole: Literal["tree", "batch"] | None = None,
        mixed: DataSource | None = None,
    ) -> None:
        self.collector = collector
        self.model = model
        self.credit = credit
        self.sampling = collector.sampling
        self.num_iterations = num_iterations
        self.num_minibatches = num_minibatches
        self.mask_truncated = mask_truncated
        self.drop_duplicates = drop_duplicates
        self.learns = learns
        self.max_tokens = max_tokens
        self.whole = whole
        self.mixed = mixed
        self.groups: list[RolloutGroup] = []
        self._averages = Averages()

    def batches(self, step: int) -> Iterator[Batch]:
        """Collect, then yield `num_iterations * num_minibatches` batches."""
        self.groups = self.collector.collect(step)
        self._averages = self.collector.metrics(self.groups, step)
        trees = self._trees() if self.groups else []
        number = 0
        for iteration in range(self.num_iterations):
            order = np.arange(len(trees))
            if self.num_iterations * self.num_minibatches > 1:
                order = np.random.default_rng((self.collector.seed, step, iteration)).permutation(
                    len(trees)
                )
            for indices in np.array_split(order, self.num_minibatches):
                part = [trees[i] for i in indices]
                if not part:
                    continue
                active = [t for t in part if self.whole == "batch" or self.learns(t)]
                active_ids = {id(tree) for tree in active}
                idle = [t for t in part if id(t) not in active_ids]
                update = step * self.num_iterations * self.num_minibatches + number
                number += 1
                yield Batch([*active, *self._mixed(update)], idle, whole=self.whole)

    def updated(self, model: Any) -> None:
        """Tell the engine that the weights have moved."""
        model.weights_version += 1
        self.collector.engine.sync(model.weights_version)

    def metrics(self) -> Averages:
        return self._averages

    def state(self) -> dict[str, Any]:
        return self.credit.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.credit.load_state(state)

    def _trees(self) -> list[Tree]:
        """The credited rollouts of the step, one tree a prompt."""
        rows = [
            [
                trained(g.prompt_ids, r.sample.ids, g.example.id) if r.sample.ids else None
                for r in g.rollouts
            ]
            for g in self.groups
        ]
        measured = measure(
            self.model,
            rows,
            self.credit.measures,
            self.sampling.temperature or 1.0,
            self.max_tokens,
        )
        counted: Nested = [
            [np.full(len(r.sample.ids), self._counts(r)) for r in g.rollouts] for g in self.groups
        ]
        sampled = [[self._engine_logprobs(r.sample) for r in g.rollouts] for g in self.groups]
        complete = all(x is not None for row in sampled for x in row)
        engine = (
            [[np.asarray(x, dtype=np.float64) for x in row] for row in sampled]
            if complete
            else None
        )
        streams = self.credit.credit(self.groups, measured, engine, counted)
        if engine is not None:
            streams["engine_logprobs"] = engine
        self._averages.merge(self.credit.averages)
        for p, group in enumerate(self.groups):
            for g, rollout in enumerate(group.rollouts):
                sequence = rows[p][g]
                if sequence is not None:
                    for name, nested in streams.items():
                        sequence.streams[name] = _behind(nested[p][g], len(sequence.ids))
                    # Without targets a completion would seem certain to losses that compare
                    # log-probs: it has no reward.
                    reward = rollout.reward if self._counts(rollout) else None
                    sequence.values["reward"] = float("nan") if reward is None else reward
                    sequence.loss_mask &= self._counts(rollout)
                    self._mark_given(sequence, len(group.prompt_ids), group.num_given)
        sequences = [self._trained_on(row) for row in rows]
        return [Tree.build(some) for some in sequences if some]

    def _mark_given(self, sequence: TokenSequence, start: int, num_given: int) -> None:
        """Mark what a completion begins with, if that was given, by the stream `given`. Such
        tokens are targets too.
        """
        if not self.collector.given_steps:
            return
        given = np.zeros(len(sequence.ids), dtype=np.float32)
        given[start - num_given : start] = 1
        sequence.streams["given"] = given
        sequence.loss_mask |= given > 0

    def _mixed(self, update: int) -> list[Tree]:
        """The rows that an update learns from beside the rollouts, marked as given."""
        if self.mixed is None:
            return []
        return [
            Tree.build([marked(sequence, "given") for sequence in tree.sequences])
            for batch in self.mixed.batches(update)
            for tree in batch.trees
        ]

    def _counts(self, rollout: Rollout) -> bool:
        return not (self.mask_truncated and rollout.sample.finish_reason == "length")

    def _trained_on(self, row: list[TokenSequence | None]) -> list[TokenSequence]:
        """The sequences of a group that are trained on."""
        sequences = [s for s in row if s is not None]
        if self.drop_duplicates:
            # Of equal ones the first stays, at its place.
            sequences = list({s.ids.tobytes(): s for s in reversed(sequences)}.values())[::-1]
        return sequences

    def _engine_logprobs(self, sample: Sample) -> list[float] | None:
        """The sampler's log-probs where they are of the distribution that is trained:
        softmax(logits / temperature).
        """
        if self.sampling.temperature in (0.0, 1.0):
            return sample.raw_logprobs
        truncated = self.sampling.top_p < 1 or self.sampling.top_k > 0 or self.sampling.min_p > 0
        return None if truncated else sample.engine_logprobs


def measure(
    model: Any,
    rows: Sequence[Sequence[TokenSequence | None]],
    needs: Collection[str],
    temperature: float,
    max_tokens: int,
) -> dict[str, Nested]:
    """What the model computes now at the targets of the sequences, with dropout off.

    Returns:
        name -> [P][G] of arrays [T]; an empty array where there is no sequence.
    """
    nothing = np.zeros(0, dtype=np.float32)
    numbers_of: dict[str, Nested] = {
        name: [[nothing for _ in row] for row in rows] for name in sorted(needs)
    }
    if not needs:
        return numbers_of
    place = {id(s): (p, g) for p, row in enumerate(rows) for g, s in enumerate(row)}
    groups = [some for row in rows if (some := [s for s in row if s is not None])]
    for sequence, numbers in scored(
        model, groups, needs, max_tokens=max_tokens, temperature=temperature
    ):
        p, g = place[id(sequence)]
        for name, values in numbers.items():
            numbers_of[name][p][g] = values
    return numbers_of


def _behind(numbers: np.ndarray, length: int) -> np.ndarray:
    """Numbers of the last tokens of a sequence as a stream over all of them."""
    return np.concatenate(
        [np.zeros(length - len(numbers), dtype=np.float32), np.asarray(numbers, dtype=np.float32)]
    )
