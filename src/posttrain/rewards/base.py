"""Several rewards together: called by parameter name, weighed, and watched."""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.config import ComponentLike
from posttrain.errors import ConfigError, RewardError
from posttrain.rewards.grader import Failure, Grader
from posttrain.rewards.inputs import Pairs, as_completion, reward_inputs
from posttrain.rewards.reward import (
    FunctionReward,
    LoadedModels,
    Reward,
    bound_reward,
    reward_component,
    unique_name,
)
from posttrain.rewards.values import Value, read_values
from posttrain.types import Example, Sample, Task, Text, Trace, TraceGroup

__all__ = ["RewardLike", "RewardSet", "as_completion"]

RewardLike = ComponentLike | tuple[str, float, dict[str, Any]]
"""A name, a function, a `Reward`, {name: ..., weight: ..., setting: value}, or a `Component`."""

_MIN_SCORES = 32  # completions of a search before a share of failures is judged


@dataclass(frozen=True, slots=True)
class _Reward:
    """A reward under its name in metrics. signature: what its inputs are read from."""

    name: str
    weight: float
    reward: Reward
    signature: Callable[..., Any]

    @property
    def settings(self) -> dict[str, Any]:
        return self.reward.settings if isinstance(self.reward, FunctionReward) else {}


class RewardSet:
    """Rewards whose weighted sum is the reward of a completion.

    A reward is called once per step with all completions. Its parameters are filled by name:
    prompts, completions, completion_ids, traces, answer, examples, task, and any column of the
    data; `**kwargs` takes all columns. The completion of an episode of several turns is the list
    of its messages. They are copies: what a reward does to them changes nothing. It
    returns one number or None (not applicable) per completion, or a list of numbers, one for each
    step of the completion (a line that is not blank), whose mean counts where a step does not. The
    reward of a trace is the weighted sum over its numbers, and None where it has none.

    A failure is recorded: the trace has an `error` and no reward, and no baseline counts it. A
    completion fails where its value is not finite, cannot be converted, or is an exception. Where
    the call itself raises (or exits), the reward is called with each completion alone; those that
    raise then have failed. It is called once more with all others together, and these values
    count, so that a reward that compares completions compares the rest. In such a step a reward
    with n completions is called n + 2 times.

    Args:
        rewards: names of registered rewards, functions, lambdas, `Reward` objects, or components
            with settings and a weight. In metrics lambdas are called lambda_1, lambda_2, ...
        task: what the reward "task" asks.
        max_failed: largest share of a step's completions on which one reward may fail. Above it,
            or where a reward fails on all completions, the run stops.
        timeout_seconds: how long one reward may take for the completions of a step, repeated calls
            included; 0 = no limit.
    """

    def __init__(
        self,
        rewards: Sequence[RewardLike],
        *,
        task: Task | None = None,
        max_failed: float = 0.5,
        timeout_seconds: float = 600.0,
    ) -> None:
        if not rewards:
            raise ConfigError("rewards: at least one is needed; see `posttrain ls rewards`")
        self.task = task
        self.grader = Grader(max_failed=max_failed, timeout_seconds=timeout_seconds)
        # Failed and scored completions of searches, by reward.
        self._scores: dict[str, tuple[int, int]] = {}
        self._models = LoadedModels()
        self._rewards: dict[str, _Reward] = {}
        for value in rewards:
            component = reward_component(value)
            if component.name == "task" and component.function is None and task is None:
                raise ConfigError("rewards: 'task' needs a task; name one, or use another reward")
            name = unique_name(component.name, self._rewards)
            signature, reward = bound_reward(component, self._models)
            self._rewards[name] = _Reward(name, component.weight, reward, signature)

    @property
    def names(self) -> list[str]:
        """Names, as they stand in metrics."""
        return list(self._rewards)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each reward in the sum."""
        return {reward.name: reward.weight for reward in self._rewards.values()}

    @property
    def failures(self) -> dict[str, int]:
        """Failed completions of each reward."""
        return self.grader.failures

    def reward(self, groups: Sequence[TraceGroup]) -> None:
        """Fill `rewards`, `reward` and `error` of every trace that has not failed already.

        Raises:
            RewardError: a reward failed on too many completions of a step, took too long, or
                returned something that is no list of rewards.
        """
        pairs = [(g.example, t) for g in groups for t in g.traces if not t.has_failed]
        self._fill(pairs, self._watch)

    def _fill(self, pairs: Pairs, watch: Callable[[str, int, int, Sequence[Value]], None]) -> None:
        """Reward completions; `watch` is called with name, failures, completions, values of
        each reward.
        """
        for name, reward in self._rewards.items():
            values = self._values(reward, pairs)
            failed = 0
            for (_, trace), value in zip(pairs, values, strict=True):
                if isinstance(value, str):
                    failed += 1
                    trace.rewards[name] = None
                    trace.error = f"{name}: {value}"
                elif isinstance(value, list):
                    trace.step_rewards[name] = value
                    trace.rewards[name] = sum(value) / len(value) if value else 0.0
                else:
                    trace.rewards[name] = value
            self.grader.count(name, failed)
            watch(name, failed, len(pairs), values)
        for _, trace in pairs:
            # Without a failed reward the sum would be of other rewards, so there is none.
            terms = [(r.weight, trace.rewards[n]) for n, r in self._rewards.items()]
            numbers = [w * v for w, v in terms if v is not None]
            trace.reward = sum(numbers) if numbers and trace.error is None else None

    def score(self, example: Example, traces: Sequence[Trace]) -> list[float]:
        """Rewards of some completions of one prompt, as a search asks for them (`score_pairs`)."""
        return self.score_pairs([(example, trace) for trace in traces])

    def score_pairs(self, pairs: Pairs) -> list[float]:
        """The reward of each pair of an example and a completion; -inf where there is none.

        Raises:
            RewardError: as `reward`, but the share of failures is of all completions scored so far.
        """
        if not pairs:
            return []
        self._fill(pairs, self._watch_scores)
        return [-math.inf if trace.reward is None else trace.reward for _, trace in pairs]

    def probe(self, pairs: Pairs) -> list[float]:
        """As `score_pairs`, of texts that nobody trains on: their failures are not counted, and end
        no run.
        """
        failures = dict(self.grader.failures)
        self._fill(pairs, lambda *_: None)
        self.grader.failures.clear()
        self.grader.failures.update(failures)
        self.take_spread()
        return [-math.inf if trace.reward is None else trace.reward for _, trace in pairs]

    def take_spread(self) -> dict[str, tuple[float, int]]:
        """Of each reward that asks several models: the sum over completions of the standard
        deviation of their scores, and the number of completions, since the last call.
        """
        taken = {}
        for name, reward in self._rewards.items():
            take = getattr(reward.reward, "take_spread", None)
            total, count = take() if take is not None else (0.0, 0)
            if count:
                taken[name] = (total, count)
        return taken

    def _watch_scores(self, name: str, failed: int, total: int, values: Sequence[Value]) -> None:
        """A search scores few completions at a time, so the share is of all so far."""
        failures, total_scored = self._scores.get(name, (0, 0))
        failures, total_scored = self._scores[name] = failures + failed, total_scored + total
        if failed and total_scored >= _MIN_SCORES:
            self._watch(name, failures, total_scored, values)

    def _watch(self, name: str, failed: int, total: int, values: Sequence[Value]) -> None:
        if not failed:
            return
        if failed == total or failed > self.grader.max_failed * total:
            reason = next(v for v in values if isinstance(v, str))
            raise RewardError(
                f"reward {name!r} failed on {failed} of {total} completions of a step: {reason}. "
                f"A run stops where a reward fails on all completions or on more than "
                f"max_failed_rewards={self.grader.max_failed:g} of them. Mend the function, or let "
                "it return None where it does not apply. The run goes on from its last checkpoint "
                f"with `posttrain resume`.{self._detail()}"
            )

    def _detail(self) -> str:
        text = self.grader.first_traceback
        return f"\n{text}" if text else ""

    def _values(self, reward: _Reward, pairs: Pairs) -> list[Value]:
        """One value per completion; a text says why there is none."""
        if not pairs:
            return []
        started = time.monotonic()
        together = self._attempt(reward, pairs, started, len(pairs))
        if isinstance(together, list):
            return together
        if len(pairs) == 1:
            return [together]
        values: list[Value] = []
        for pair in pairs:
            alone = self._attempt(reward, [pair], started, len(pairs))
            values.append(alone if isinstance(alone, str) else alone[0])
        sound = [i for i, value in enumerate(values) if not isinstance(value, str)]
        if sound:
            rest = self._attempt(reward, [pairs[i] for i in sound], started, len(pairs))
            for place, i in enumerate(sound):
                values[i] = rest if isinstance(rest, str) else rest[place]
        return values

    def _attempt(
        self, reward: _Reward, pairs: Pairs, started: float, total: int
    ) -> list[Value] | str:
        """The values of one call, or the text of what it raised."""
        inputs = reward_inputs(reward.signature, pairs, self.task, name=reward.name)

        def call() -> list[Value]:
            returned = reward.reward(**inputs)
            if inspect.isawaitable(returned):
                returned = asyncio.run(_awaited(returned))
            return read_values(reward.name, returned, len(pairs))

        limit = self.grader.timeout_seconds
        left = max(limit - (time.monotonic() - started), 0.01) if limit else 0.0
        outcome = self.grader.attempt(f"reward {reward.name!r}", call, seconds=left)
        if not isinstance(outcome, Failure):
            return outcome
        if outcome.timed_out:
            raise RewardError(
                f"reward {reward.name!r} took longer than {limit:g} s for {total} completions. "
                "Give what it waits for a time limit of its own, make it faster, or raise "
                "reward_timeout_seconds (0 = no limit). The run goes on from its last checkpoint "
                "with `posttrain resume`."
            )
        return outcome.reason

    def self_test(self, examples: Sequence[Example]) -> None:
        """Try every reward on known answers before the first step.

        `Reward.check` is called. A function may carry `known_answers`: (completion, answer,
        expected) cases, which must come out exactly. The reward "task" must give 1 for
        reference completions and 0 for the empty one. All others are called once, and must return
        finite numbers. Rewards that read token ids are tried with one token.

        Raises:
            RewardError: names reward, completion, answer and the value it gave.
        """
        for reward in self._rewards.values():
            reward.reward.check()
            if isinstance(reward.reward, FunctionReward):
                self._try(reward, _cases(reward, examples))

    def _try(self, reward: _Reward, cases: list[_Case]) -> None:
        pairs = [(e, _trial(reward, text)) for e, text, _ in cases]
        values = self._values(reward, pairs)
        for (e, text, expected), value in zip(cases, values, strict=True):
            if isinstance(value, str) or (expected is not None and value != expected):
                right = "a finite number" if expected is None else f"{expected:g}"
                raise RewardError(
                    f"self-test of reward {reward.name!r}: {value} for completion {text!r:.80} "
                    f"with answer {e.answer!r:.40}; {right} was expected.{self._detail()}"
                )

    def close(self) -> None:
        """Release what rewards hold, such as models and worker processes."""
        for reward in self._rewards.values():
            reward.reward.close()
        self._models.close()


def _trial(reward: _Reward, text: str) -> Trace:
    """A completion to try a reward on; one token stands for all where it reads token ids."""
    if "completion_ids" in inspect.signature(reward.signature).parameters:
        return Trace.of_sample((1,), Sample([1], [0.0], [0.0], "stop"), text)
    return Trace.of_text(text)


_Case = tuple[Example, str, float | None]
"""An example, a completion, and the value that a reward must give (None: any number)."""


def _cases(reward: _Reward, examples: Sequence[Example]) -> list[_Case]:
    """What a plain function is tried on."""
    cases: list[_Case] = []
    if not reward.settings:  # settings may change what is right
        for text, answer, expected in getattr(reward.signature, "known_answers", ()):
            cases.append((Example("", answer=answer), text, expected))
    if reward.name == "task" or getattr(reward.signature, "__name__", "") == "task":
        worked = [e for e in examples[:4] if e.completion is not None]
        cases += [(e, _flat(e.completion), 1.0) for e in worked]
        cases += [(e, "", 0.0) for e in examples[:2]]
    if cases:
        return cases
    return [
        (e, _flat(e.completion) if e.completion is not None else "a", None) for e in examples[:2]
    ]


async def _awaited(value: Any) -> Any:
    return await value


def _flat(completion: Text | None) -> str:
    if completion is None or isinstance(completion, str):
        return completion or ""
    return "\n".join(str(m.get("content", "")) for m in completion)
