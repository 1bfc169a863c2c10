"""Several rewards together: called by parameter name, weighed, and watched."""

from __future__ import annotations

import asyncio
import inspect
import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain import registry
from posttrain.errors import ConfigError, PosttrainError, RewardError
from posttrain.rewards.inputs import Pairs, as_completion, copied, reward_inputs
from posttrain.rewards.time_limit import TimeLimitExceeded, call_within
from posttrain.rewards.values import Value, described, read_values
from posttrain.types import Example, Rollout, RolloutGroup, Sample, Task, Text

__all__ = ["RewardSet", "as_completion"]

Settings = dict[str, Any]
_MIN_SCORES = 32  # completions of a search before a share of failures is judged


@dataclass(frozen=True, slots=True)
class _Reward:
    """A reward function under its name in metrics, with its settings bound."""

    name: str
    weight: float
    bound: Callable[..., Any]
    function: Callable[..., Any]


class RewardSet:
    """The rewards of a recipe.

    A reward is called once a step with all completions. Its parameters are filled by name: prompts,
    completions, completion_ids, answer, examples, task, and any column of the data; `**kwargs`
    takes all columns. They are copies: what a reward does to them changes nothing. It returns one
    number or None (not applicable) per completion, or a list of numbers, one for each step of the
    completion (a line that is not blank), whose mean counts where a step does not. The reward of a
    rollout is the weighted sum over its numbers, and None where it has none.

    A failure is recorded: the rollout has an `error` and no reward, and no baseline counts it. A
    completion fails where its value is not finite, cannot be converted, or is an exception. Where
    the call itself raises (or exits), the reward is called with each completion alone; those that
    raise then have failed. It is called once more with all others together, and these values
    count, so that a reward that compares completions compares the rest. In such a step a reward
    with n completions is called n + 2 times.

    Args:
        rewards: (name, weight, settings). task: what the reward "task" asks.
        max_failed: the largest share of a step's completions on which one reward may fail. Above
            it, or where a reward fails on all completions, the run stops.
        timeout_seconds: how long one reward may take for the completions of a step, repeated calls
            included; 0 = no limit.
    """

    def __init__(
        self,
        rewards: Sequence[tuple[str, float, Settings]],
        *,
        task: Task | None = None,
        max_failed: float = 0.5,
        timeout_seconds: float = 600.0,
    ) -> None:
        if not rewards:
            raise ConfigError("rewards: at least one is needed; see `posttrain ls rewards`")
        if not 0 <= max_failed <= 1:
            raise ConfigError(
                f"max_failed_rewards: {max_failed} must be between 0 and 1, the largest share of "
                "completions on which a reward may fail"
            )
        if not 0 <= timeout_seconds < math.inf:
            raise ConfigError(
                f"reward_timeout_seconds: {timeout_seconds} must be 0 (no limit) or above"
            )
        self.task = task
        self.max_failed = max_failed
        self.timeout_seconds = timeout_seconds
        self.failures: dict[str, int] = {}
        self._scores: dict[
            str, tuple[int, int]
        ] = {}  # failures and completions that searches asked for
        self.first_traceback: str | None = None
        self._rewards: dict[str, _Reward] = {}
        for name, weight, settings in rewards:
            if name == "task" and task is None:
                raise ConfigError("rewards: 'task' needs a task; name one, or use another reward")
            unique = name if name not in self._rewards else f"{name}_{len(self._rewards)}"
            bound = registry.rewards.bind(name, copied(settings))
            self._rewards[unique] = _Reward(unique, weight, bound, registry.rewards.get(name))

    @property
    def names(self) -> list[str]:
        """Names, as they stand in metrics."""
        return list(self._rewards)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each reward in the sum."""
        return {reward.name: reward.weight for reward in self._rewards.values()}

    def reward(self, groups: Sequence[RolloutGroup]) -> None:
        """Fill `rewards`, `reward` and `error` of every rollout.

        Raises:
            RewardError: a reward failed on too many completions of a step, took too long, or
                returned something that is no list of rewards.
        """
        self._fill([(g.example, r) for g in groups for r in g.rollouts], self._watch)

    def _fill(self, pairs: Pairs, watch: Callable[[str, int, int, Sequence[Value]], None]) -> None:
        """Reward completions; `watch` is called with name, failures, completions, values of
        each reward.
        """
        for name, reward in self._rewards.items():
            values = self._values(reward, pairs)
            failed = 0
            for (_, rollout), value in zip(pairs, values, strict=True):
                if isinstance(value, str):
                    failed += 1
                    rollout.rewards[name] = None
                    rollout.error = f"{name}: {value}"
                elif isinstance(value, list):
                    rollout.step_rewards[name] = value
                    rollout.rewards[name] = sum(value) / len(value) if value else 0.0
                else:
                    rollout.rewards[name] = value
            if failed:
                self.failures[name] = self.failures.get(name, 0) + failed
            watch(name, failed, len(pairs), values)
        for _, rollout in pairs:
            # Without a failed reward the sum would be of other rewards, so there is none.
            terms = [(r.weight, rollout.rewards[n]) for n, r in self._rewards.items()]
            numbers = [w * v for w, v in terms if v is not None]
            rollout.reward = sum(numbers) if numbers and rollout.error is None else None

    def score(self, example: Example, rollouts: Sequence[Rollout]) -> list[float]:
        """Rewards of some completions of one prompt, as a search asks for them; -inf where there is
        none.

        Raises:
            RewardError: as `reward`, but the share of failures is of all completions asked for so
            far.
        """
        self._fill([(example, r) for r in rollouts], self._watch_scores)
        return [-math.inf if r.reward is None else r.reward for r in rollouts]

    def _watch_scores(self, name: str, failed: int, total: int, values: Sequence[Value]) -> None:
        """A search asks for few completions at a time, so the share is of all that it has asked
        for.
        """
        failures, asked = self._scores.get(name, (0, 0))
        failures, asked = self._scores[name] = failures + failed, asked + total
        if failed and asked >= _MIN_SCORES:
            self._watch(name, failures, asked, values)

    def _watch(self, name: str, failed: int, total: int, values: Sequence[Value]) -> None:
        if not failed:
            return
        if failed == total or failed > self.max_failed * total:
            reason = next(v for v in values if isinstance(v, str))
            raise RewardError(
                f"reward {name!r} failed on {failed} of {total} completions of a step: {reason}. "
                f"A run stops where a reward fails on all completions or on more than "
                f"max_failed_rewards={self.max_failed:g} of them. Mend the function, or let it "
                "return None where it does not apply. The run goes on from its last checkpoint "
                "with "
                f"`posttrain resume`.{self._detail()}"
            )

    def _detail(self) -> str:
        return f"\n{self.first_traceback}" if self.first_traceback else ""

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
        inputs = reward_inputs(reward.function, pairs, self.task)

        def call() -> list[Value]:
            returned = reward.bound(**inputs)
            if inspect.isawaitable(returned):
                returned = asyncio.run(_awaited(returned))
            return read_values(reward.name, returned, len(pairs))

        elapsed = time.monotonic() - started
        limit = max(self.timeout_seconds - elapsed, 0.01) if self.timeout_seconds else 0.0
        try:
            return call_within(call, what=f"reward {reward.name!r}", seconds=limit)
        except (KeyboardInterrupt, PosttrainError):
            raise
        except TimeLimitExceeded:
            raise RewardError(
                f"reward {reward.name!r} took longer than {self.timeout_seconds:g} s for {total} "
                "completions. Give what it waits for a time limit of its own, make it faster, or "
                "raise reward_timeout_seconds (0 = no limit). The run goes on from its last "
                "checkpoint with `posttrain resume`."
            ) from None
        except BaseException as error:  # also SystemExit: a reward does not end a run
            if self.first_traceback is None:
                self.first_traceback = traceback.format_exc(limit=-3)
            return described(error)

    def self_test(self, examples: Sequence[Example]) -> None:
        """Try every reward on known answers before the first step.

        A reward may carry `known_answers`: (completion, answer, expected) cases, which must come
        out exactly; or `check`, which is called with its settings where a trial would have to load
        a model. The reward "task" must give 1 for reference completions and 0 for the empty one.
        All others are called once, and must return finite numbers.

        Raises:
            RewardError: names reward, completion, answer and the value it gave.
        """
        for name, reward in self._rewards.items():
            bound, function = reward.bound, reward.function
            if (check := getattr(function, "check", None)) is not None:
                check(**bound.keywords)  # type: ignore[attr-defined]
                continue
            cases = [
                (Example("", answer=answer), text, expected)
                for text, answer, expected in getattr(function, "known_answers", ())
                if not bound.keywords  # type: ignore[attr-defined]  # settings may change what is right
            ]
            if name == "task" or function.__name__ == "task":
                known = [e for e in examples[:4] if e.completion is not None]
                cases += [(e, _flat(e.completion), 1.0) for e in known] + [
                    (e, "", 0.0) for e in examples[:2]
                ]
            if not cases:
                cases = [
                    (e, _flat(e.completion) if e.completion is not None else "a", None)
                    for e in examples[:2]
                ]
            rollouts = [
                (e, Rollout(Sample([1], [0.0], [0.0], "stop"), text)) for e, text, _ in cases
            ]
            for (e, text, expected), value in zip(
                cases, self._values(reward, rollouts), strict=True
            ):
                if isinstance(value, str) or (expected is not None and value != expected):
                    wanted = "a finite number" if expected is None else f"{expected:g}"
                    raise RewardError(
                        f"self-test of reward {name!r}: {value} for completion {text!r:.80} with "
                        f"answer {e.answer!r:.40}; "
                        f"{wanted} was expected.{self._detail()}"
                    )

    def close(self) -> None:
        """Release what rewards hold, such as worker processes."""
        for reward in self._rewards.values():
            release = getattr(reward.function, "close", None)
            if release is not None:
                release()


async def _awaited(value: Any) -> Any:
    return await value


def _flat(completion: Text | None) -> str:
    if completion is None or isinstance(completion, str):
        return completion or ""
    return "\n".join(str(m.get("content", "")) for m in completion)
