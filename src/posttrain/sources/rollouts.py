"""Rollouts that are credited by an advantage: the source of policy gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from posttrain.averages import Averages
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.data.tree import marked
from posttrain.models.scoring import scored
from posttrain.sources.collect import Collector
from posttrain.sources.correction import Nested, remaining, without_rejected
from posttrain.sources.credit import Creditor
from posttrain.sources.rows import DataSource
from posttrain.sources.trace_sequences import set_streams, trace_sequences, trained_tokens
from posttrain.types import Trace, TraceGroup
from posttrain.world import World

_ALONE = World.alone()
_COUNTED = "counted"  # of set_streams: which sampled tokens are targets


class RolloutSource:
    """Collects the traces of a step, credits them, and yields one batch per optimiser update.

    Args:
        credit: from rewards to advantages and the other streams that losses read.
        num_iterations: passes over a step's rollouts. num_minibatches: updates a pass.
        mask_truncated: leave traces that hit a limit (of length, turns, ...) out of the loss
        (DAPO's overlong filtering). Failed ones are left out in any case.
        drop_duplicates: of equal completions of a prompt only the first is trained on.
        learns: whether the objective may have a gradient on a tree (`Objective.learns`); no
            training pass is spent on the others.
        whole: what a batch never splits, as in `Batch`.
        mixed: rows that every update also learns from. Their targets are marked by the stream
            `given`, so that losses of sampled targets pass over them.
        world: the processes that measure log-probs and values together.
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
        world: World = _ALONE,
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
        self.world = world
        self.groups: list[TraceGroup] = []
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
        self._averages.update(self.collector.sync(model.weights_version))

    def metrics(self) -> Averages:
        return self._averages

    def state(self) -> dict[str, Any]:
        return {**self.credit.state(), **self.collector.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.credit.load_state(state)
        self.collector.load_state(state)

    def close(self) -> None:
        """End what samples in other threads and processes."""
        self.collector.close()

    def _trees(self) -> list[Tree]:
        """The credited traces of the step, one tree a prompt. Failed ones are left out."""
        sound = [dataclasses.replace(g, traces=_sound(g.traces)) for g in self.groups]
        groups = [group for group in sound if group.traces]
        if not groups:
            return []
        rows = [
            [
                trace_sequences(trace, g.example.id, number=i, every_turn=True)
                for i, trace in enumerate(g.traces)
            ]
            for g in groups
        ]
        measured = measure(
            self.model,
            rows,
            self.credit.measures,
            self.sampling.temperature or 1.0,
            self.max_tokens,
            self.world,
        )
        trained: Nested = [[trained_tokens(t) & self._counts(t) for t in g.traces] for g in groups]
        sampled = [[self._engine_logprobs(t) for t in g.traces] for g in groups]
        present = [[x for x in row if x is not None] for row in sampled]
        engine = present if sum(map(len, present)) == sum(map(len, sampled)) else None
        rejection = Averages()
        counted = without_rejected(self.credit.config, measured, engine, trained, rejection)
        streams = self.credit.credit(groups, measured, engine, counted)
        if engine is not None:
            streams["engine_logprobs"] = engine
        self._averages.merge(self.credit.averages)
        self._averages.merge(rejection)
        for p, group in enumerate(groups):
            for g, trace in enumerate(group.traces):
                numbers = {name: nested[p][g] for name, nested in streams.items()}
                self._fill(rows[p][g], group, trace, numbers, counted[p][g])
        sequences = [self._trained_on(row) for row in remaining(rows, trained, counted)]
        return [Tree.build(some) for some in sequences if some]

    def _fill(
        self,
        sequences: Sequence[TokenSequence],
        group: TraceGroup,
        trace: Trace,
        numbers: Mapping[str, np.ndarray],
        counted: np.ndarray,
    ) -> None:
        """Give the sequences of a trace its streams, its reward, and their targets."""
        set_streams(sequences, {**numbers, _COUNTED: counted})
        # Without targets a completion would seem certain to losses that compare log-probs: it has
        # no reward.
        reward = trace.reward if counted.any() else None
        for sequence in sequences:
            sequence.values["reward"] = float("nan") if reward is None else reward
            sequence.loss_mask = sequence.streams.pop(_COUNTED) > 0
            self._mark_given(sequence, len(group.prompt_ids), group.num_given)

    def _mark_given(self, sequence: TokenSequence, start: int, num_given: int) -> None:
        """Mark what a completion begins with, if that was given, by the stream `given`. Such
        tokens are targets too.
        """
        if not self.collector.given_steps:
            return
        marks = np.zeros(len(sequence.ids), dtype=np.float32)
        marks[start - num_given : start] = 1
        sequence.streams["given"] = marks
        sequence.loss_mask |= marks > 0

    def _mixed(self, update: int) -> list[Tree]:
        """The rows that an update learns from beside the rollouts, marked as given."""
        if self.mixed is None:
            return []
        return [
            Tree.build([marked(sequence, "given") for sequence in tree.sequences])
            for batch in self.mixed.batches(update)
            for tree in batch.trees
        ]

    def _counts(self, trace: Trace) -> bool:
        return not (self.mask_truncated and trace.is_truncated)

    def _trained_on(self, row: Sequence[Sequence[TokenSequence]]) -> list[TokenSequence]:
        """The sequences of a group that are trained on."""
        traces = [sequences for sequences in row if sequences]
        if self.drop_duplicates:
            # Of equal ones the first stays, at its place.
            by_ids = {tuple(s.ids.tobytes() for s in some): some for some in reversed(traces)}
            traces = list(by_ids.values())[::-1]
        return [s for sequences in traces for s in sequences]

    def _engine_logprobs(self, trace: Trace) -> np.ndarray | None:
        """The sampler's log-probs [T] where they are of the distribution that is trained:
        softmax(logits / temperature). NaN at turns of which no sampler reported any.
        """
        raw = self.sampling.temperature in (0.0, 1.0)
        truncated = self.sampling.top_p < 1 or self.sampling.top_k > 0 or self.sampling.min_p > 0
        if truncated and not raw:
            return None
        samples = [turn.sample for turn in trace.turns]
        reported = [(s, s.raw_logprobs if raw else s.engine_logprobs) for s in samples]
        numbers = [x if len(x) == len(s.ids) else [np.nan] * len(s.ids) for s, x in reported]
        return np.array([number for row in numbers for number in row], dtype=np.float64)


def _sound(traces: Sequence[Trace]) -> list[Trace]:
    return [trace for trace in traces if not trace.has_failed]


def measure(
    model: Any,
    rows: Sequence[Sequence[Sequence[TokenSequence]]],
    needs: Collection[str],
    temperature: float,
    max_tokens: int,
    world: World = _ALONE,
) -> dict[str, Nested]:
    """What the model computes now at the targets of the sequences, with dropout off.

    Args:
        rows: [P][G], the sequences of each trace.
        world: the processes that share the rows among them.
    Returns:
        name -> [P][G] of arrays [T], over the targets of a trace's sequences in their order; an
        empty array where there is no sequence.
    """
    numbers_of: dict[str, Nested] = {}
    if not needs:
        return numbers_of
    groups = [some for row in rows if (some := [s for sequences in row for s in sequences])]
    results: dict[int, dict[str, np.ndarray]] = {}
    for sequence, numbers in scored(
        model, groups, needs, max_tokens=max_tokens, temperature=temperature, world=world
    ):
        results[id(sequence)] = numbers
    nothing = np.zeros(0, dtype=np.float32)

    def joined(sequences: Sequence[TokenSequence], name: str) -> np.ndarray:
        return np.concatenate([nothing, *(results[id(s)][name] for s in sequences)])

    for name in sorted(needs):
        numbers_of[name] = [[joined(sequences, name) for sequences in row] for row in rows]
    return numbers_of
