"""Credit for the traces of a step: from rewards and log-probs to the numbers that losses read
at each token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from posttrain import registry
from posttrain.advantages import shape
from posttrain.advantages.turns import Credited
from posttrain.averages import Averages
from posttrain.config import Component, CreditConfig
from posttrain.sources.correction import Nested, corrections
from posttrain.sources.earned import contexts, states, token_rewards, turn_rewards
from posttrain.sources.trace_sequences import turn_numbers
from posttrain.types import TraceGroup


class Creditor:
    """An estimator of advantages with what is done before and after it; it holds the state that a
    resume needs.

    Args:
        advantage: the estimator, by name with settings. config: see `CreditConfig`. asked: inputs
        that the losses ask for.
        reward_weights: of each reward function, by name. token_text: token id -> its text, for
        rewards of steps.
        keep_old: the log-probs of before the first update are needed (several updates a step, a
        line search).
    """

    def __init__(
        self,
        advantage: Component,
        config: CreditConfig,
        *,
        asked: Collection[str],
        reward_weights: Mapping[str, float],
        token_text: Callable[[int], str],
        keep_old: bool = False,
    ) -> None:
        self.inputs = registry.advantages.entry_of(advantage).inputs
        self.function = registry.advantages.bind_of(advantage)
        self.config = config
        self.asked = asked
        self.reward_weights = reward_weights
        self.token_text = token_text
        self.keep_old = keep_old
        self.baseline = math.nan
        self.kl_weight = config.kl_weight
        self.entropy_weight = config.entropy_weight
        self.averages = Averages()

    @property
    def measures(self) -> frozenset[str]:
        """What has to be known of the model as it is before the first update: of logprobs,
        ref_logprobs, entropy, values.
        """
        c = self.config
        needs = set()
        corrects = c.importance_correction != "none" or c.rejection != "none"
        if self.keep_old or c.kl_weight or corrects:
            needs.add("logprobs")
        if c.kl_weight:
            needs.add("ref_logprobs")
        if c.top_entropy < 1 or c.target_entropy is not None:
            needs |= {"logprobs", "entropy"}
        if "values" in self.inputs or not {"old_values", "returns"}.isdisjoint(self.asked):
            needs.add("values")
        return frozenset(needs)

    def state(self) -> dict[str, float | None]:
        """What a resume needs; JSON has no NaN."""
        baseline = None if math.isnan(self.baseline) else self.baseline
        return {
            "baseline": baseline,
            "kl_weight": self.kl_weight,
            "entropy_weight": self.entropy_weight,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` gave."""
        self.baseline = math.nan if state["baseline"] is None else state["baseline"]
        self.kl_weight, self.entropy_weight = state["kl_weight"], state["entropy_weight"]

    def credit(
        self,
        groups: Sequence[TraceGroup],
        measured: Mapping[str, Nested],
        engine: Nested | None,
        counted: Nested,
    ) -> dict[str, Nested]:
        """Streams by name, for every token of every completion; sets each trace's `advantage`.

        Args:
            measured: what `measures` asks for. engine: log-probs of the sampler, None where they
            are of another distribution.
            counted: bool, the tokens that are trained.
        """
        self.averages = Averages()
        rewards = self._clipped(
            padded([[math.nan if t.reward is None else t.reward for t in g.traces] for g in groups])
        )
        lengths = padded([[t.num_sampled for t in g.traces] for g in groups], 0)
        penalties = self._kl_penalties(measured)
        result: Any = self.function(
            *(self._input(n, groups, rewards, lengths, penalties, measured) for n in self.inputs)
        )
        learnt: Nested | None = None  # returns, where not advantages plus values
        if isinstance(result, tuple):
            result, self.baseline = result
        elif isinstance(result, Credited):
            result, learnt = result.advantages, result.returns
        sizes = [[t.num_sampled for t in g.traces] for g in groups]
        missing = [[t.reward is None for t in g.traces] for g in groups]
        advantages = [_per_token(*row) for row in zip(result, sizes, missing, strict=True)]
        streams: dict[str, Nested] = {}
        if "values" in measured:
            streams["old_values"] = measured["values"]
            own = _nested(lambda a, v: a + v, advantages, measured["values"])
            streams["returns"] = own if learnt is None else _chosen(missing, own, learnt)
        if "logprobs" in measured:
            streams["old_logprobs"] = measured["logprobs"]
        rewarded = [
            [c & (not none) for c, none in zip(row, m, strict=True)]
            for row, m in zip(counted, missing, strict=True)
        ]
        streams["advantages"] = self._shaped(advantages, measured, engine, rewarded)
        if "reward_variance" in self.asked:
            variance = [
                float(np.var(row[~np.isnan(row)])) if (~np.isnan(row)).any() else 0.0
                for row in rewards
            ]
            streams["reward_variance"] = [
                [np.full(n, v) for n in row] for v, row in zip(variance, sizes, strict=True)
            ]
        if self.config.target_entropy is not None:
            streams["entropy_weight"] = self._entropy_weights(measured["entropy"], sizes)
        for group, row in zip(groups, streams["advantages"], strict=True):
            for trace, array in zip(group.traces, row, strict=True):
                trace.advantage = float(array.mean()) if len(array) else 0.0
        return streams

    def _clipped(self, rewards: np.ndarray) -> np.ndarray:
        bounds = self.config.reward_clip
        return np.clip(rewards, bounds[0], bounds[1]) if bounds else rewards

    def _kl_penalties(self, measured: Mapping[str, Nested]) -> Nested | None:
        """weight * KL estimate of each token; then the weight moves towards its target."""
        if not self.config.kl_weight:
            return None
        kl = _nested(
            lambda p, q: _kl(q - p, self.config.kl_estimator),
            measured["logprobs"],
            measured["ref_logprobs"],
        )
        mean = float(np.mean([a.sum() for row in kl for a in row]))
        self.averages.update({"reward_kl/mean": mean, "reward_kl/weight": self.kl_weight})
        penalties = _nested(lambda a: self.kl_weight * a, kl)
        if self.config.kl_target is not None:
            self.kl_weight = shape.next_kl_weight(
                self.kl_weight, mean, self.config.kl_target, self.config.kl_gain
            )
        return penalties

    def _input(
        self,
        name: str,
        groups: Sequence[TraceGroup],
        rewards: np.ndarray,
        lengths: np.ndarray,
        penalties: Nested | None,
        measured: Mapping[str, Nested],
    ) -> Any:
        """An input of the estimator."""
        if name == "rewards":
            return (
                rewards
                if penalties is None
                else rewards - padded([[a.sum() for a in row] for row in penalties])
            )
        if name == "greedy_rewards":
            return self._clipped(
                np.array([math.nan if g.greedy_reward is None else g.greedy_reward for g in groups])
            )
        if name == "lengths":
            return lengths
        names = list(self.reward_weights)
        if name == "reward_weights":
            return np.array([self.reward_weights[n] for n in names])
        if name == "reward_table":
            # A completion on which a reward failed has none, so that it counts in no baseline. None
            # becomes NaN.
            none = dict.fromkeys(names)
            rows = [[r.rewards if r.reward is not None else none for r in g.traces] for g in groups]
            return np.stack(
                [padded([[_number(row.get(n)) for row in some] for some in rows]) for n in names],
                axis=2,
            )
        if name == "baseline":
            return self.baseline
        if name == "values":
            return measured["values"]
        if name == "turns":
            return [[turn_numbers(t) for t in g.traces] for g in groups]
        if name == "states":
            return [states(g.traces) for g in groups]
        if name == "contexts":
            return [contexts(g.traces) for g in groups]
        return self._earned(name, groups, rewards, penalties)

    def _earned(
        self,
        name: str,
        groups: Sequence[TraceGroup],
        rewards: np.ndarray,
        penalties: Nested | None,
    ) -> Nested:
        """Rewards of tokens or of turns; KL, where it is in the reward, is that of their tokens."""
        earned = [
            [
                token_rewards(t, float(x), self.reward_weights, self.token_text)
                for t, x in zip(g.traces, row)
            ]
            for g, row in zip(groups, rewards)
        ]
        if name == "token_rewards":
            if penalties is None:
                return earned
            return _nested(lambda r, k: np.nan_to_num(r) - k, earned, penalties)
        if penalties is not None:
            earned = _nested(
                lambda r, k: r if np.isnan(r).all() else np.nan_to_num(r) - k, earned, penalties
            )
        return [
            [turn_rewards(t, x) for t, x in zip(g.traces, row, strict=True)]
            for g, row in zip(groups, earned, strict=True)
        ]

    def _shaped(
        self,
        advantages: Nested,
        measured: Mapping[str, Nested],
        engine: Nested | None,
        counted: Nested,
    ) -> Nested:
        """Whitened, corrected for the sampler's distribution, and masked."""
        c = self.config
        if c.whiten:
            flat = shape.whiten(
                [a for row in advantages for a in row], [a for row in counted for a in row]
            )
            arrays = iter(flat)
            advantages = [[next(arrays) for _ in row] for row in advantages]
        if c.importance_correction != "none" and engine is not None:
            weights = corrections(c, measured["logprobs"], engine, counted, self.averages)
            advantages = _nested(np.multiply, advantages, weights)
        if c.top_entropy < 1:
            entropies = [a for row in measured["entropy"] for a in row]
            kept = iter(
                shape.top_entropy(entropies, [a for row in counted for a in row], c.top_entropy)
            )
            advantages = [[a * next(kept) for a in row] for row in advantages]
        return advantages

    def _entropy_weights(self, entropies: Nested, sizes: Sequence[Sequence[int]]) -> Nested:
        """The weight of the entropy bonus at every token, which is off above the target; then
        the weight moves.
        """
        total, target = (
            sum(float(a.sum()) for row in entropies for a in row),
            self.config.target_entropy,
        )
        assert target is not None
        mean = total / max(sum(map(sum, sizes)), 1)
        weight = self.entropy_weight if mean <= target else 0.0
        self.entropy_weight = shape.next_entropy_weight(
            self.entropy_weight, mean, target, self.config.entropy_change
        )
        return [[np.full(n, weight) for n in row] for row in sizes]


