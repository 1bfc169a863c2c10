"""Rounds of sampling, selection and imitation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from posttrain.averages import Averages
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.sources.collect import Collector, Prompt, trained
from posttrain.sources.selection import Rule, filter_metrics, refuse_empty
from posttrain.types import Trace, TraceGroup


class SelfTrainingSource:
    """Rounds of: sample, keep by the rule, imitate for `steps_per_round` updates.

    What a round samples is a function of (seed, round, weights); what it kept stands in `state()`,
    so that a run that stopped within a round goes on exactly.

    Args:
        collector: of the prompts of a round. batch_size: completions an update.
        restart: called after the sampling of every round but the first: brings back the weights and
        the optimiser of the
            start; None = go on with the model.
        accumulate: train on what all rounds have kept, not the last alone.
        hints: prompt tokens that hold the answer, by the example's id (see `rationalise` of the
        method). Prompts of which
            nothing was kept are sampled once more with theirs.
    """

    def __init__(
        self,
        collector: Collector,
        rule: Rule,
        *,
        batch_size: int,
        steps_per_round: int,
        restart: Callable[[], None] | None = None,
        accumulate: bool = False,
        hints: dict[str, tuple[int, ...]] | None = None,
    ) -> None:
        self.collector = collector
        self.rule = rule
        self.batch_size = batch_size
        self.steps_per_round = steps_per_round
        self.restart = restart
        self.accumulate = accumulate
        self.hints = hints
        self.groups: list[TraceGroup] = []
        self._rows: list[TokenSequence] = []
        self._averages = Averages()

    def batches(self, step: int) -> Iterator[Batch]:
        """One batch of kept completions; at the first step of a round they are sampled first."""
        number, place = divmod(step, self.steps_per_round)
        self.groups = []
        self._averages = Averages()
        if place == 0:
            self._sample(number)
            if self.restart is not None and number > 0:
                self.restart()
        self._averages.update({"round": float(number + 1)})
        # Kept completions in an order of their own each time through; the last of a pass may be
        # fewer.
        epoch, place = divmod(place, math.ceil(len(self._rows) / self.batch_size))
        order = np.random.default_rng((self.collector.seed, number, epoch)).permutation(
            len(self._rows)
        )
        yield Batch(
            [
                Tree.build([self._rows[i]])
                for i in order[place * self.batch_size : (place + 1) * self.batch_size]
            ]
        )

    def updated(self, model: Any) -> None:
        """Tell the engine that the weights have moved."""
        model.weights_version += 1
        self.collector.engine.sync(model.weights_version)

    def metrics(self) -> Averages:
        return self._averages

    def state(self) -> dict[str, Any]:
        """The rows that are trained on, as [prompt tokens, completion tokens, name]."""
        rows = []
        for s in self._rows:
            border = int(np.argmax(s.loss_mask))
            rows.append([s.ids[:border].tolist(), s.ids[border:].tolist(), s.row])
        return {"rows": rows}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` gave."""
        self._rows = [
            trained(tuple(prompt), written, row) for prompt, written, row in state["rows"]
        ]

    def _sample(self, number: int) -> None:
        self.groups = self.collector.collect(number)
        selected = self.rule.keep(self.groups)
        self._averages.merge(self.collector.metrics(self.groups, number))
        self._averages.update(filter_metrics(self.groups, selected, self.rule))
        if self.hints is not None:
            selected = self._with_hints(selected, number)
        traces = [r for g in self.groups for r in g.traces]
        rewards = [r.reward for r in traces if r.reward is not None]
        refuse_empty(
            sum(map(len, selected)), rewards, len(traces), self.rule, f"round {number + 1}"
        )
        if not self.accumulate:
            self._rows = []
        for group, row in zip(self.groups, selected, strict=True):
            self._rows += [trained(group.prompt_ids, r.sample.ids, group.example.id) for r in row]

    def _with_hints(self, selected: list[list[Trace]], number: int) -> list[list[Trace]]:
        """Rationalisation (STaR): a prompt of which nothing was kept is asked again with its
        answer in the prompt.
        """
        assert self.hints is not None
        failed = [i for i, row in enumerate(selected) if not row]
        prompts = [
            Prompt(self.groups[i].example, self.hints[self.groups[i].example.id]) for i in failed
        ]
        seeds = np.random.default_rng((self.collector.seed, number, 11)).integers(
            0, 2**62, size=len(failed)
        )
        hinted = self.collector.sample(prompts, [int(s) for s in seeds])
        passed = self.rule.keep(hinted)
        self._averages.update({"filter/rationalised": float(sum(map(len, passed)))})
        both = list(selected)
        for i, row in zip(failed, passed, strict=True):
            both[i] = row
        return both
