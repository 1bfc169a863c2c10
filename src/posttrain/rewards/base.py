"""Several rewards together: called by parameter name, weighed, and watched."""

from __future__ import annotations

import asyncio
import inspect
import math
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from posttrain import registry
from posttrain.errors import ConfigError, RewardError
from posttrain.types import Example, Rollout, RolloutGroup, Sample, Task, Text

Settings = dict[str, Any]
_Value = float | list[float] | str | None


class RewardSet:
    """The rewards of a recipe.

    A reward is called once a step with all completions. Its parameters are filled by name: prompts, completions,
    completion_ids, answer, examples, task, and any column of the data; `**kwargs` takes all columns. It returns one
    number or None (not applicable) per completion, or a list of numbers, one a step of the completion (a line that is not
    blank), whose mean counts where a step does not. The reward of a rollout is the weighted sum over the numbers it got,
    and None where it got none.

    Args:
        rewards: (name, weight, settings). task: what the reward "task" asks. max_failed: the share of a step's calls of
            one reward at which the run stops; below it, failures are counted and shown, and their rollouts have no reward.
    """

    def __init__(
        self, rewards: Sequence[tuple[str, float, Settings]], *, task: Task | None = None, max_failed: float = 1.0
    ) -> None:
        if not rewards:
            raise ConfigError("rewards: at least one is needed; see `posttrain ls rewards`")
        self.task = task
        self.max_failed = max_failed
        self.failures: dict[str, int] = {}
        self.first_traceback: str | None = None
        self._functions: dict[str, tuple[float, Callable[..., Any], Callable[..., Any]]] = {}
        for name, weight, settings in rewards:
            if name == "task" and task is None:
                raise ConfigError("rewards: 'task' needs a task; name one, or use another reward")
            unique = name if name not in self._functions else f"{name}_{len(self._functions)}"
            bound = registry.rewards.bind(name, settings)
            self._functions[unique] = (weight, bound, registry.rewards.get(name))

    @property
    def names(self) -> list[str]:
        """Names, as they stand in metrics."""
        return list(self._functions)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each reward in the sum."""
        return {name: weight for name, (weight, _, _) in self._functions.items()}

    def reward(self, groups: Sequence[RolloutGroup]) -> None:
        """Fill `rewards`, `reward` and `error` of every rollout.

        Raises:
            RewardError: a reward failed on (at least max_failed of) a step, or returned something that is no reward.
        """
        pairs = [(g.example, r) for g in groups for r in g.rollouts]
        for name, (_, bound, function) in self._functions.items():
            values = self._call(name, bound, function, pairs)
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
            self._watch(name, failed, len(pairs), values)
        for _, rollout in pairs:
            # A failed reward leaves the rollout without one: a sum of the others would be another reward.
            known = [(self._functions[n][0], v) for n, v in rollout.rewards.items() if v is not None]
            rollout.reward = sum(w * v for w, v in known) if known and rollout.error is None else None

    def score(self, example: Example, texts: Sequence[str]) -> list[float]:
        """Rewards of some completions of one prompt, as a search asks for them; the lowest number where there is none."""
        rollouts = [Rollout(Sample([], [], [], "stop"), text) for text in texts]
        self.reward([RolloutGroup(example, (), rollouts)])
        return [-math.inf if r.reward is None else r.reward for r in rollouts]

    def _watch(self, name: str, failed: int, total: int, values: Sequence[_Value]) -> None:
        if not failed:
            return
        self.failures[name] = self.failures.get(name, 0) + failed
        if failed >= self.max_failed * total:
            reason = next(v for v in values if isinstance(v, str))
            detail = f"\n{self.first_traceback}" if self.first_traceback else ""
            raise RewardError(
                f"reward {name!r} failed on {failed} of {total} completions of a step: {reason}. Mend the function; the run "
                f"can go on from its last checkpoint with `posttrain resume`.{detail}"
            )

    def _call(
        self,
        name: str,
        bound: Callable[..., Any],
        function: Callable[..., Any],
        pairs: Sequence[tuple[Example, Rollout]],
    ) -> list[_Value]:
        """One value per completion; a text tells why there is none."""
        try:
            returned = bound(**self._inputs(function, pairs))
            if inspect.isawaitable(returned):
                returned = asyncio.run(_awaited(returned))
        except RewardError:
            raise
        except Exception as error:
            if self.first_traceback is None:
                self.first_traceback = traceback.format_exc(limit=-3)
            return [f"{type(error).__name__}: {error}"] * len(pairs)
        if not isinstance(returned, Sequence) or isinstance(returned, str):
            returned = list(returned) if hasattr(returned, "__iter__") else returned
        if not isinstance(returned, Sequence) or len(returned) != len(pairs):
            size = len(returned) if isinstance(returned, Sequence) else type(returned).__name__
            raise RewardError(
                f"reward {name!r} returned {size} for {len(pairs)} completions; one number (or None) each is wanted"
            )
        return [self._value(name, value) for value in returned]

    @staticmethod
    def _value(name: str, value: Any) -> _Value:
        if value is None:
            return None
        if isinstance(value, list | tuple):
            steps = [RewardSet._value(name, v) for v in value]
            return [v if isinstance(v, float) else 0.0 for v in steps]
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise RewardError(f"reward {name!r} returned {value!r}, which is not a number") from error
        return number if math.isfinite(number) else f"returned {number}"

    def _inputs(self, function: Callable[..., Any], pairs: Sequence[tuple[Example, Rollout]]) -> dict[str, Any]:
        known: dict[str, Any] = {
            "prompts": [e.prompt for e, _ in pairs],
            "completions": [as_completion(e.prompt, r.text) for e, r in pairs],
            "completion_ids": [r.sample.ids for _, r in pairs],
            "answer": [e.answer for e, _ in pairs],
            "examples": [e for e, _ in pairs],
            "task": self.task,
            "trainer_state": None,
            "log_extra": lambda *args, **kwargs: None,
            "log_metric": lambda *args, **kwargs: None,
        }
        columns = {name for e, _ in pairs for name in e.columns} - known.keys()
        every = {**known, **{name: [e.columns.get(name) for e, _ in pairs] for name in columns}}
        parameters = inspect.signature(function).parameters.values()
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            own = {p.name for p in parameters}
            return {k: v for k, v in every.items() if k in own or k not in ("task", "examples")}
        wanted = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        for p in wanted:
            if p.name not in every and p.default is p.empty:
                raise RewardError(
                    f"reward {function.__name__!r} asks for {p.name!r}, which is neither an input nor a column of the data; "
                    f"there are {', '.join(sorted(every))}"
                )
        return {p.name: every[p.name] for p in wanted if p.name in every}

    def self_test(self, examples: Sequence[Example]) -> None:
        """Try every reward on known answers before the first step.

        A reward may carry `known_answers`: (completion, answer, expected) cases, which must come out exactly; or `check`, which
        is called with its settings where a trial would have to load a model. The reward
        "task" must give 1 for reference completions and 0 for the empty one. All others are called once, and must return
        finite numbers.

        Raises:
            RewardError: names reward, completion, answer and the value it gave.
        """
        for name, (_, bound, function) in self._functions.items():
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
                cases += [(e, _flat(e.completion), 1.0) for e in known] + [(e, "", 0.0) for e in examples[:2]]
            if not cases:
                cases = [(e, _flat(e.completion) if e.completion is not None else "a", None) for e in examples[:2]]
            rollouts = [(e, Rollout(Sample([1], [0.0], [0.0], "stop"), text)) for e, text, _ in cases]
            for (e, text, expected), value in zip(cases, self._call(name, bound, function, rollouts), strict=True):
                if isinstance(value, str) or (expected is not None and value != expected):
                    wanted = "a finite number" if expected is None else f"{expected:g}"
                    detail = f"\n{self.first_traceback}" if self.first_traceback else ""
                    raise RewardError(
                        f"self-test of reward {name!r}: {value} for completion {text!r:.80} with answer {e.answer!r:.40}; "
                        f"{wanted} was expected.{detail}"
                    )

    def close(self) -> None:
        """Release what rewards hold, such as worker processes."""
        for _, _, function in self._functions.values():
            release = getattr(function, "close", None)
            if release is not None:
                release()


async def _awaited(value: Any) -> Any:
    return await value


def as_completion(prompt: Text, text: str) -> Text:
    """Text for text prompts, one assistant message for chat prompts, as TRL's rewards expect."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def _flat(completion: Text | None) -> str:
    if completion is None or isinstance(completion, str):
        return completion or ""
    return "\n".join(str(m.get("content", "")) for m in completion)
