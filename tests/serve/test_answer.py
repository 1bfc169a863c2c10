from __future__ import annotations

import asyncio
from typing import Any

import pytest

from posttrain.serve.answer import SampledAnswer, finish_reason
from posttrain.types import Request, Sample, Sampling


class Plain(SampledAnswer):
    """An answer without a shape."""

    async def whole(self) -> dict[str, Any]:
        groups = await self.samples()
        texts = [self.text(i, s) for i, group in enumerate(groups) for s in group]
        return self.body([{"text": text} for text in texts])

    async def parts(self) -> Any:
        async for number, text, reason, _ in self.deltas():
            yield self.part([{"index": number, "text": text, "reason": reason}])


REQUESTS = [
    Request((7, 8), Sampling(max_tokens=4), n=2, seed=1),
    Request((9,), Sampling(max_tokens=6), n=2, seed=2),
]


def answered(service: Any, ask: Any) -> Any:
    async def run() -> Any:
        service.start()
        try:
            return await ask(Plain(service, "tiny", "x", REQUESTS))
        finally:
            service.stop()

    return asyncio.run(run())


def test_choices_are_numbered_over_all_requests(service: Any) -> None:
    async def parts(answer: Plain) -> list[Any]:
        return [part async for part in answer.parts()]

    texts, reasons = [""] * 4, [0] * 4
    for part in answered(service(), parts):
        (choice,) = part["choices"]
        texts[choice["index"]] += choice["text"]
        reasons[choice["index"]] += choice["reason"] is not None
    assert [len(text) for text in texts] == [4, 4, 6, 6] and reasons == [1] * 4
    whole = answered(service(), lambda answer: answer.whole())
    assert [choice["text"] for choice in whole["choices"]] == texts
    assert whole["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 20,
        "total_tokens": 23,
        "prompt_tokens_details": {"cached_tokens": 2},  # the scripted engine: one per request
        "completion_tokens_details": {"selected_tokens": 20, "discarded_tokens": 0},
    }


def test_an_answer_that_is_left_has_discarded_tokens(service: Any) -> None:
    async def leave(answer: Plain) -> Plain:
        parts = answer.parts()
        await anext(parts)
        await parts.aclose()
        return answer

    counts = answered(service(), leave).counts
    assert counts.completion == counts.discarded > 0 and counts.prompt == 3


@pytest.mark.parametrize(
    ("ended", "word"), [("stop", "stop"), ("length", "length"), ("aborted", "length")]
)
def test_reasons_are_openais_words(ended: Any, word: str) -> None:
    assert finish_reason(Sample([1], [0.0], [0.0], ended)) == word
