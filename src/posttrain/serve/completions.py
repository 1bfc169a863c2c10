"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from posttrain.serve.answer import Answer, SampledAnswer, finish_reason
from posttrain.serve.logprobs import (
    ScoredToken,
    check_alternatives,
    completion_logprobs,
    prompt_tokens,
    sampled_tokens,
    text_length,
)
from posttrain.serve.refusal import unsupported
from posttrain.serve.schema import CompletionRequest
from posttrain.serve.search import Found, SearchAnswer, adapter_of, search_plan
from posttrain.serve.service import Service, seed_of
from posttrain.types import Request, Sample

_SEED_STEP = 1_000_003
"""Prompts of one request draw from seeds that lie this far apart."""


async def completion_answer(service: Service, fields: CompletionRequest) -> Answer:
    """The answer to a completions request, checked before anything is sampled.

    Raises:
        Refusal: names the field.
    """
    plan = search_plan(service, fields.model, fields.search, fields)
    adapter = adapter_of(service, fields.model)
    service.check(fields, len(fields.prompt))
    check_alternatives(service, fields.logprobs or 0, "logprobs")
    prompts = await service.prompts_of(fields.prompt, adapter)
    seed = seed_of(fields)
    rooms = [service.room(prompt, fields.max_tokens) for prompt in prompts]
    constraint = await service.forms.constraint(fields.response_format)
    requests = [
        service.request(prompt, fields, room, seed + i * _SEED_STEP, constraint, adapter)
        for i, (prompt, room) in enumerate(zip(prompts, rooms, strict=True))
    ]
    if plan is not None:
        for field, value in (
            ("prompt", len(prompts) > 1),
            ("echo", fields.echo),
            ("logprobs", fields.logprobs is not None),
            ("return_token_ids", fields.return_token_ids),
        ):
            if value:
                raise unsupported(field, f"{field}: a search takes one prompt and gives its text")
        return CompletionSearch(service, fields.model, "cmpl", requests[0], plan)
    return CompletionAnswer(service, fields, requests)


class CompletionAnswer(SampledAnswer):
    """Texts as they are sampled, behind their prompts if `echo` asks for that."""

    kind = "text_completion"
    part_kind = "text_completion"

    def __init__(
        self, service: Service, fields: CompletionRequest, requests: list[Request]
    ) -> None:
        super().__init__(service, fields.model, "cmpl", requests)
        self._fields = fields
        self.num_top = fields.logprobs

    async def whole(self) -> dict[str, Any]:
        """The answer as one object: a choice for each sample of each prompt."""
        fields = self._fields
        if fields.max_tokens:
            groups = await self.samples()
        else:
            groups = [[Sample([], [], [], "length")] * fields.n for _ in self.requests]
        before = await self._before()
        choices: list[dict[str, Any]] = []
        for number, (request, samples) in enumerate(zip(self.requests, groups, strict=True)):
            tokens: list[list[ScoredToken]] = [[] for _ in samples]
            if fields.logprobs is not None and fields.max_tokens:
                tokens = await sampled_tokens(self.service, request, samples, fields.logprobs)
            for sample, scored in zip(samples, tokens, strict=True):
                choices.append(self._choice(len(choices), number, sample, before[number], scored))
        return self.body(choices)

    async def parts(self) -> AsyncGenerator[dict[str, Any] | None]:
        places = [0 for request in self.requests for _ in range(request.n)]
        async for index, text, reason, tokens in self.deltas():
            logprobs = None
            if self.num_top is not None:
                logprobs = completion_logprobs(self.service, tokens, self.num_top, places[index])
                places[index] += text_length(self.service, tokens)
            choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
            yield self.part([choice])

    async def _before(self) -> list[list[ScoredToken]]:
        """The scored tokens of the prompts, where they are asked for."""
        if not self._fields.echo or self._fields.logprobs is None:
            return [[] for _ in self.requests]
        prompts = [request.prompt_ids for request in self.requests]
        adapter = self.requests[0].adapter
        return await prompt_tokens(self.service, prompts, self._fields.logprobs, adapter)

    def _choice(
        self,
        index: int,
        number: int,
        sample: Sample,
        before: list[ScoredToken],
        tokens: list[ScoredToken],
    ) -> dict[str, Any]:
        fields, prompt = self._fields, self.requests[number].prompt_ids
        text = self.text(number, sample)
        if fields.echo:
            given = fields.prompt[number]
            text = (given if isinstance(given, str) else self._decoded(prompt)) + text
        logprobs = None
        if fields.logprobs is not None:
            logprobs = completion_logprobs(self.service, [*before, *tokens], fields.logprobs)
        choice = {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish_reason(sample),
        }
        if fields.return_token_ids:
            choice |= {"prompt_token_ids": list(prompt), "token_ids": sample.ids}
        return choice

    def _decoded(self, prompt: tuple[int, ...]) -> str:
        return str(
            self.service.model.tokenizer.decode(
                list(prompt),
                skip_special_tokens=True,
                clean_up_tokenization_spaces=False,
            )
        )


class CompletionSearch(SearchAnswer):
    """The text that a search chose."""

    kind = "text_completion"
    part_kind = "text_completion"

    def choice(self, found: Found) -> dict[str, Any]:
        """The choice of a whole answer."""
        return {
            "index": 0,
            "text": found.text,
            "logprobs": None,
            "finish_reason": found.finish_reason,
        }

    def part_choices(self, found: Found) -> list[dict[str, Any]]:
        """The choices of the parts of a stream."""
        return [self.choice(found)]
