"""The nouns that travel between modules. No torch here: plain data, cheap to import."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from posttrain.budget import Budget
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


TopTokens = tuple[tuple[int, float], ...]
"""The most likely ids in the place of one token with their raw log-probs in nats, best first."""


FinishReason = Literal["stop", "length", "budget", "timeout"]


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
class Constraint:
    """The form that the text of a sample has.

    kind: what text is: a JSON schema, as JSON, or a regular expression that matches the whole
    sample.
    """

    kind: Literal["json_schema", "regex"]
    text: str

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any]) -> Constraint:
        """JSON that is valid under a schema, with at most one space between its parts."""
        return cls("json_schema", json.dumps(schema))

    @classmethod
    def regex(cls, pattern: str) -> Constraint:
        """Text that a regular expression matches from beginning to end."""
        return cls("regex", pattern)


@dataclass(frozen=True, slots=True)
class Request:
    """`n` completions of one prompt of token ids. The same (prompt_ids, sampling, seed, index)
    gives the same sample.

    reuse: whether later prompts may begin with its samples, so that an engine holds what it
    computed for them. budget: shared with other requests. deadline_seconds: from `submit` on, None
    = no limit; samples that are not complete by then end with what they have. Neither is part of
    what fixes a sample but for where it ends. constraint: the form of the text, a part of the
    distribution that is sampled from. num_top_logprobs: most likely ids to report in the place of
    each sampled one. adapter: name of the adapter that writes it, "" for none.
    """

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    n: int = 1
    seed: int = 0
    reuse: bool = True
    budget: Budget | None = None
    deadline_seconds: float | None = None
    constraint: Constraint | None = None
    num_top_logprobs: int = 0
    adapter: str = ""


class VersionSpan(NamedTuple):
    """Tokens [start, end) of a sample and the version of the weights that wrote them."""

    version: int
    start: int
    end: int


@dataclass(slots=True)
class Sample:
    """What an engine wrote.

    ids: new token ids, the stop token included where one ended it.
    engine_logprobs: per id, under the distribution that was sampled from (temperature, top-p, ...
    applied), nats.
    raw_logprobs: per id, under the model itself at temperature 1, nats.
    finish_reason: "stop" (stop id or stop string), "length" (max_tokens or context reached),
    "budget" (the request's budget is spent) or "timeout" (its deadline has passed).
    stop_string: the stop string that ended it, else None; the ids hold it, `text` after decoding
    should drop it.
    weights_version: which weights wrote it; the oldest where several did.
    version_spans: which weights wrote which tokens, in order and without gaps; () where one version
    wrote all.
    top_logprobs: per id, the most likely ids in its place with their raw log-probs, best first; as
    many as the request's num_top_logprobs.
    """

    ids: list[int]
    engine_logprobs: list[float]
    raw_logprobs: list[float]
    finish_reason: FinishReason
    stop_string: str | None = None
    weights_version: int = 0
    top_logprobs: list[TopTokens] = field(default_factory=list)
    version_spans: tuple[VersionSpan, ...] = ()

    @property
    def spans(self) -> tuple[VersionSpan, ...]:
        """`version_spans`, with one span where one version wrote all."""
        return self.version_spans or (VersionSpan(self.weights_version, 0, len(self.ids)),)


StopReason = Literal[
    "completed",
    "tool_stopped",
    "max_turns",
    "max_tokens",
    "max_tool_calls",
    "context_overflow",
    "parse_error",
    "timeout",
]
"""Why an episode ended: by itself, by a tool or its environment, at a limit (turns, tokens, tool
calls, the model's context, seconds), or because a tool call could not be read.
"""

_LIMITS = frozenset({"max_turns", "max_tokens", "max_tool_calls", "context_overflow", "timeout"})


@dataclass(slots=True)
class ToolCall:
    """One call of a tool.

    result: what the tool returned, as text; None where it failed. error: why it failed. seconds:
    how long it took.
    """

    name: str
    arguments: dict[str, Any]
    result: str | None = None
    error: str | None = None
    seconds: float = 0.0


@dataclass(slots=True)
class Turn:
    """One completion of the policy in the context in which it was sampled.

    context_ids: all token ids before it. sample: the sampled ids, which are the trained ids. text:
    the completion as text.
    messages: what was said since the turn before (user, tool, system), for people to read.
    tool_calls: the calls that the completion makes. reward: the environment's reward of this step;
    None where it gives none.
    is_trained: False leaves the turn out of losses: truncated, not parsed, or not of the policy.
    given: of each id of the sample, whether it was put there and not sampled; empty: none was. No
    loss counts such ids.
    """

    context_ids: tuple[int, ...]
    sample: Sample
    text: str
    messages: list[Message] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    reward: float | None = None
    is_trained: bool = True
    given: tuple[bool, ...] = ()

    @property
    def loss_mask(self) -> list[bool]:
        """Which ids of the sample losses count."""
        given = self.given or (False,) * len(self.sample.ids)
        return [self.is_trained and not was_given for was_given in given]

    @property
    def ids(self) -> tuple[int, ...]:
        """Context and completion."""
        return (*self.context_ids, *self.sample.ids)


@dataclass(slots=True)
class Trace:
    """One episode with its rewards and its advantage: a completion, or several turns.

    `Trace.of_sample(prompt_ids, sample, text)` holds one completion that an engine sampled;
    `Trace.of_text(text)` one of which the text alone is known, such as that of a server. Rewards
    that read token ids cannot be asked about the latter. `text`, `sample` and `finish_reason` are
    those of the last turn.

    turns: in the order of sampling; none for a text alone, and for an episode that failed before
    its first. rewards: by reward function, None = not applicable. reward: the weighted sum.
    step_rewards: of rewards that judge each step of a completion, one number per step; `rewards`
    has their mean.
    advantage: the mean over its tokens where those differ. stop_reason: why the episode ended.
    error: why there is no reward. Such a trace has failed: no baseline counts it.
    metrics: numbers that the episode or its environment reports.
    text_alone, text_finish_reason: of a completion without tokens.
    """

    turns: list[Turn]
    rewards: dict[str, float | None] = field(default_factory=dict)
    reward: float | None = None
    step_rewards: dict[str, list[float]] = field(default_factory=dict)
    advantage: float = 0.0
    stop_reason: StopReason = "completed"
    error: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    text_alone: str = ""
    text_finish_reason: FinishReason = "stop"

    @classmethod
    def of_sample(
        cls,
        prompt_ids: tuple[int, ...],
        sample: Sample,
        text: str,
        rewards: dict[str, float | None] | None = None,
        reward: float | None = None,
        advantage: float = 0.0,
    ) -> Trace:
        """One completion of a prompt, with the rewards that are known already."""
        reasons: dict[FinishReason, StopReason] = {"stop": "completed", "timeout": "timeout"}
        stop = reasons.get(sample.finish_reason, "max_tokens")
        turns = [Turn(prompt_ids, sample, text)]
        return cls(turns, rewards or {}, reward, advantage=advantage, stop_reason=stop)

    @classmethod
    def of_text(cls, text: str, finish_reason: FinishReason = "stop") -> Trace:
        """A completion of which only the text is known."""
        return cls([], text_alone=text, text_finish_reason=finish_reason)

    @property
    def has_tokens(self) -> bool:
        """Whether the token ids are known."""
        return bool(self.turns)

    @property
    def text(self) -> str:
        """The last completion."""
        return self.turns[-1].text if self.turns else self.text_alone

    @property
    def messages(self) -> list[Message]:
        """What was said, in order: the prompt where the turns hold it, and each completion as it
        was sampled, with the tool calls in its text.

        A chat template that writes contents unchanged renders the same text again, so rows of
        these train a model to imitate the trace (`messages` of pt.sft, `chosen` and `rejected` of
        pt.dpo).
        """
        messages: list[Message] = []
        for turn in self.turns:
            messages += [dict(message) for message in turn.messages]
            messages.append({"role": "assistant", "content": turn.text})
        return messages

    @property
    def sample(self) -> Sample:
        """The sampled tokens of the last turn.

        Raises:
            DataError: only the text is known, or nothing was sampled.
        """
        if not self.turns:
            raise DataError(
                f"the completion {self.text!r:.40} is text without token ids; sample it with an "
                "engine to train on it or to ask rewards that read completion_ids"
            )
        return self.turns[-1].sample

    @property
    def finish_reason(self) -> FinishReason:
        """ "stop", or why the last completion was cut."""
        return self.sample.finish_reason if self.turns else self.text_finish_reason

    @property
    def has_failed(self) -> bool:
        """Whether there is an error: no baseline and no loss counts the trace."""
        return self.error is not None

    @property
    def is_truncated(self) -> bool:
        """Whether a limit ended it: of a completion's length, turns, tool calls, or seconds."""
        return self.finish_reason != "stop" or self.stop_reason in _LIMITS

    @property
    def num_sampled(self) -> int:
        """Sampled tokens of all turns."""
        return sum(len(turn.sample.ids) for turn in self.turns)


@dataclass(slots=True)
class TraceGroup:
    """The traces of one prompt, any number of them.

    greedy_reward: of the completion sampled at temperature 0, where one was asked for. num_given:
    tokens at the end of prompt_ids that are the beginning of the gold completion; the traces'
    texts begin with them.
    """

    example: Example
    prompt_ids: tuple[int, ...]
    traces: list[Trace]
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

    def __repr__(self) -> str:
        ungraded = ", no verdict" if self.unscored else ""
        return f"Task({self.name!r}, {len(self.examples)} examples{ungraded})"
