"""Log-probs of tokens in the two shapes of OpenAI's protocol, in nats at temperature 1."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.engines.likelihood import TokenLikelihood
from posttrain.serve.refusal import unsupported
from posttrain.serve.sample_text import token_bytes, token_text
from posttrain.serve.service import Service
from posttrain.types import Request, Sample


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token with its log-prob, None where nothing stands before it, and its alternatives."""

    token: int
    likelihood: TokenLikelihood | None


def check_alternatives(service: Service, count: int, param: str) -> None:
    """Refuse alternatives where the engine cannot give them.

    Raises:
        Refusal: names the field.
    """
    if count and service.model.likelihoods is None:
        raise unsupported(
            param, f"{param}: this engine gives no alternatives to the tokens it sampled; set 0"
        )


async def sampled_tokens(
    service: Service, request: Request, samples: Sequence[Sample], num_top: int
) -> list[list[ScoredToken]]:
    """The tokens of samples of a request with the log-probs that the engine reported.

    Args:
        num_top: alternatives, which one forward pass over the samples finds.
    """
    prompt = request.prompt_ids
    alternatives: list[list[TokenLikelihood]] = [[] for _ in samples]
    if num_top:
        texts = [[*prompt, *sample.ids] for sample in samples]
        scored = await _score(service, texts, num_top, request.adapter)
        alternatives = [row[len(prompt) - 1 :] for row in scored]
    return [
        [
            ScoredToken(token, TokenLikelihood(value, alternatives[i][j].top if num_top else ()))
            for j, (token, value) in enumerate(zip(sample.ids, sample.raw_logprobs, strict=True))
        ]
        for i, sample in enumerate(samples)
    ]


async def prompt_tokens(
    service: Service, prompts: Sequence[tuple[int, ...]], num_top: int, adapter: str
) -> list[list[ScoredToken]]:
    """The tokens of prompts with their log-probs; the first of each has none."""
    scored = await _score(service, prompts, num_top, adapter)
    return [
        [ScoredToken(prompt[0], None), *map(ScoredToken, prompt[1:], row)]
        for prompt, row in zip(prompts, scored, strict=True)
    ]


async def _score(
    service: Service, sequences: Sequence[Sequence[int]], num_top: int, adapter: str
) -> list[list[TokenLikelihood]]:
    score, engine = service.model.likelihoods, service.model.engine
    if score is not None:
        run = service.worker.run(lambda: score(sequences, num_top, adapter))
        return await asyncio.wrap_future(run)
    rows = await asyncio.wrap_future(
        service.worker.run(lambda: engine.score([(ids, 1) for ids in sequences]))
    )
    return [[TokenLikelihood(value) for value in row] for row in rows]


def chat_logprobs(service: Service, tokens: Sequence[ScoredToken]) -> dict[str, Any]:
    """`{"content": [{"token", "logprob", "bytes", "top_logprobs"}]}`."""
    tokenizer = service.model.tokenizer

    def entry(token: int, logprob: float) -> dict[str, Any]:
        content = token_bytes(tokenizer, token)
        return {
            "token": token_text(tokenizer, token),
            "logprob": logprob,
            "bytes": None if content is None else list(content),
        }

    return {
        "content": [
            {
                **entry(scored.token, scored.likelihood.logprob),
                "top_logprobs": [entry(*alternative) for alternative in scored.likelihood.top],
            }
            for scored in tokens
            if scored.likelihood is not None
        ],
        "refusal": None,
    }


def completion_logprobs(
    service: Service, tokens: Sequence[ScoredToken], num_top: int, place: int = 0
) -> dict[str, Any]:
    """`{"tokens", "token_logprobs", "top_logprobs", "text_offset"}`, one entry per token.

    The dictionary of alternatives also holds the token itself, as OpenAI's does.

    Args:
        place: where the text of these tokens begins, see `text_length`.
    """
    tokenizer = service.model.tokenizer
    texts = [token_text(tokenizer, scored.token) for scored in tokens]
    tops: list[dict[str, float] | None] = []
    for scored, text in zip(tokens, texts, strict=True):
        if scored.likelihood is None or not num_top:
            tops.append(None)
            continue
        top = {token_text(tokenizer, token): value for token, value in scored.likelihood.top}
        tops.append({text: scored.likelihood.logprob} | top)
    offsets = []
    for scored in tokens:
        offsets.append(place)
        place += text_length(service, [scored])
    return {
        "tokens": texts,
        "token_logprobs": [s.likelihood.logprob if s.likelihood else None for s in tokens],
        "top_logprobs": tops if num_top else None,
        "text_offset": offsets,
    }


def text_length(service: Service, tokens: Sequence[ScoredToken]) -> int:
    """Characters of the text of tokens, as `text_offset` counts them: special ones have none."""
    tokenizer = service.model.tokenizer
    special = set(tokenizer.all_special_ids)
    texts = [
        token_text(tokenizer, scored.token) for scored in tokens if scored.token not in special
    ]
    return sum(map(len, texts))
