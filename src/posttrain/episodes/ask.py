"""What a coroutine samples with, and the seed of each call."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from typing import Any, Protocol

from posttrain.engines.base import OnTokens
from posttrain.types import Sample, Sampling


class Ask(Protocol):
    """The sampling that an episode or a search may do.

    Attributes:
        sampling: how a call samples that does not say.
        seed: the episode's, from which those of its calls follow.
        context_length: most tokens of a prompt and its completion; None where it has no bound.
        stop_ids: token ids that end every sample.
    """

    sampling: Sampling
    seed: int
    context_length: int | None
    stop_ids: frozenset[int]

    async def __call__(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling | None = None,
        n: int = 1,
        seed: int | None = None,
        on_tokens: OnTokens | None = None,
        **fields: Any,
    ) -> list[Sample]:
        """n samples of one prompt of token ids.

        Args:
            sampling: None takes `self.sampling`.
            seed: None takes `call_seed` of the episode's seed.
            on_tokens: called while the engine samples, with what is new.
            fields: other fields of `Request`, such as adapter or constraint.
        Raises:
            PosttrainError: the engine refuses the request, or cannot answer it.
        """
        ...


def call_seed(seed: int, prompt_ids: Sequence[int], occurrence: int) -> int:
    """The seed of a call: a 62-bit hash of the episode's seed, the prompt, and how often the
    episode has asked about this prompt before.

    It does not depend on the order in which branches of one episode ask, nor on other episodes.
    """
    content = ids_bytes([seed % 2**63, occurrence, *prompt_ids])
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") >> 2


def ids_bytes(ids: Sequence[int]) -> bytes:
    """Token ids as bytes to be hashed, 8 each; those of a text engine, which may be larger, in
    decimal digits.
    """
    try:
        return array("q", ids).tobytes()
    except OverflowError:
        return repr(list(ids)).encode()
