"""Where episodes end that do not end by themselves."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from posttrain.episodes.ask import Ask
from posttrain.errors import ConfigError
from posttrain.types import Sample, StopReason


@dataclass(frozen=True, slots=True)
class EpisodeLimits:
    """Where an episode ends that does not end by itself. 0 = no limit, unless said otherwise.

    Attributes:
        max_turns: completions of the model (stop reason "max_turns").
        max_tokens: sampled tokens of all turns together ("max_tokens"). One turn is bounded by the
            sampling's own max_tokens, and ends the episode where it is cut.
        max_context: tokens of a context and its completion ("context_overflow"), beside the
            engine's own limit.
        max_tool_calls: calls of all turns together ("max_tool_calls").
        max_parse_errors: turns with a malformed call that are answered with the error. The next one
            ends the episode ("parse_error"); 0: the first.
        tool_seconds: time of one call of a tool or of the environment. A tool that takes longer is
            an error for the model; an environment that does fails the episode.
        timeout_seconds: time of the episode ("timeout").
    """

    max_turns: int = 16
    max_tokens: int = 0
    max_context: int = 0
    max_tool_calls: int = 0
    max_parse_errors: int = 0
    tool_seconds: float = 60.0
    timeout_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not 0 <= value < math.inf:
                raise ConfigError(f"{name} is {value}; it must be at least 0 (0 = no limit)")

    def room(self, ask: Ask, num_context: int, num_sampled: int) -> int | StopReason:
        """Tokens that the next turn may have, or the limit at which there is none.

        Args:
            num_context: tokens before the turn. num_sampled: tokens of the turns so far.
        """
        room = ask.sampling.max_tokens
        if self.max_tokens:
            room = min(room, self.max_tokens - num_sampled)
        if room < 1:
            return "max_tokens"
        if (most := self._most_context(ask)) is not None:
            room = min(room, most - num_context)
        return room if room >= 1 else "context_overflow"

    def cut(self, ask: Ask, num_context: int, sample: Sample) -> StopReason:
        """Why a completion was cut."""
        if str(sample.finish_reason) == "timeout":
            return "timeout"
        most = self._most_context(ask)
        full = most is not None and num_context + len(sample.ids) >= most
        return "context_overflow" if full else "max_tokens"

    def _most_context(self, ask: Ask) -> int | None:
        bounds = (ask.context_length, self.max_context or None)
        return min((bound for bound in bounds if bound is not None), default=None)
