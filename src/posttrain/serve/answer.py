"""One answer to a request: whole, or in parts as they come."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from posttrain.serve.generation import Counts, Done, Generation, Tokens
from posttrain.serve.sample_text import SampleText, text_of
from posttrain.serve.service import Service, new_id
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
            "completion_tokens_details": {
                "selected_tokens": c.completion - c.discarded,
                "discarded_tokens": c.discarded,
            },
        }


class SampledAnswer(Answer):
    """An answer of samples as the engine gives them, without a choice among them.

    Choice `number` is sample `number % n` of prompt `number // n`.
    """

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
        return text_of(
            self.service.model.tokenizer, sample.ids, self.requests[request].sampling.stop
        )

    async def deltas(self) -> AsyncGenerator[tuple[int, str, str | None]]:
        """(choice, new text, finish reason) as text comes; the last of each choice has a reason."""
        tokenizer, n = self.service.model.tokenizer, self.requests[0].n
        texts = [
            SampleText(tokenizer, request.sampling.stop)
            for request in self.requests
            for _ in range(request.n)
        ]
        async with self._generation() as generation:
            try:
                async for event in generation.events():
                    if isinstance(event, Tokens):
                        number = event.request * n + event.index
                        text = texts[number].add(event.ids)
                        if text:
                            yield number, text, None
                    if isinstance(event, Done):
                        for index, sample in enumerate(event.samples):
                            number = event.request * n + index
                            text_so_far = texts[number]
                            text = text_so_far.add(sample.ids[text_so_far.num_tokens :])
                            yield number, text + text_so_far.end(), finish_reason(sample)
            finally:
                self._count(generation)

    def _generation(self) -> Generation:
        service = self.service
        return Generation(service.worker, self.requests, service.limits.timeout_seconds)

    def _count(self, generation: Generation) -> None:
        samples = [sample for group in generation.samples for sample in group]
        self.counts.completion = sum(len(sample.ids) for sample in samples) + generation.num_lost
        self.counts.discarded = generation.num_lost


def finish_reason(sample: Sample) -> str:
    """OpenAI's word for why a sample ended."""
    return "stop" if sample.finish_reason == "stop" else "length"
