"""Tokens of a stream with their log-probs: each once, and in few passes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from posttrain.engines.likelihood import TokenLikelihood
from posttrain.models.load import load_model
from posttrain.serve.embedded import served_model
from posttrain.serve.service import Service
from posttrain.serve.token_stream import TokenStream
from posttrain.types import Request, Sampling

REQUEST = Request((5, 6, 7), Sampling(max_tokens=99))


def taken(service: Any, num_top: int | None, count: int) -> tuple[list[Any], list[int]]:
    """The tokens that come out of so many, and the lengths of the passes that found alternatives;
    an alternative's log-prob says at which place of the whole text it stands.
    """
    passes: list[int] = []

    def score(sequences: Any, top: int, adapter: str) -> Any:
        ((*ids,),) = sequences
        passes.append(len(ids))
        return [[TokenLikelihood(-9.0, ((1, -float(i)),)[:top]) for i in range(1, len(ids))]]

    async def run() -> list[Any]:
        server = service(likelihoods=score)
        server.start()
        try:
            stream, out = TokenStream(server, REQUEST, num_top), []
            for place in range(count):
                stream.add([70 + place], [-float(place)])
                if stream.is_due:
                    out.append(await stream.take())
            return [*out, await stream.take(), await stream.take()]
        finally:
            server.stop()

    return asyncio.run(run()), passes


def test_without_alternatives_each_token_is_due_at_once(service: Any) -> None:
    portions, passes = taken(service, 0, 20)
    assert [len(p) for p in portions] == [1] * 20 + [0, 0] and passes == []
    assert [p[0].token for p in portions[:20]] == list(range(70, 90))
    assert [p[0].likelihood.logprob for p in portions[:20]] == [-float(i) for i in range(20)]


def test_alternatives_come_in_portions_that_double(service: Any) -> None:
    portions, passes = taken(service, 1, 100)
    assert [len(p) for p in portions] == [16, 16, 32, 36, 0]
    assert passes == [3 + 16, 3 + 32, 3 + 64, 3 + 100]
    tokens = [token for portion in portions for token in portion]
    assert [t.token for t in tokens] == list(range(70, 170))
    assert [t.likelihood.logprob for t in tokens] == [-float(i) for i in range(100)]
    # The alternative of the first sampled token is that of the place behind three of the prompt.
    assert [t.likelihood.top[0][1] for t in tokens] == [-3.0 - i for i in range(100)]


def test_nothing_is_kept_where_nothing_is_asked_for(service: Any) -> None:
    portions, passes = taken(service, None, 20)
    assert all(portion == [] for portion in portions) and passes == []


@pytest.mark.parametrize("top", [0, 2])
def test_streams_have_the_log_probs_of_whole_answers(
    client: Any, tiny_folder: Path, top: int
) -> None:
    """By OpenAI's own client, of a model, on both routes."""
    openai = pytest.importorskip("openai", reason="tests of the protocol need OpenAI's client")
    service = Service(served_model(load_model(tiny_folder), "tiny"))

    async def run() -> Any:
        async with client(service) as http:
            api = openai.AsyncOpenAI(base_url="http://server/v1", api_key="none", http_client=http)
            await compare_chats(api.chat.completions.create, top)
            await compare_completions(api.completions.create, top)

    asyncio.run(run())


ASKED: dict[str, Any] = {"model": "tiny", "n": 2, "seed": 3, "max_tokens": 40}


async def compare_chats(create: Any, top: int) -> None:
    say = [{"role": "user", "content": "hello"}]
    fields = {**ASKED, "messages": say, "logprobs": True, "top_logprobs": top}
    whole = await create(**fields)
    texts, tokens, num_chunks = ["", ""], ([], []), 0
    async for chunk in await create(**fields, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.logprobs is not None:
                num_chunks += 1
                tokens[choice.index].extend(choice.logprobs.content)
    assert texts == [choice.message.content for choice in whole.choices]
    assert num_chunks >= (4 if top else 20)
    for choice in whole.choices:
        for ours, theirs in zip(tokens[choice.index], choice.logprobs.content, strict=True):
            assert (ours.token, ours.bytes) == (theirs.token, theirs.bytes)
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)
            assert [t.token for t in ours.top_logprobs] == [t.token for t in theirs.top_logprobs]
            assert len(ours.top_logprobs) == top


async def compare_completions(create: Any, top: int) -> None:
    fields = {**ASKED, "prompt": "x", "logprobs": top}
    whole = await create(**fields)
    parts: list[Any] = [[], []]
    async for chunk in await create(**fields, stream=True):
        parts[chunk.choices[0].index].append(chunk.choices[0])
    for choice in whole.choices:
        own = [part.logprobs for part in parts[choice.index]]
        assert "".join(part.text for part in parts[choice.index]) == choice.text
        for name in ("tokens", "text_offset"):
            joined = [value for part in own for value in getattr(part, name)]
            assert joined == getattr(choice.logprobs, name)
        values = [value for part in own for value in part.token_logprobs]
        assert values == pytest.approx(choice.logprobs.token_logprobs, abs=1e-4)
        if top:
            tops = [set(entry) for part in own for entry in part.top_logprobs]
            assert tops == [set(entry) for entry in choice.logprobs.top_logprobs]
