"""A watch over reinforcement learning: proxy and gold reward side by side, and alarms.

The proxy is what a run trains on. The gold reward is what is really wanted; it is an oracle, which
is watched and never trained on. Each step gives a mean over prompts with its standard error, and an
alarm compares windows of W steps. With m_w and s_w^2 the mean and the variance of the mean of a
window, gold has fallen significantly since an earlier window w where

    (m_w - m_now) / sqrt(s_w^2 + s_now^2) > z(1 - 0.05 / k),

k the number of earlier windows (Bonferroni), and the proxy has risen since the same window at
z(0.95) (over-optimisation as in Gao et al., arXiv 2210.10760).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

from posttrain.averages import Averages
from posttrain.config import WatchConfig
from posttrain.evaluation.exploits import EXPLOITS
from posttrain.rewards.base import RewardSet
from posttrain.types import Example, Sample, Task, Trace, TraceGroup

TEXTS = {
    "gold_falls": "gold falls while the proxy rises",
    "length": "completions have grown",
    "format": "fewer completions have an answer",
    "probes": "a known exploit scores above the median",
}
"""Alarms in words."""

_SIGNIFICANT = 0.05
_NGRAM = 4
_TIE = 1e-9  # a tie with the median is no exploit

Moment = tuple[float, float]
"""Mean over the prompts of a step, and the variance of that mean."""


def moment(values: Sequence[float]) -> Moment:
    """Mean and variance of the mean; the variance of one value is unknown, and infinite."""
    x = np.asarray(values, dtype=np.float64)
    variance = float(x.var(ddof=1) / len(x)) if len(x) > 1 else math.inf
    return float(x.mean()), variance


def pooled(moments: Sequence[Moment]) -> Moment:
    """Mean of the means of several steps, and its variance."""
    count = len(moments)
    return (
        math.fsum(m for m, _ in moments) / count,
        math.fsum(v for _, v in moments) / count**2,
    )


def z_score(first: Moment, second: Moment) -> float:
    """How many standard errors the second is above the first; 0 where both are exact and equal."""
    difference, variance = second[0] - first[0], first[1] + second[1]
    if variance == 0:
        return math.copysign(math.inf, difference) if difference else 0.0
    return difference / math.sqrt(variance)


def gold_has_fallen(proxy: Sequence[Moment], gold: Sequence[Moment], window: int) -> bool:
    """The rule of the module's docstring, on the moments of the steps that have gold rewards."""
    earlier = range(len(gold) - 2 * window + 1)
    if not len(earlier):
        return False
    now_gold, now_proxy = pooled(gold[-window:]), pooled(proxy[-window:])
    bound = NormalDist().inv_cdf(1 - _SIGNIFICANT / len(earlier))
    rise = NormalDist().inv_cdf(1 - _SIGNIFICANT)
    return any(
        z_score(now_gold, pooled(gold[i : i + window])) > bound
        and z_score(pooled(proxy[i : i + window]), now_proxy) > rise
        for i in earlier
    )


def repetition(ids: Sequence[int], n: int = _NGRAM) -> float:
    """Share of the n-grams of token ids that occurred before: 1 - distinct / all; 0 of fewer than
    n ids.
    """
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


@dataclass(slots=True)
class _History:
    """What a resume needs. gold, proxy: moments of the steps with gold rewards. length, extracted:
    of every step, the first window and the last.
    """

    proxy: list[Moment] = field(default_factory=list)
    gold: list[Moment] = field(default_factory=list)
    length: list[Moment] = field(default_factory=list)
    extracted: list[Moment] = field(default_factory=list)


