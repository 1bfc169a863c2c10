from __future__ import annotations

import asyncio
from typing import Any

import pytest

from posttrain.engines.likelihood import TokenLikelihood
from posttrain.serve.logprobs import (
    ScoredToken,
    chat_logprobs,
    check_alternatives,
    completion_logprobs,
    prompt_tokens,
    sampled_tokens,
)
from posttrain.serve.refusal import Refusal
from posttrain.types import Request, Sample, Sampling


def scored(service: Any, text: str) -> list[ScoredToken]:
    ids = [service.model.tokenizer.bos_token_id, *service.model.engine.ids(text)]
    other = service.model.engine.ids("z")[0]
    return [
        ScoredToken(token, TokenLikelihood(-float(i), ((other, -0.5),)) if i else None)
        for i, token in enumerate(ids)
    ]


def test_completions_have_a_row_per_token(service: Any) -> None:
    server = service()
    tokens = scored(server, "aéb")
    result = completion_logprobs(server, tokens, 1)
    assert result["tokens"][1:] == ["a", "bytes:\\xc3", "bytes:\\xa9", "b"]
    assert result["token_logprobs"] == [None, -1.0, -2.0, -3.0, -4.0]
    assert result["text_offset"][:3] == [0, 0, 1]  # BOS is not in the text
    assert result["top_logprobs"][0] is None
    assert result["top_logprobs"][1] == {"a": -1.0, "z": -0.5}
    assert completion_logprobs(server, tokens, 0)["top_logprobs"] is None


def test_chat_has_bytes_of_its_tokens(service: Any) -> None:
    server = service()
    content = chat_logprobs(server, scored(server, "é"))["content"]
    assert [entry["bytes"] for entry in content] == [[0xC3], [0xA9]]
    assert [entry["logprob"] for entry in content] == [-1.0, -2.0]
    assert content[0]["top_logprobs"] == [{"token": "z", "logprob": -0.5, "bytes": [ord("z")]}]


def test_rows_are_of_the_sampled_tokens(service: Any) -> None:
    """The sampled log-prob is the engine's; alternatives are of the same places."""

    def score(sequences: Any, num_top: int, adapter: str) -> Any:
        return [
            [TokenLikelihood(-9.0, ((i, -0.1),)) for i in range(1, len(ids))] for ids in sequences
        ]

    async def run() -> Any:
        server = service(likelihoods=score)
        server.start()
        try:
            sample = Sample([70, 71], [-1.5, -2.5], [-1.0, -2.0], "length")
            request = Request((5, 6, 7), Sampling(max_tokens=2))
            with_top = await sampled_tokens(server, request, [sample], 1)
            without = await sampled_tokens(server, request, [sample], 0)
            return with_top[0], without[0], (await prompt_tokens(server, [(5, 6, 7)], 1, ""))[0]
        finally:
            server.stop()

    with_top, without, prompt = asyncio.run(run())
    assert [t.likelihood.logprob for t in with_top] == [-1.0, -2.0]  # at temperature 1
    assert [t.likelihood.top for t in with_top] == [((3, -0.1),), ((4, -0.1),)]
    assert [t.likelihood.top for t in without] == [(), ()]
    assert prompt[0].likelihood is None and prompt[1].likelihood.logprob == -9.0
    assert [t.token for t in prompt] == [5, 6, 7]


def test_alternatives_need_likelihoods(service: Any) -> None:
    check_alternatives(service(), 0, "top_logprobs")
    check_alternatives(service(likelihoods=lambda *_: []), 2, "top_logprobs")
    with pytest.raises(Refusal) as refused:
        check_alternatives(service(), 2, "top_logprobs")
    assert refused.value.param == "top_logprobs"
