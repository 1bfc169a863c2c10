"""Rollouts that are credited by an advantage: the source of policy gradients."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from posttrain.averages import Averages
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.data.stream import DataSource
from posttrain.models.scoring import scored
from posttrain.rollouts.collect import Collector, trained
from posttrain.rollouts.credit import Creditor, Nested
from posttrain.types import Rollout, RolloutGroup, Sample


class RolloutSource:
    """Collects the rollouts of a step, credits them, and yields one batch per optimiser update.

    Args:
        credit: from rewards to advantages and the other streams that losses read.
        num_iterations: passes over a step's rollouts. num_minibatches: updates a pass.
        mask_truncated: leave completions that hit the length limit out of the loss (DAPO's overlong
        filtering).
        drop_duplicates: of equal completions of a prompt only the first is trained on.
        skip_idle: spend no forward pass on groups whose advantages are all zero (right when no loss
        term ignores
            advantages).
        whole: what a batch never splits, as in `Batch`.
        mixed: rows that every update also learns from, by losses of given tokens.
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
        skip_idle: bool = True,
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
        self.skip_idle = skip_idle and whole != "batch"
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
            for chosen in np.array_split(order, self.num_minibatches):
                part = [trees[i] for i in chosen]
                if part:
                    learning = [
                        t.streams["advantages"].any() or _given(t) or not self.skip_idle
                        for t in part
                    ]
                    active = [t for t, learns in zip(part, learning, strict=True) if learns]
                    idle = [t for t, learns in zip(part, learning, strict=True) if not learns]
                    update = step * self.num_iterations * self.num_minibatches + number
                    number += 1
                    yield Batch([*active, *self._mixed(update, part[0])], idle, whole=self.whole)

    def updated(self, model: Any) -> None:
        """Tell the engine that the weights have moved."""
        model.weights_version += 1
        self.collector.engine.load_weights(model.weights_version)

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
        known = all(x is not None for row in sampled for x in row)
        engine = (
            [[np.asarray(x, dtype=np.float64) for x in row] for row in sampled] if known else None
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
        return [Tree.build(kept) for row in rows if (kept := self._kept(row))]

    def _mark_given(self, sequence: TokenSequence, start: int, num_given: int) -> None:
        """Given tokens are targets too, told apart by the stream `given`."""
        if self.mixed is None and not self.collector.given_steps:
            return
        given = np.zeros(len(sequence.ids), dtype=np.float32)
        given[start - num_given : start] = 1
        sequence.streams["given"] = given
        sequence.loss_mask |= given > 0

    def _mixed(self, update: int, like: Tree) -> list[Tree]:
        """Rows of an update, with the streams that rollouts have: all their targets are given."""
        if self.mixed is None:
            return []
        rows = [
            s
            for batch in self.mixed.batches(update)
            for tree in batch.trees
            for s in tree.sequences
        ]
        values = {name: float("nan") for name in like.values}
        streams = [
            {name: np.full(len(s.ids), float(name == "given")) for name in like.streams}
            for s in rows
        ]
        return [
            Tree.build([replace(s, streams=x, values=values)])
            for s, x in zip(rows, streams, strict=True)
        ]

    def _counts(self, rollout: Rollout) -> bool:
        return not (self.mask_truncated and rollout.sample.finish_reason == "length")

    def _kept(self, row: list[TokenSequence | None]) -> list[TokenSequence]:
        """The sequences of a group that are trained on."""
        found = [s for s in row if s is not None]
        if self.drop_duplicates:
            found = list({s.ids.tobytes(): s for s in reversed(found)}.values())[::-1]
        return found

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
    """What the model as it is says at the targets of the sequences: name -> [P][G] of arrays
    [T], dropout off.
    """
    nothing = np.zeros(0, dtype=np.float32)
    found: dict[str, Nested] = {
        name: [[nothing for _ in row] for row in rows] for name in sorted(needs)
    }
    place = {id(s): (p, g) for p, row in enumerate(rows) for g, s in enumerate(row)}
    groups = [some for row in rows if (some := [s for s in row if s is not None])]
    for sequence, numbers in (
        scored(model, groups, needs, max_tokens=max_tokens, temperature=temperature)
        if needs
        else ()
    ):
        p, g = place[id(sequence)]
        for name, values in numbers.items():
            found[name][p][g] = values
    return found


def _given(tree: Tree) -> bool:
    return "given" in tree.streams and bool(tree.streams["given"].any())


def _behind(numbers: np.ndarray, length: int) -> np.ndarray:
    """Numbers of the last tokens of a sequence as a stream over all of them."""
    return np.concatenate(
        [np.zeros(length - len(numbers), dtype=np.float32), np.asarray(numbers, dtype=np.float32)]
    )
