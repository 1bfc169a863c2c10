"""CPPO: completions are learnt from, or held to the policy of the stage before, by their kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from posttrain.averages import Averages
from posttrain.config import Component
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.errors import ConfigError
from posttrain.registry import retentions
from posttrain.retentions.base import Retention, Stage, with_source, with_term
from posttrain.sources.rows import Source
from posttrain.training.plan import Learner, Plan

Array = np.ndarray


def rollout_weights(
    rewards: Array, logprobs: Array, *, threshold: float, low: float, high: float
) -> tuple[Array, Array]:
    """Weights of learning and of retention by the kind of each completion.

    | reward | log-prob | kind             | learning | retention |
    | high   | high     | high performance | high     | high      |
    | high   | low      | high variance    | high     | low       |
    | low    | high     | overfitting      | high     | low       |
    | low    | low      | noisy            | low      | low       |

    High is above mean + threshold * deviation, low below mean - threshold * deviation of the step.
    All others weigh 1, as do completions without a reward.

    Args:
        rewards, logprobs [S]: reward, and mean log-prob per token; NaN where there is none.
    """
    learning, retention = np.ones(len(rewards)), np.ones(len(rewards))
    (up, down), (likely, unlikely) = (_sides(x, threshold) for x in (rewards, logprobs))
    for one, other, a, b in (
        (up, likely, high, high),
        (up, unlikely, high, low),
        (down, likely, high, low),
        (down, unlikely, low, low),
    ):
        learning[one & other], retention[one & other] = a, b
    return learning, retention


def _sides(values: Array, threshold: float) -> tuple[Array, Array]:
    """Which values are high, and which are low."""
    known = values[~np.isnan(values)]
    if not len(known):
        nothing = np.zeros(len(values), dtype=bool)
        return nothing, nothing
    mean, deviation = known.mean(), known.std()
    return values > mean + threshold * deviation, values < mean - threshold * deviation


class WeightedSource:
    """The batches of a source of rollouts, with advantages times the weight of learning and a
    stream of the weight of retention.
    """

    def __init__(self, own: Source, threshold: float, low: float, high: float) -> None:
        self.own, self.bounds = own, {"threshold": threshold, "low": low, "high": high}
        self._weights = Averages()

    def batches(self, step: int) -> Iterator[Batch]:
        self._weights = Averages()
        for batch in self.own.batches(step):
            # Retention has a gradient where advantages are 0 too.
            trees = [*batch.trees, *batch.idle]
            rows = [s for tree in trees for s in tree.sequences]
            rewards = np.array([s.values.get("reward", np.nan) for s in rows])
            logprobs = np.array([_mean_logprob(s) for s in rows])
            learning, retention = rollout_weights(rewards, logprobs, **self.bounds)
            self._weights.add("cppo/learning_weight", learning.sum(), len(rows))
            self._weights.add("cppo/retention_weight", retention.sum(), len(rows))
            weighed = iter(
                _weighed(s, a, b) for s, a, b in zip(rows, learning, retention, strict=True)
            )
            weighted = [Tree.build([next(weighed) for _ in tree.sequences]) for tree in trees]
            yield replace(batch, trees=weighted, idle=[])

    def updated(self, model: Any) -> None:
        self.own.updated(model)

    def metrics(self) -> Averages:
        averages = self.own.metrics()
        averages.merge(self._weights)
        return averages

    def state(self) -> dict[str, Any]:
        return self.own.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.own.load_state(state)

    def __getattr__(self, name: str) -> Any:
        # What a source of rollouts offers beside the protocol.
        if name.startswith("__") or name == "own":
            raise AttributeError(name)
        return getattr(self.own, name)


def _mean_logprob(sequence: TokenSequence) -> float:
    """Mean log-prob per sampled token, as the engine reported it."""
    stream = sequence.streams.get("engine_logprobs")
    if stream is None or not sequence.loss_mask.any():
        return float("nan")
    return float(stream[sequence.loss_mask].mean())


def _weighed(sequence: TokenSequence, learning: float, retention: float) -> TokenSequence:
    streams = dict(sequence.streams)
    streams["advantages"] = streams["advantages"] * np.float32(learning)
    streams["retention_weight"] = np.full(len(sequence.ids), retention, dtype=np.float32)
    return replace(sequence, streams=streams)


class WeightedRollouts(Retention):
    """Weights of learning and retention for each completion, and the term of retention."""

    def __init__(self, weight: float, threshold: float, low: float, high: float) -> None:
        self.weight, self.bounds = weight, (threshold, low, high)

    def begin(self, stage: Stage) -> Plan:
        """The plan with weighted completions."""
        if not stage.earlier:
            return stage.plan
        if not any("advantages" in term.inputs for term in stage.plan.objective.terms):
            raise ConfigError(
                f"cppo: it weighs sampled completions, and the stage is by {stage.plan.method!r}; "
                "take method ppo or grpo, or another retention method"
            )

        def make(spec: Any, seed: int, steps: int, own: Source, learner: Learner) -> WeightedSource:
            return WeightedSource(own, *self.bounds)

        term = Component("knowledge_retention", {}, weight=self.weight)
        return with_source(with_term(stage.plan, term, ("retention_weight",)), make)


@retentions.register
def cppo(
    *, weight: float = 0.1, threshold: float = 0.5, low: float = 0.5, high: float = 2.0
) -> Retention:
    """Continual PPO (CPPO, Zhang et al., ICLR 2024), for sequences of ppo or grpo.

    L = mean_t alpha(x) l_t + weight mean_t beta(x) (log pi(y_t) - log pi_{t-1}(y_t))^2

    alpha and beta follow from a completion's reward and log-prob (`rollout_weights`, the paper's
    heuristic). pi_{t-1} is the model as the stage begins. The first stage trains as without.

    Args:
        weight: of the term of retention.
        threshold: deviations from the mean beyond which a reward or log-prob is high or low.
        low: the weight of what is to be learnt or kept little.
        high: the weight of what is to be learnt or kept.
    """
    if not weight >= 0:
        raise ConfigError(f"cppo: weight is {weight}; it must not be negative")
    if not threshold >= 0:
        raise ConfigError(f"cppo: threshold is {threshold}; it must not be negative")
    if not 0 <= low <= 1 <= high:
        raise ConfigError(
            f"cppo: low is {low} and high {high}; 0 <= low <= 1 <= high, as all others weigh 1"
        )
    return WeightedRollouts(weight, threshold, low, high)
