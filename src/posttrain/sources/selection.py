"""Self-training: rounds of sampling, keeping the good completions, and imitating them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.errors import ConfigError, DataError
from posttrain.types import Trace, TraceGroup


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

    @property
    def reads_rewards(self) -> bool:
        """Whether rewards say which completions are selected."""
        bounded = self.min_reward is not None or self.max_per_prompt is not None
        return bounded or self.top_fraction < 1

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

    def keep(self, groups: Sequence[TraceGroup]) -> list[list[Trace]]:
        """The completions of each group that are kept, best first; ties in the order of sampling.

        Empty completions, and those without a reward (not applicable, or the reward failed), never
        are.
        """
        candidates = [self._candidates(group) for group in groups]
        if self.top_fraction < 1:
            pool = sorted(
                (r.reward for row in candidates for r in row if r.reward is not None), reverse=True
            )
            room = max(1, round(self.top_fraction * len(pool)))
            least = pool[min(room, len(pool)) - 1] if pool else 0.0
            above = sum(value > least for value in pool)
            room -= above  # for those that tie at the border, first come first served
            chosen: list[list[Trace]] = []
            for row in candidates:
                chosen.append([])
                for r in row:
                    assert r.reward is not None
                    if r.reward > least or (r.reward == least and room > 0):
                        room -= r.reward == least
                        chosen[-1].append(r)
            candidates = chosen
        return [row[: self.max_per_prompt] for row in candidates]

    def _candidates(self, group: TraceGroup) -> list[Trace]:
        rated = [(r.reward, r) for r in group.traces if r.reward is not None and _said(r)]
        if self.min_reward is not None:
            rated = [(reward, r) for reward, r in rated if reward >= self.min_reward]
        if self.distinct:
            first: dict[object, tuple[float, Trace]] = {}
            for reward, r in rated:
                first.setdefault(_said(r), (reward, r))
            rated = list(first.values())
        return [r for _, r in sorted(rated, key=lambda pair: -pair[0])]


def _said(trace: Trace) -> object:
    """What tells completions apart: their ids, or their text where whoever wrote them gave no
    ids; falsy where empty.
    """
    return (tuple(trace.sample.ids) if trace.has_tokens else ()) or trace.text.strip()


def filter_metrics(
    groups: Sequence[TraceGroup], kept: Sequence[Sequence[Trace]], rule: Rule
) -> dict[str, float]:
    """What became of sampled completions: shares of those sampled, and of the prompts."""
    traces = [r for g in groups for r in g.traces]
    num = max(len(traces), 1)
    least = 1.0 if rule.min_reward is None else rule.min_reward
    return {
        "filter/pass_rate": sum(r.reward is not None and r.reward >= least for r in traces) / num,
        "filter/distinct": sum(len({_said(r) for r in g.traces}) for g in groups) / num,
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
