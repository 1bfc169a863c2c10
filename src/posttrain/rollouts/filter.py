"""Self-training: rounds of sampling, keeping the good completions, and imitating them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from posttrain.averages import Averages
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.errors import ConfigError, DataError
from posttrain.rollouts.collect import Collector, Prompt, trained
from posttrain.types import Rollout, RolloutGroup


@dataclass(frozen=True, slots=True)
class Rule:
    """Which completions are kept.

    min_reward: least reward, None = any. top_fraction: of those, the share with the highest
    rewards. max_per_prompt: at most so many of a prompt, the best first (1: best of n), None = all.
    distinct: of equal completions of a prompt one.
    """

    min_reward: float | None = 1.0
    top_fraction: float = 1.0
    max_per_prompt: int | None = None
    distinct: bool = True

    def check_range(self) -> None:
        """Refuse settings that are out of range.

        Raises:
            ConfigError: names the setting, its value and its rule.
        """
        if not 0 < self.top_fraction <= 1:
            raise ConfigError(
                f"top_fraction: {self.top_fraction} must be above 0 and at most 1 (1 keeps all)"
            )
        if self.max_per_prompt is not None and self.max_per_prompt < 1:
            raise ConfigError(
                f"max_per_prompt: {self.max_per_prompt} must be at least 1; leave it out to keep "
                "all"
            )

    def check(self, num_generations: int) -> None:
        """Refuse what cannot work, or keeps everything.

        Raises:
            ConfigError: a setting out of range; a rule that keeps whatever is sampled.
        """
        if num_generations < 1:
            raise ConfigError(f"num_generations: {num_generations} must be at least 1")
        self.check_range()
        every = self.max_per_prompt is None or self.max_per_prompt >= num_generations
        if self.min_reward is None and self.top_fraction == 1 and every:
            raise ConfigError(
                "nothing is filtered: min_reward is not set, top_fraction is 1 and "
                f"max_per_prompt {self.max_per_prompt} is no "
                f"bound for num_generations {num_generations}. A model that imitates all it "
                "writes learns nothing; set one"
            )

    def keep(self, groups: Sequence[RolloutGroup]) -> list[list[Rollout]]:
        """The completions of each group that are kept, best first; ties in the order of sampling.

        Empty completions, and those without a reward (not applicable, or the reward failed), never
        are.
        """
        found = [self._candidates(group) for group in groups]
        if self.top_fraction < 1:
            pool = sorted(
                (r.reward for row in found for r in row if r.reward is not None), reverse=True
            )
            room = max(1, round(self.top_fraction * len(pool)))
            least = pool[min(room, len(pool)) - 1] if pool else 0.0
            above = sum(value > least for value in pool)
            room -= above  # for those that tie at the border, first come first served
            chosen: list[list[Rollout]] = []
            for row in found:
                chosen.append([])
                for r in row:
                    assert r.reward is not None
                    if r.reward > least or (r.reward == least and room > 0):
                        room -= r.reward == least
                        chosen[-1].append(r)
            found = chosen
        return [row[: self.max_per_prompt] for row in found]

    def _candidates(self, group: RolloutGroup) -> list[Rollout]:
        rated = [(r.reward, r) for r in group.rollouts if r.reward is not None and _said(r)]
        if self.min_reward is not None:
            rated = [(reward, r) for reward, r in rated if reward >= self.min_reward]
        if self.distinct:
            first: dict[object, tuple[float, Rollout]] = {}
            for reward, r in rated:
                first.setdefault(_said(r), (reward, r))
            rated = list(first.values())
        return [r for _, r in sorted(rated, key=lambda pair: -pair[0])]


def _said(rollout: Rollout) -> object:
    """What tells completions apart: their ids, or their text where whoever wrote them gave no
    ids; falsy where empty.
    """
    return (tuple(rollout.sample.ids) if rollout.has_tokens else ()) or rollout.text.strip()


def filter_metrics(
    groups: Sequence[RolloutGroup], kept: Sequence[Sequence[Rollout]], rule: Rule
) -> dict[str, float]:
    """What became of sampled completions: shares of those sampled, and of the prompts."""
    rollouts = [r for g in groups for r in g.rollouts]
    num = max(len(rollouts), 1)
    least = 1.0 if rule.min_reward is None else rule.min_reward
    return {
        "filter/pass_rate": sum(r.reward is not None and r.reward >= least for r in rollouts) / num,
        "filter/distinct": sum(len({_said(r) for r in g.rollouts}) for g in groups) / num,
        "filter/kept": sum(map(len, kept)) / num,
        "filter/prompts_kept": sum(bool(row) for row in kept) / max(len(kept), 1),
        "filter/num_kept": float(sum(map(len, kept))),
    }


def refuse_empty(
    num_kept: int, rewards: Sequence[float], num_sampled: int, rule: Rule, what: str
) -> None:
    """Raise where nothing was kept.

    Args:
        rewards: those there were. what: was done, for the message.
    Raises:
        DataError: names the pass rate, the rewards there were, and ways out.
    """
    if num_kept:
        return
    there = (
        f"the rewards reach from {min(rewards):g} to {max(rewards):g}"
        if rewards
        else "none has a reward"
    )
    passed = sum(rule.min_reward is None or value >= rule.min_reward for value in rewards)
    least = "" if rule.min_reward is None else f" of at least min_reward {rule.min_reward:g}"
    raise DataError(
        f"{what}: nothing is kept. {passed} of {num_sampled} completions have a reward{least}, a "
        "pass rate of "
        f"{passed / max(num_sampled, 1):.0%}; {there}. Sample more (num_generations, more "
        "prompts), take easier problems, "
        "fine-tune on worked examples first, or lower min_reward"
    )


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
        self.groups: list[RolloutGroup] = []
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
        self.collector.engine.load_weights(model.weights_version)

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
        kept = self.rule.keep(self.groups)
        self._averages.merge(self.collector.metrics(self.groups, number))
        self._averages.update(filter_metrics(self.groups, kept, self.rule))
        if self.hints is not None:
            kept = self._with_hints(kept, number)
        rollouts = [r for g in self.groups for r in g.rollouts]
        rewards = [r.reward for r in rollouts if r.reward is not None]
        refuse_empty(sum(map(len, kept)), rewards, len(rollouts), self.rule, f"round {number + 1}")
        if not self.accumulate:
            self._rows = []
        for group, row in zip(self.groups, kept, strict=True):
            self._rows += [trained(group.prompt_ids, r.sample.ids, group.example.id) for r in row]

    def _with_hints(self, kept: list[list[Rollout]], number: int) -> list[list[Rollout]]:
        """Rationalisation (STaR): a prompt of which nothing was kept is asked again with its
        answer told.
        """
        assert self.hints is not None
        failed = [i for i, row in enumerate(kept) if not row]
        prompts = [
            Prompt(self.groups[i].example, self.hints[self.groups[i].example.id]) for i in failed
        ]
        seeds = np.random.default_rng((self.collector.seed, number, 11)).integers(
            0, 2**62, size=len(failed)
        )
        hinted = self.collector.sample(prompts, [int(s) for s in seeds])
        found = self.rule.keep(hinted)
        self._averages.update({"filter/rationalised": float(sum(map(len, found)))})
        both = list(kept)
        for i, row in zip(failed, found, strict=True):
            both[i] = row
        return both
