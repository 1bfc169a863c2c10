"""The nouns that travel between modules. No torch here: plain data, cheap to import."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from posttrain.errors import DataError

Message = dict[str, Any]
"""One chat turn: {"role": ..., "content": ...} and whatever else the template reads
(tool_calls, ...).
"""

Text = str | list[Message]
"""A prompt or completion: plain text, or chat messages."""


def plain_text(text: Text) -> str:
    """Text as it is; messages as one line a turn, for people to read."""
    return (
        text
        if isinstance(text, str)
        else "\n".join(f"{m['role']}: {m.get('content', '')}" for m in text)
    )


FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Example:
    """A row of data as a task gives it.

    prompt: what the model is given. completion: a worked reference completion to imitate (None
    where there is none).
    answer: the gold answer that a verifier compares with. columns: every other column, passed to
    rewards by name.
    id: stable name of the row, for error messages and reports.
    """

    prompt: Text
    completion: Text | None = None
    answer: Any = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample. temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 are off; max_tokens
    counts new tokens.
    """

    max_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """`n` completions of one prompt of token ids. The same (prompt_ids, sampling, seed, index)
    gives the same sample.

    reuse: whether later prompts may begin with this one and its samples, so that an engine holds
    what it computed for them.
    """

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    n: int = 1
    seed: int = 0
    reuse: bool = True


@dataclass(slots=True)
class Sample:
    """What an engine wrote.

    ids: new token ids, the stop token included where one ended it.
    engine_logprobs: per id, under the distribution that was sampled from (temperature, top-p, ...
    applied), nats.
    raw_logprobs: per id, under the model itself at temperature 1, nats.
    finish_reason: "stop" (stop id or stop string) or "length" (max_tokens or context reached).
    stop_string: the stop string that ended it, else None; the ids hold it, `text` after decoding
    should drop it.
    weights_version: which weights wrote it.
    """

    ids: list[int]
    engine_logprobs: list[float]
    raw_logprobs: list[float]
    finish_reason: FinishReason
    stop_string: str | None = None
    weights_version: int = 0


@dataclass(slots=True)
class Rollout:
    """One completion with its rewards and its advantage.

    `Rollout(sample, text)` holds a completion that an engine sampled; `Rollout.of_text(text)` one
    of which the text alone is known, such as that of a server. Rewards that read token ids cannot
    be asked about the latter.

    rewards: by reward function, None = not applicable. reward: the weighted sum.
    step_rewards: of rewards that judge each step of a completion, one number per step; `rewards`
    has their mean.
    advantage: the mean over its tokens where those differ. error: why there is no reward.
    text_finish_reason: of a completion without tokens; a sample has its own.
    """

    _sample: Sample | None
    text: str
    rewards: dict[str, float | None] = field(default_factory=dict)
    reward: float | None = None
    advantage: float = 0.0
    error: str | None = None
    step_rewards: dict[str, list[float]] = field(default_factory=dict)
    text_finish_reason: FinishReason = "stop"

    @classmethod
    def of_text(cls, text: str, finish_reason: FinishReason = "stop") -> Rollout:
        """A completion of which only the text is known."""
        return cls(None, text, text_finish_reason=finish_reason)

    @property
    def has_tokens(self) -> bool:
        """Whether the token ids are known."""
        return self._sample is not None

    @property
    def sample(self) -> Sample:
        """The sampled tokens.

        Raises:
            DataError: only the text is known.
        """
        if self._sample is None:
            raise DataError(
                f"the completion {self.text!r:.40} is text without token ids; sample it with an "
                "engine to train on it or to ask rewards that read completion_ids"
            )
        return self._sample

    @property
    def finish_reason(self) -> FinishReason:
        """ "stop", or "length" for a completion that was cut."""
        return self.text_finish_reason if self._sample is None else self._sample.finish_reason


@dataclass(slots=True)
class RolloutGroup:
    """The rollouts of one prompt.

    greedy_reward: of the completion sampled at temperature 0, where one was asked for. num_given:
    tokens at the end of prompt_ids that are the beginning of the gold completion; the rollouts'
    texts begin with them.
    """

    example: Example
    prompt_ids: tuple[int, ...]
    rollouts: list[Rollout]
    greedy_reward: float | None = None
    num_given: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """One object for SFT (examples with completions), reward (score) and metric (score, extract).

    name: how it was asked for.
    examples: the rows, in a fixed order.
    score: (completion text, example) -> reward in [0, 1]; 1.0 for the reference completion. Must
    not raise on any text.
    extract: completion text -> canonical answer, or None where there is none; votes count equal
    answers.
    system: system message, or None. stop: stop strings the task wants. max_tokens: a sensible
    completion length.
    unscored: why `score` cannot be called, such as rows without an answer; "" where it can.
    """

    name: str
    examples: Sequence[Example]
    score: Callable[[str, Example], float]
    extract: Callable[[str], str | None]
    system: str | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int = 256
    unscored: str = ""