def padded(rows: Sequence[Sequence[float]], absent: float = math.nan) -> np.ndarray:
    """Rows of any length as an array [P, G], G the length of the longest; `absent` where a row has
    no number.
    """
    longest = max(map(len, rows), default=0)
    return np.array([[*row, *[absent] * (longest - len(row))] for row in rows], dtype=float)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _per_token(
    advantages: Sequence[Any], sizes: Sequence[int], missing: Sequence[bool]
) -> list[np.ndarray]:
    """Advantages of the traces of a prompt as arrays [T]; 0 where a trace has no reward. What is
    given beyond the last trace is padding.
    """
    arrays = [
        np.broadcast_to(np.asarray(a, dtype=float), (n,)).copy()
        for a, n in zip(advantages, sizes, strict=False)
    ]
    return [np.zeros_like(a) if none else a for a, none in zip(arrays, missing, strict=True)]


def _chosen(missing: Sequence[Sequence[bool]], first: Nested, second: Nested) -> Nested:
    """`first` of the traces that have no reward, `second` of the others."""
    return [
        [a if none else b for none, a, b in zip(*row, strict=True)]
        for row in zip(missing, first, second, strict=True)
    ]


def _kl(difference: np.ndarray, estimator: str) -> np.ndarray:
    """As `losses.penalty.kl_estimate`, of d = log ref - log pi."""
    if estimator == "k1":
        return -difference
    return difference**2 / 2 if estimator == "k2" else np.expm1(difference) - difference


def _nested(function: Callable[..., np.ndarray], *nested: Nested) -> Nested:
    return [
        [function(*arrays) for arrays in zip(*rows, strict=True)]
        for rows in zip(*nested, strict=True)
    ]
