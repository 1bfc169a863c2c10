"""Sequences to learn from a teacher on: of a data set, or sampled by the student or by the
teacher.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np

from posttrain.averages import Averages
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.sources.collect import Collector, trained
from posttrain.types import TraceGroup

Writer = Literal["data", "student", "teacher"]


class Rows(Protocol):
    """Batches of fixed rows, as `training.source.DataSource` yields them."""

    def batches(self, step: int) -> Iterator[Batch]:
        """The batches of a step."""
        ...

    def metrics(self) -> Averages:
        """Their metrics."""
        ...


class DistillSource:
    """A share of the steps trains on the student's own completions, the others on data or on the
    teacher's completions.

    Which a step is, is drawn from (seed, step), as are its rows, prompts and samples, so that
    resuming needs the step alone.

    Args:
        data: fixed rows; student, teacher: what samples; those that are asked for must be there.
        lmbda: the share of steps that the student writes. seq_kd: the teacher, not the data, writes
        the others.
        contexts: token ids that the teacher reads in the place of a prompt, by the example's id.
    """

    def __init__(
        self,
        *,
        data: Rows | None,
        student: Collector | None,
        teacher: Collector | None,
        lmbda: float,
        seq_kd: bool,
        seed: int,
        whole: Literal["tree", "batch"] | None = None,
        contexts: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.contexts = contexts or {}
        self.data = data
        self.student = student
        self.teacher = teacher
        self.lmbda = lmbda
        self.seq_kd = seq_kd
        self.seed = seed
        self.whole = whole
        self.groups: list[TraceGroup] = []
        self._averages = Averages()

    def writer(self, step: int) -> Writer:
        """Who has written what a step trains on."""
        if np.random.default_rng((self.seed, step, 11)).random() < self.lmbda:
            return "student"
        return "teacher" if self.seq_kd else "data"

    def batches(self, step: int) -> Iterator[Batch]:
        """The rows of the step's writer: of the data, the student or the teacher."""
        writer = self.writer(step)
        self.groups = []
        if writer == "data":
            assert self.data is not None
            yield from self.data.batches(step)
            self._averages = self.data.metrics()
        else:
            collector = self.student if writer == "student" else self.teacher
            assert collector is not None
            self.groups = collector.collect(step)
            self._averages = collector.metrics(self.groups, step)
            groups = [self._sequences(g, own=writer == "student") for g in self.groups]
            trees = [Tree.build(group) for group in groups if group]
            if trees:
                yield Batch(trees, whole=self.whole)
        self._averages.update({"on_policy": float(writer == "student")})

    def _sequences(self, group: TraceGroup, *, own: bool) -> list[TokenSequence]:
        """The training sequences of a prompt's completions."""
        ids = self.contexts.get(group.example.id)
        context = None if ids is None else np.array(ids, dtype=np.int64)
        return [replace(s, context=context) for s in _sequences(group, own=own)]

    def updated(self, model: Any) -> None:
        """Tell the student's engine that the weights have moved; the teacher's stand still."""
        model.weights_version += 1
        if self.student is not None:
            self.student.engine.sync(model.weights_version)

    def metrics(self) -> Averages:
        return self._averages

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """There is none."""


def _sequences(group: TraceGroup, *, own: bool) -> Iterator[TokenSequence]:
    """The training sequences of a prompt's completions: the sampled ids as they are. own: the
    student wrote them.
    """
    before = len(group.prompt_ids)
    for trace in group.traces:
        if not trace.sample.ids:
            continue
        sequence = trained(group.prompt_ids, trace.sample.ids, group.example.id)
        if own:
            sequence.streams["engine_logprobs"] = np.array(
                [*[0.0] * before, *trace.sample.raw_logprobs], dtype=np.float32
            )
        yield sequence
