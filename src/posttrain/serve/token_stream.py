"""The tokens of a stream with their log-probs, each given out once."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.serve.logprobs import ScoredToken, sampled_tokens
from posttrain.serve.service import Service
from posttrain.types import Request, Sample

_PORTION = 16
"""Tokens after which the first alternatives of a stream are computed."""


class TokenStream:
    """The tokens of one sample, as far as they are known.

    Alternatives cost a forward pass over all that was written. They are computed for as many new
    tokens as were given out before, and at least 16, so that all passes together see at most twice
    the tokens of the whole sample, beside the prompt. Without alternatives a token is due at once.

    Args:
        num_top: alternatives per token; None where no log-probs are asked for.
    """

    def __init__(self, service: Service, request: Request, num_top: int | None) -> None:
        self._service, self._request = service, request
        self._num_top = num_top
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._num_taken = 0

    def add(self, ids: Sequence[int], logprobs: Sequence[float]) -> None:
        """Note new tokens with their raw log-probs."""
        if self._num_top is not None:
            self._ids += ids
            self._logprobs += logprobs

    @property
    def is_due(self) -> bool:
        """Whether what is new may be given out before the sample ends."""
        num_new = len(self._ids) - self._num_taken
        return not self._num_top or num_new >= max(_PORTION, self._num_taken)

    async def take(self) -> list[ScoredToken]:
        """The tokens that have not been given out; none where no log-probs are asked for."""
        start, self._num_taken = self._num_taken, len(self._ids)
        if self._num_top is None or start == len(self._ids):
            return []
        sample = Sample(list(self._ids), [], list(self._logprobs), "length")
        if not self._num_top:  # nothing is computed: look at the new ones alone
            sample = Sample(self._ids[start:], [], self._logprobs[start:], "length")
            start = 0
        (scored,) = await sampled_tokens(self._service, self._request, [sample], self._num_top)
        return scored[start:]
