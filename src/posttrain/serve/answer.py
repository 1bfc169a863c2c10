"""One answer to a request: whole, or in parts as they come."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple

from posttrain.serve.generation import Counts, Done, Generation, Tokens
from posttrain.serve.logprobs import ScoredToken
from posttrain.serve.sample_text import SampleText, text_of
from posttrain.serve.service import Service, new_id
from posttrain.serve.token_stream import TokenStream
from posttrain.types import Request, Sample


class Answer(ABC):
    """A request that has been checked, ready to be sampled.

    Attributes:
        counts: tokens so far; whoever sends the answer adds them to the metrics at its end.
    """

    kind = ""
    """The `object` of a whole answer."""

    part_kind = ""
    """The `object` of a part."""

    def __init__(self, service: Service, model: str, prefix: str) -> None:
        self.service = service
        self.counts = Counts()
        self._head = {
            "id": new_id(prefix),
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": service.fingerprint,
        }

    @abstractmethod
    async def whole(self) -> dict[str, Any]:
        """The answer in one piece."""

    @abstractmethod
    def parts(self) -> AsyncGenerator[dict[str, Any] | None]:
        """The answer as it is written. None is a sign of life that has no content."""

    def body(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """A whole answer."""
        return {**self._head, "object": self.kind, "choices": choices, "usage": self.usage()} | more

    def part(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """A part of an answer."""
        return {**self._head, "object": self.part_kind, "choices": choices} | more

    def usage(self) -> dict[str, Any]:
        """Token counts by kind."""
        c = self.counts
        return {
            "prompt_tokens": c.prompt,
            "completion_tokens": c.completion,
            "total_tokens": c.prompt + c.completion,
            "prompt_tokens_details": {"cached_tokens": c.reused},
            "completion_tokens_details": {
                "selected_tokens": c.completion - c.discarded,
                "discarded_tokens": c.discarded,
            },
        }


class Delta(NamedTuple):
    """What is new of a choice. reason: why it ended, with its last delta. tokens: those that are
    new, where log-probs are asked for.
    """

    choice: int
    text: str
    reason: str | None
    tokens: list[ScoredToken]


class SampledAnswer(Answer):
    """An answer of samples as the engine gives them, without a choice among them.

    Choice `number` is sample `number % n` of prompt `number // n`.

    Attributes:
        kept_ids: special tokens that are part of the text. num_top: alternatives per token, None
            where no log-probs are asked for.
    """

    kept_ids: frozenset[int] = frozenset()
    num_top: int | None = None

    def __init__(
        self, service: Service, model: str, prefix: str, requests: Sequence[Request]
    ) -> None:
        super().__init__(service, model, prefix)
        self.requests = list(requests)
        self.counts.prompt = sum(len(request.prompt_ids) for request in requests)

    async def samples(self) -> list[list[Sample]]:
        """The samples of each request."""
        async with self._generation() as generation:
            try:
                return await generation.finish()
            finally:
                self._count(generation)

    def text(self, request: int, sample: Sample) -> str:
        """The text of a sample, up to its stop string."""
        stop = self.requests[request].sampling.stop
        return text_of(self.service.model.tokenizer, sample.ids, stop, self.kept_ids)

    async def deltas(self) -> AsyncGenerator[Delta]:
        """What is new, as text comes; the last of each choice has a reason."""
        tokenizer, n = self.service.model.tokenizer, self.requests[0].n
        texts = [
            SampleText(tokenizer, request.sampling.stop, self.kept_ids)
            for request in self.requests
            for _ in range(request.n)
        ]
        tokens = [
            TokenStream(self.service, request, self.num_top)
            for request in self.requests
            for _ in range(request.n)
        ]
        held = ["" for _ in texts]
        async with self._generation() as generation:
            try:
                async for event in generation.events():
                    if isinstance(event, Tokens):
                        number = event.request * n + event.index
                        held[number] += texts[number].add(event.ids)
                        tokens[number].add(event.ids, event.logprobs)
                        if held[number] and tokens[number].is_due:
                            text, held[number] = held[number], ""
                            yield Delta(number, text, None, await tokens[number].take())
                    if isinstance(event, Done):
                        for index, sample in enumerate(event.samples):
                            number = event.request * n + index
                            start = texts[number].num_tokens
                            text = held[number] + texts[number].add(sample.ids[start:])
                            text += texts[number].end()
                            tokens[number].add(sample.ids[start:], sample.raw_logprobs[start:])
                            scored = await tokens[number].take()
                            yield Delta(number, text, finish_reason(sample), scored)
            finally:
                self._count(generation)

    def _generation(self) -> Generation:
        service = self.service
        return Generation(service.worker, self.requests, service.limits.timeout_seconds)

    def _count(self, generation: Generation) -> None:
        samples = [sample for group in generation.samples for sample in group]
        self.counts.completion = sum(len(sample.ids) for sample in samples) + generation.num_lost
        self.counts.discarded = generation.num_lost
        self.counts.reused = generation.num_reused


def finish_reason(sample: Sample) -> str:
    """OpenAI's word for why a sample ended."""
    return "stop" if sample.finish_reason == "stop" else "length"
