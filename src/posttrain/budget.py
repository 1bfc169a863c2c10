"""What several requests to an engine may spend together."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from posttrain.errors import ConfigError


class Budget:
    """A limit that requests share: give the same object to all of them.

        budget = Budget(max_tokens=10_000, max_seconds=60)
        engine.generate([Request(ids, sampling, budget=budget) for ids in prompts])

    When it is spent, the samples that are being written end with finish_reason "budget" and what
    they have; later requests get samples without tokens and the same reason. Tokens are counted
    exactly: where fewer are left than rows would write in a step, the rows that began first write.

    Args:
        max_tokens: sampled tokens, those of aborted requests included. max_seconds: from the first
        request on. max_calls: requests; a request beyond it is refused, those before it go on.
        None = no limit. clock: seconds.
    Attributes:
        num_tokens, num_calls: spent so far.

    Raises:
        ConfigError: a limit below 0, or none at all.
    """

    def __init__(
        self,
        *,
        max_tokens: int | None = None,
        max_seconds: float | None = None,
        max_calls: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        limits = {"max_tokens": max_tokens, "max_seconds": max_seconds, "max_calls": max_calls}
        if all(limit is None for limit in limits.values()):
            raise ConfigError(f"a budget needs a limit; give one of {', '.join(limits)}")
        for name, limit in limits.items():
            if limit is not None and not limit >= 0:
                raise ConfigError(f"{name} is {limit}; it must be at least 0, or None for no limit")
        self.max_tokens, self.max_seconds, self.max_calls = max_tokens, max_seconds, max_calls
        self.num_tokens = self.num_calls = 0
        self._clock = clock
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the first request."""
        return 0.0 if self._started is None else self._clock() - self._started

    @property
    def tokens_left(self) -> float:
        """Tokens that may still be sampled; infinite without a limit, 0 when time is over."""
        if self.max_seconds is not None and self.seconds >= self.max_seconds:
            return 0
        return math.inf if self.max_tokens is None else self.max_tokens - self.num_tokens

    @property
    def is_spent(self) -> bool:
        """Whether nothing more may be asked for: no tokens, no time or no calls are left. What is
        being written when the last call has begun goes on until `tokens_left` is 0.
        """
        is_called = self.max_calls is not None and self.num_calls >= self.max_calls
        return is_called or self.tokens_left <= 0

    def call(self) -> bool:
        """A request begins; whether it may. For engines."""
        if self._started is None:
            self._started = self._clock()
        if self.max_calls is not None and self.num_calls >= self.max_calls:
            return False
        self.num_calls += 1
        return True

    def spend(self, tokens: int) -> None:
        """Tokens have been sampled. For engines."""
        self.num_tokens += tokens
