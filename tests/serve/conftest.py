"""A served model without weights, and clients of it in this process."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server needs the extra serve")
httpx = pytest.importorskip("httpx", reason="tests of the server need httpx")

from scripted_engine import ScriptedEngine, Write  # noqa: E402

from posttrain.serve.app import make_app  # noqa: E402
from posttrain.serve.served import Address, Limits, ServedModel  # noqa: E402
from posttrain.serve.service import Service  # noqa: E402

VOCAB_SIZE = 262


def scripted_service(
    tokenizer: Any, write: Write | None = None, limits: Limits | None = None, **fields: Any
) -> Service:
    """A service of a scripted engine with a context of 200 tokens."""
    model = {
        "name": "tiny",
        "tokenizer": tokenizer,
        "engine": ScriptedEngine(tokenizer, write),
        "vocab_size": VOCAB_SIZE,
        "context_length": 200,
    }
    return Service(ServedModel(**{**model, **fields}), limits)


@asynccontextmanager
async def running(service: Service, keys: tuple[str, ...] = ()) -> AsyncIterator[Any]:
    """A client of a service in this process."""
    app = make_app(service, Address(keys=keys))
    service.start()
    transport = httpx.ASGITransport(app)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            yield client
    finally:
        service.stop()


Client = Callable[..., AbstractAsyncContextManager[Any]]


@pytest.fixture
def client() -> Client:
    """`async with client(service) as http`."""
    return running


@pytest.fixture
def service(tiny_tokenizer: Any) -> Callable[..., Service]:
    """Makes services: `service(write=None, limits=None, **fields of the model)`."""

    def make(write: Write | None = None, limits: Limits | None = None, **fields: Any) -> Service:
        tokenizer = fields.pop("tokenizer", tiny_tokenizer)
        return scripted_service(tokenizer, write, limits, **fields)

    return make


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Waits until something holds, at most ten seconds."""

    def wait(holds: Callable[[], bool]) -> None:
        end = time.monotonic() + 10
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.005)

    return wait
