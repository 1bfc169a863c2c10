"""Rollouts that are credited by an advantage: the source of policy gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from posttrain.averages import Averages
from posttrain.data.forest import Batch, Forest, TokenSequence, Tree
from posttrain.rollouts.collect import Collector
from posttrain.types import Rollout, RolloutGroup, Sample


class RolloutSource:
    """Collects the rollouts of a step, credits them, and yields one batch per optimiser update.

    Args:
        advantage: rewards [P, G] -> advantages [P, G].
        num_iterations: passes over a step's rollouts. num_minibatches: updates a pass.
        mask_truncated: leave completions that hit the length limit out of the loss (DAPO's overlong filtering).
        skip_idle: spend no forward pass on groups whose advantages are all zero (right when no loss term ignores
            advantages).
    """

    def __init__(
        self,
        collector: Collector,
        *,
        model: Any,
        advantage: Callable[..., Any],
        num_iterations: int = 1,
        num_minibatches: int = 1,
        mask_truncated: bool = False,
        skip_idle: bool = True,
        max_tokens: int = 16384,
    ) -> None:
        self.collector = collector
        self.model = model
        self.advantage = advantage
        self.sampling = collector.sampling
        self.num_iterations = num_iterations
        self.num_minibatches = num_minibatches
        self.mask_truncated = mask_truncated
        self.skip_idle = skip_idle
        self.max_tokens = max_tokens
        self.groups: list[RolloutGroup] = []
        self._averages = Averages()

    def batches(self, step: int) -> Iterator[Batch]:
        """Collect, then yield `num_iterations * num_minibatches` batches."""
        self.groups = self.collector.collect(step)
        self._averages = self.collector.metrics(self.groups, step)
        self._credit()
        sequences = [[s for r in g.rollouts if (s := self._sequence(g, r)) is not None] for g in self.groups]
        several = self.num_iterations * self.num_minibatches > 1
        if several:
            self._add_old_logprobs([s for group in sequences for s in group])
        trees = [Tree.build(group) for group in sequences if group]
        for iteration in range(self.num_iterations):
            order = np.arange(len(trees))
            if several:
                order = np.random.default_rng((self.collector.seed, step, iteration)).permutation(len(trees))
            for chosen in np.array_split(order, self.num_minibatches):
                part = [trees[i] for i in chosen]
                if part:
                    active = [t for t in part if t.streams["advantages"].any() or not self.skip_idle]
                    idle = [t for t in part if not t.streams["advantages"].any() and self.skip_idle]
                    yield Batch(active, idle)

    def updated(self, model: Any) -> None:
        """Tell the engine that the weights have moved."""
        model.weights_version += 1
        self.collector.engine.load_weights(model.weights_version)

    def metrics(self) -> Averages:
        return self._averages

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """There is none."""

    def _credit(self) -> None:
        table = np.array([[math.nan if r.reward is None else r.reward for r in g.rollouts] for g in self.groups])
        credit = np.asarray(self.advantage(table), dtype=float)
        for group, row in zip(self.groups, credit, strict=True):
            for rollout, value in zip(group.rollouts, row, strict=True):
                rollout.advantage = float(value)

    def _sequence(self, group: RolloutGroup, rollout: Rollout) -> TokenSequence | None:
        """The training sequence of a rollout: the sampled ids as they are, never re-tokenised text."""
        written = rollout.sample.ids
        if not written:
            return None
        before = len(group.prompt_ids)
        length = before + len(written)
        mask = np.zeros(length, dtype=bool)
        mask[before:] = not (self.mask_truncated and rollout.sample.finish_reason == "length")
        streams = {"advantages": np.full(length, rollout.advantage, dtype=np.float32)}
        sampled = self._engine_logprobs(rollout.sample)
        if sampled is not None:
            streams["engine_logprobs"] = np.concatenate(
                [np.zeros(before, dtype=np.float32), np.asarray(sampled, dtype=np.float32)]
            )
        ids = np.concatenate([group.prompt_ids, written])
        return TokenSequence(ids, mask, streams, row=group.example.id)

    def _engine_logprobs(self, sample: Sample) -> list[float] | None:
        """The sampler's log-probs where they are of the distribution that is trained: softmax(logits / temperature)."""
        if self.sampling.temperature in (0.0, 1.0):
            return sample.raw_logprobs
        truncated = self.sampling.top_p < 1 or self.sampling.top_k > 0 or self.sampling.min_p > 0
        return None if truncated else sample.engine_logprobs

    def _add_old_logprobs(self, sequences: list[TokenSequence]) -> None:
        """Log-probs under the policy before the step's first update, kept for the ratios of the later ones."""
        trees = [Tree.build([s]) for s in sequences]
        start = 0
        while start < len(trees):
            stop, size = start, 0
            while stop < len(trees) and (stop == start or size + trees[stop].num_tokens <= self.max_tokens):
                size += trees[stop].num_tokens
                stop += 1
            forest = Forest.pack(trees[start:stop]).to(self.model.device)
            with torch.no_grad():
                found = self.model.forward(forest, frozenset({"logprobs"}), temperature=self.sampling.temperature or 1.0)
            numbers = found["logprobs"].float().cpu().numpy()
            ends = np.cumsum([t.num_targets for t in trees[start:stop]])
            for sequence, low, high in zip(sequences[start:stop], [0, *ends[:-1]], ends, strict=True):
                stream = np.zeros(len(sequence.ids), dtype=np.float32)
                stream[sequence.loss_mask] = numbers[low:high]
                sequence.streams["old_logprobs"] = stream
            start = stop
