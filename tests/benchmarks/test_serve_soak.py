"""The soak of the server at toy size, and what it takes for an error."""

from __future__ import annotations

import asyncio
import math
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .loading import load

httpx = pytest.importorskip("httpx", reason="the soak needs httpx")
pytest.importorskip("uvicorn", reason="the server needs the extra serve")


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("serve_soak", monkeypatch)


def test_a_short_soak_has_no_errors(soak: ModuleType, tiny_folder: Path) -> None:
    figures = soak.soak(str(tiny_folder), num_clients=6, seconds=4, prefix_mib=0.1, every=1)
    assert figures["errors"] == {} and figures["differing"] == 0
    assert figures["requests"]["stream"] >= 6 and figures["tokens_per_second"] > 0
    assert figures["server_at_the_end"]["open_samples"] == 0
    assert figures["server_at_the_end"]["engine_failures"] == 0
    assert len(figures["memory_mib"]) >= 3 and min(figures["memory_mib"]) > 50
    assert 0 < max(figures["prefix_mib"]) <= 0.1


def answer(soak: ModuleType, text: str, status: int = 200) -> Any:
    """What the soak makes of a stream."""
    transport = httpx.MockTransport(lambda request: httpx.Response(status, text=text))
    body = soak.body_of("stream", random.Random(0)) | {"max_tokens": 5, "n": 1}

    async def run() -> Any:
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            return await soak.stream(http, body, soak.Counts())

    return asyncio.run(run())


PART = 'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'
USAGE = 'data: {"choices": [], "usage": {"completion_tokens": 1}}\n\n'
DONE = "data: [DONE]\n\n"


def test_wrong_streams_are_errors(soak: ModuleType) -> None:
    assert answer(soak, PART + PART + USAGE + DONE) == "aa"
    for text, status in (
        (PART + USAGE, 200),
        (PART + DONE, 200),
        (PART + USAGE.replace("1}", "9}") + DONE, 200),
        ('data: {"error": {"code": "engine_failed"}}\n\n', 200),
        (PART + USAGE + DONE, 500),
    ):
        with pytest.raises(ValueError):
            answer(soak, text, status)


def test_the_slope_is_of_the_second_half(soak: ModuleType) -> None:
    at = [5.0 * reading for reading in range(6)]
    slope, error = soak.slope_per_minute(at, [0.0, 100.0, 200.0, 200.0, 201.0, 202.0])
    assert (slope, error) == (pytest.approx(12.0), pytest.approx(0.0))
    # By hand: x = 0, 60, 120 s and y = 0, 3, 0 give slope 0, residuals -1, 2, -1, and
    # sqrt(6 / 1 / 7200) per second.
    slope, error = soak.slope_per_minute([0.0, 0.0, 0.0, 60.0, 120.0], [9.0, 9.0, 0.0, 3.0, 0.0])
    assert (slope, error) == (pytest.approx(0.0), pytest.approx(60 * (6 / 7200) ** 0.5))
    assert all(map(math.isnan, soak.slope_per_minute([0.0], [1.0])))
