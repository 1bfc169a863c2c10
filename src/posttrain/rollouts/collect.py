"""From prompts to rewarded, credited batches: the source of reinforcement learning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from posttrain.averages import Averages
from posttrain.data.forest import Batch, Forest, TokenSequence, Tree
from posttrain.engines.base import Engine
from posttrain.rewards.base import RewardSet
from posttrain.types import Example, Request, Rollout, RolloutGroup, Sample, Sampling


@dataclass(frozen=True, slots=True)
class Prompt:
    """An example with its prompt as token ids."""

    example: Example
    ids: tuple[int, ...]


class RolloutSource:
    """Samples G completions for each prompt of a step, rewards them, and yields one batch per optimiser update.

    What a step samples is a function of (seed, step, weights), so that resuming needs the step alone.

    Args:
        decode: sample -> completion text. advantage: rewards [P, G] -> advantages [P, G].
        batch_size: prompts a step. num_generations: G.
        num_iterations: passes over a step's rollouts. num_minibatches: updates a pass.
        mask_truncated: leave completions that hit the length limit out of the loss (DAPO's overlong filtering).
        skip_idle: spend no forward pass on groups whose advantages are all zero (right when no loss term ignores
            advantages).
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        engine: Engine,
        rewards: RewardSet,
        *,
        model: Any,
        decode: Callable[[Sample], str],
        advantage: Callable[..., Any],
        sampling: Sampling,
        batch_size: int,
        num_generations: int,
        seed: int,
        num_iterations: int = 1,
        num_minibatches: int = 1,
        mask_truncated: bool = False,
        skip_idle: bool = True,
        max_tokens: int = 16384,
    ) -> None:
        self.prompts = prompts
        self.engine = engine
        self.rewards = rewards
        self.model = model
        self.decode = decode
        self.advantage = advantage
        self.sampling = sampling
        self.batch_size = min(batch_size, len(prompts))
        self.num_generations = num_generations
        self.seed = seed
        self.num_iterations = num_iterations
        self.num_minibatches = num_minibatches
        self.mask_truncated = mask_truncated
        self.skip_idle = skip_idle
        self.max_tokens = max_tokens
        self.steps_per_epoch = max(len(prompts) // self.batch_size, 1)
        self.groups: list[RolloutGroup] = []
        self._averages = Averages()

    def batches(self, step: int) -> Iterator[Batch]:
        """Collect, then yield `num_iterations * num_minibatches` batches."""
        self._averages = Averages()
        self.groups = self._collect(step)
        self._tell(step)
        sequences = [[s for r in g.rollouts if (s := self._sequence(g, r)) is not None] for g in self.groups]
        several = self.num_iterations * self.num_minibatches > 1
        if several:
            self._add_old_logprobs([s for group in sequences for s in group])
        trees = [Tree.build(group) for group in sequences if group]
        for iteration in range(self.num_iterations):
            order = np.arange(len(trees))
            if several:
                order = np.random.default_rng((self.seed, step, iteration)).permutation(len(trees))
            for chosen in np.array_split(order, self.num_minibatches):
                part = [trees[i] for i in chosen]
                if part:
                    active = [t for t in part if t.streams["advantages"].any() or not self.skip_idle]
                    idle = [t for t in part if not t.streams["advantages"].any() and self.skip_idle]
                    yield Batch(active, idle)

    def updated(self, model: Any) -> None:
        """Tell the engine that the weights have moved."""
        model.weights_version += 1
        self.engine.load_weights(model.weights_version)

    def metrics(self) -> Averages:
        return self._averages

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """There is none."""

    def _collect(self, step: int) -> list[RolloutGroup]:
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.prompts))
        chosen = [self.prompts[i] for i in order[place * self.batch_size : (place + 1) * self.batch_size]]
        # A seed per step (not per prompt): the engine mixes it with the prompt's place below.
        seeds = np.random.default_rng((self.seed, step, 7)).integers(0, 2**62, size=len(chosen))
        requests = [
            Request(p.ids, self.sampling, n=self.num_generations, seed=int(s)) for p, s in zip(chosen, seeds, strict=True)
        ]
        samples = self.engine.generate(requests)
        groups = [
            RolloutGroup(p.example, p.ids, [Rollout(s, self.decode(s)) for s in row])
            for p, row in zip(chosen, samples, strict=True)
        ]
        self.rewards.reward(groups)
        table = np.array([[math.nan if r.reward is None else r.reward for r in g.rollouts] for g in groups])
        credit = np.asarray(self.advantage(table), dtype=float)
        for group, row in zip(groups, credit, strict=True):
            for rollout, value in zip(group.rollouts, row, strict=True):
                rollout.advantage = float(value)
        return groups

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

    def _tell(self, step: int) -> None:
        """Metrics of the rollouts, under TRL's names."""
        averages = self._averages
        rollouts = [r for g in self.groups for r in g.rollouts]
        lengths = np.array([len(r.sample.ids) for r in rollouts])
        ended = np.array([r.sample.finish_reason == "stop" for r in rollouts])
        averages.update(
            {
                "completions/mean_length": float(lengths.mean()),
                "completions/min_length": float(lengths.min()),
                "completions/max_length": float(lengths.max()),
                "completions/clipped_ratio": float(1 - ended.mean()),
                "epoch": (step + 1) / self.steps_per_epoch,
            }
        )
        if ended.any():
            averages.update({"completions/mean_terminated_length": float(lengths[ended].mean())})
        rewards = [[r.reward for r in g.rollouts if r.reward is not None] for g in self.groups]
        stds = [float(np.std(row, ddof=1)) for row in rewards if len(row) > 1]
        flat = [value for row in rewards for value in row]
        averages.add("reward", sum(flat), len(flat))
        averages.add("reward_std", sum(stds), len(stds))
        averages.add("frac_reward_zero_std", sum(s < 1e-9 for s in stds), len(stds))
        for name in self.rewards.names:
            values = [v for r in rollouts if (v := r.rewards.get(name)) is not None]
            averages.add(f"rewards/{name}/mean", sum(values), len(values))
            if values:
                averages.update({f"rewards/{name}/std": float(np.std(values))})
        failures = sum(r.error is not None for r in rollouts)
        averages.update({"rewards/errors": float(failures)})
