"""The accounts of an engine: of open requests, and of all tokens so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from posttrain.engines.base import OnLogprobs, OnTokens
from posttrain.engines.schedule import Row
from posttrain.errors import ConfigError
from posttrain.types import Request, Sample


@dataclass(slots=True)
class Statistics:
    """Tokens of an engine so far, and seconds in its steps.

    prompt: of the prompts of all rows, = computed + reused. computed: of prompts, by a forward
    pass. generated: written by rows, = returned + discarded as soon as nothing is open. returned:
    in finished requests. discarded: of aborted ones.
    """

    prompt_tokens: int = 0
    computed_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    returned_tokens: int = 0
    discarded_tokens: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Ticket:
    """An open request. samples: those that have ended, by index. num_computed: tokens of its
    prompt that were computed for them, None as long as none of them had begun. error: of a sample
    that could not be held to the constraint to its end, else None.
    """

    request: Request
    on_tokens: OnTokens | None = None
    on_logprobs: OnLogprobs | None = None
    samples: dict[int, Sample] = field(default_factory=dict)
    num_computed: int | None = None
    error: ConfigError | None = None

    @property
    def listens(self) -> bool:
        """Whether new tokens are asked for."""
        return self.on_tokens is not None or self.on_logprobs is not None

    def tell(self, index: int, ids: list[int], logprobs: list[float]) -> None:
        """Pass on new tokens of a sample."""
        if self.on_tokens is not None:
            self.on_tokens(index, ids)
        if self.on_logprobs is not None:
            self.on_logprobs(index, ids, logprobs)

    def add(self, row: Row, sample: Sample) -> None:
        """Note the end of a row."""
        self.samples[row.index] = sample
        if row.matcher is not None and row.matcher.error is not None:
            self.error = ConfigError(
                f"constraint: a sample cannot be followed further: {row.matcher.error}; give a "
                "simpler one"
            )
        if row.num_computed is not None:
            self.num_computed = (self.num_computed or 0) + row.num_computed

    @property
    def num_reused(self) -> int:
        """Tokens of the prompt that were not computed for this request."""
        if self.num_computed is None:
            return 0
        return max(len(self.request.prompt_ids) - self.num_computed, 0)

    @property
    def num_tokens(self) -> int:
        """Of the samples that have ended."""
        return sum(len(sample.ids) for sample in self.samples.values())