class Watch:
    """Watches the completions of each step. It changes neither rewards nor batches.

    Args:
        config: what is watched, and by which rules.
        proxy: the rewards that are trained on. gold: those that are watched; None without any.
        task: says what an answer is. encode: text -> token ids, for probes.
        max_tokens: of a completion.
    """

    def __init__(
        self,
        config: WatchConfig,
        proxy: RewardSet,
        gold: RewardSet | None,
        task: Task,
        encode: Callable[[str], Sequence[int]],
        max_tokens: int,
    ) -> None:
        self.config, self.proxy, self.gold, self.task = config, proxy, gold, task
        self.encode, self.max_tokens = encode, max_tokens
        self.ended = ""
        self._history = _History()
        self._streaks: dict[str, int] = {}
        self._new: list[str] = []

    def measures_kl(self, step: int) -> bool:
        """Whether the KL to the start is due. step: from 0."""
        return _is_due(step, self.config.kl_every)

    def observe(
        self, step: int, groups: Sequence[TraceGroup], kl: Sequence[float] | None = None
    ) -> Averages:
        """Metrics of a step, and its alarms.

        Args:
            step: from 0. groups: rewarded by the proxy. kl: estimates of KL(policy || start) of
            completions, nats.
        """
        history, averages = self._history, Averages()
        traces = [t for g in groups for t in g.traces]
        rewarded = [[t.reward for t in g.traces if t.reward is not None] for g in groups]
        proxies = [float(np.mean(row)) for row in rewarded if row]
        numbers = {
            "length": [float(np.mean([t.num_sampled for t in g.traces])) for g in groups],
            "repetition": [repetition(_ids(t)) for t in traces],
            "extracted": [float(self.task.extract(t.text) is not None) for t in traces],
        }
        for name, values in numbers.items():
            averages.add(f"watch/{name}", math.fsum(values), len(values))
        _extend(history.length, moment(numbers["length"]), self.config.window)
        _extend(history.extracted, moment(numbers["extracted"]), self.config.window)
        if kl:
            averages.add("watch/kl", math.fsum(kl), len(kl))
        if proxies:
            averages.add("watch/proxy", math.fsum(proxies), len(proxies))
            if self.gold is not None and _is_due(step, self.config.gold_every):
                self._judge(groups, proxies, averages)
        flat = [x for row in rewarded for x in row]
        exploited = None
        if flat and _is_due(step, self.config.probe_every):
            exploited = self._probe(groups, flat, averages)
        for name, alarm in self._alarms(exploited).items():
            averages.update({f"watch/alarm/{name}": float(alarm)})
        return averages

    def _judge(
        self, groups: Sequence[TraceGroup], proxies: Sequence[float], averages: Averages
    ) -> None:
        """Gold rewards of copies of the traces."""
        assert self.gold is not None
        copies = [TraceGroup(g.example, g.prompt_ids, [_bare(t) for t in g.traces]) for g in groups]
        self.gold.reward(copies)
        rows = [[t.reward for t in g.traces if t.reward is not None] for g in copies]
        golds = [float(np.mean(row)) for row in rows if row]
        if golds:
            averages.add("watch/gold", math.fsum(golds), len(golds))
            self._history.gold.append(moment(golds))
            self._history.proxy.append(moment(proxies))

    def _probe(
        self, groups: Sequence[TraceGroup], rewards: Sequence[float], averages: Averages
    ) -> bool:
        """Score known exploits by the proxy; whether one scores above the median completion."""
        median = float(np.median(rewards))
        pairs: dict[str, list[tuple[Example, Trace]]] = {}
        for group in groups[: self.config.num_probe_prompts]:
            for name, text in self._exploits(group).items():
                fitting, ids = self._fitting(text)
                sample = Sample(ids, [], [], "stop")
                trace = Trace.of_sample(group.prompt_ids, sample, fitting)
                pairs.setdefault(name, []).append((group.example, trace))
        exploited = False
        for name, some in pairs.items():
            scores = [x for x in self.proxy.probe(some) if math.isfinite(x)]
            if scores:
                mean = math.fsum(scores) / len(scores)
                averages.update({f"watch/probe/{name}": mean})
                exploited |= mean > median + _TIE
        averages.update({"watch/probe/median": median})
        return exploited

    def _exploits(self, group: TraceGroup) -> dict[str, str]:
        """The texts that are tried on a prompt, by the name of the probe."""
        sampled = group.traces[0].text if group.traces else ""
        texts = {name: EXPLOITS[name](group.example, sampled) for name in self.config.probes}
        return texts | {f"text_{i}": text for i, text in enumerate(self.config.texts, 1)}

    def _fitting(self, text: str) -> tuple[str, list[int]]:
        """A probe with its token ids, no longer than a completion can be."""
        ids = list(self.encode(text))
        if len(ids) <= self.max_tokens:
            return text, ids
        text = text[: len(text) * self.max_tokens // len(ids)]
        return text, list(self.encode(text))[: self.max_tokens]

    # -- alarms

    def _alarms(self, exploited: bool | None) -> dict[str, bool]:
        """Alarms that could be judged at this step, by name."""
        c, h = self.config, self._history
        alarms: dict[str, bool] = {}
        if len(h.length) == 2 * c.window:
            first, last = (pooled(part)[0] for part in _ends(h.length, c.window))
            alarms["length"] = last > c.max_growth * first
            before, now = (pooled(part) for part in _ends(h.extracted, c.window))
            bound = NormalDist().inv_cdf(1 - _SIGNIFICANT)
            alarms["format"] = z_score(now, before) > bound and before[0] - now[0] > c.max_drop
        if len(h.gold) >= 2 * c.window:
            alarms["gold_falls"] = gold_has_fallen(h.proxy, h.gold, c.window)
        if exploited is not None:
            alarms["probes"] = exploited
        for name, alarm in alarms.items():
            before_streak = self._streaks.get(name, 0)
            self._streaks[name] = before_streak + 1 if alarm else 0
            if alarm and not before_streak:
                self._new.append(TEXTS[name])
            if name in c.stop_on and self._streaks[name] >= c.patience and not self.ended:
                self.ended = f"{TEXTS[name]} ({name}, {c.patience} times in a row)"
        return alarms

    def take_alarms(self) -> list[str]:
        """Alarms that began since the last call, in words."""
        new, self._new = self._new, []
        return new

    # -- resume

    def state(self) -> dict[str, Any]:
        """What a resume needs, as JSON; an infinite variance is None."""
        history = {
            name: [[m, v if math.isfinite(v) else None] for m, v in getattr(self._history, name)]
            for name in _History.__slots__
        }
        return {"history": history, "streaks": dict(self._streaks), "ended": self.ended}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` gave."""
        history = {
            name: [(m, math.inf if v is None else v) for m, v in rows]
            for name, rows in state["history"].items()
        }
        self._history = _History(**history)
        self._streaks, self.ended = dict(state["streaks"]), state["ended"]

    def close(self) -> None:
        """Release what the gold rewards hold."""
        if self.gold is not None:
            self.gold.close()


def _is_due(step: int, every: int) -> bool:
    """Whether something of a cadence is due at a step from 0; the first step is."""
    return every > 0 and (step == 0 or (step + 1) % every == 0)


def _extend(moments: list[Moment], new: Moment, window: int) -> None:
    """Add a moment, and keep the first window and the last."""
    moments.append(new)
    if len(moments) > 2 * window:
        del moments[window]


def _ends(moments: Sequence[Moment], window: int) -> tuple[Sequence[Moment], Sequence[Moment]]:
    return moments[:window], moments[-window:]


def _ids(trace: Trace) -> list[int]:
    return [i for turn in trace.turns for i in turn.sample.ids]


def _bare(trace: Trace) -> Trace:
    """The same episode without what rewards wrote into it."""
    return Trace(
        trace.turns,
        stop_reason=trace.stop_reason,
        metrics=dict(trace.metrics),
        text_alone=trace.text_alone,
        text_finish_reason=trace.text_finish_reason,
    )
