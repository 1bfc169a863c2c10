"""From prompts to rewarded groups of completions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.averages import Averages
from posttrain.engines.base import Engine
from posttrain.rewards.base import RewardSet
from posttrain.types import Example, Request, Rollout, RolloutGroup, Sample, Sampling


@dataclass(frozen=True, slots=True)
class Prompt:
    """An example with its prompt as token ids."""

    example: Example
    ids: tuple[int, ...]


class Collector:
    """Samples G completions for each prompt of a step and rewards them.

    What a step samples is a function of (seed, step, weights), so that resuming needs the step alone.

    Args:
        rewards: None leaves completions without. decode: sample -> completion text. batch_size: prompts a step.
        num_generations: G.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        engine: Engine,
        rewards: RewardSet | None,
        *,
        decode: Callable[[Sample], str],
        sampling: Sampling,
        batch_size: int,
        num_generations: int,
        seed: int,
    ) -> None:
        self.prompts = prompts
        self.engine = engine
        self.rewards = rewards
        self.decode = decode
        self.sampling = sampling
        self.batch_size = min(batch_size, len(prompts))
        self.num_generations = num_generations
        self.seed = seed
        self.steps_per_epoch = max(len(prompts) // self.batch_size, 1)

    def collect(self, step: int) -> list[RolloutGroup]:
        """The rewarded groups of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.prompts))
        chosen = [self.prompts[i] for i in order[place * self.batch_size : (place + 1) * self.batch_size]]
        # A seed per step (not per prompt): the engine mixes it with the prompt's place below.
        seeds = np.random.default_rng((self.seed, step, 7)).integers(0, 2**62, size=len(chosen))
        return self.sample(chosen, [int(s) for s in seeds])

    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[RolloutGroup]:
        """`num_generations` completions of each prompt, rewarded."""
        requests = [Request(p.ids, self.sampling, n=self.num_generations, seed=s) for p, s in zip(prompts, seeds, strict=True)]
        groups = [
            RolloutGroup(p.example, p.ids, [Rollout(s, self.decode(s)) for s in row])
            for p, row in zip(prompts, self.engine.generate(requests), strict=True)
        ]
        if self.rewards is not None:
            self.rewards.reward(groups)
        return groups

    def metrics(self, groups: Sequence[RolloutGroup], step: int) -> Averages:
        """What there is to tell of a step's rollouts, under TRL's names."""
        averages = Averages()
        rollouts = [r for g in groups for r in g.rollouts]
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
        if self.rewards is None:
            return averages
        rewards = [[r.reward for r in g.rollouts if r.reward is not None] for g in groups]
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
        return averages
