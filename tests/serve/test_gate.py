from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from posttrain.serve import gate
from posttrain.serve.gate import Gate, Keys
from posttrain.serve.metrics import Metrics
from posttrain.serve.served import Limits

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
FIRST, SECOND = "first-key-123", "second-key-456"


def test_a_key_is_asked_for(client: Any, service: Any, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    headers: list[dict[str, str]] = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {FIRST}"},
        {"Authorization": FIRST},
        {"Authorization": f"Bearer {FIRST}x"},
        {"Authorization": f"Bearer {FIRST[:-1]}"},
        {"Authorization": f"Bearer {FIRST},{SECOND}"},
        {"X-API-Key": FIRST},
    ]

    async def run() -> None:
        async with client(service(), (FIRST, SECOND)) as http:
            for header in headers:
                for path in ("/v1/models", "/metrics", "/v1/none", "/v1/models/../../metrics"):
                    response = await http.get(path, headers=header)
                    assert response.status_code == 401
                    assert response.headers["www-authenticate"] == "Bearer"
                    assert response.json()["error"]["code"] == "invalid_api_key"
                response = await http.post("/v1/chat/completions", json=ASK, headers=header)
                assert response.status_code == 401
            assert (await http.get("/health")).status_code == 200
            for key in (FIRST, SECOND):
                for scheme in ("Bearer", "bearer"):
                    header = {"Authorization": f"{scheme} {key}"}
                    response = await http.post("/v1/chat/completions", json=ASK, headers=header)
                    assert response.status_code == 200
                    metrics = (await http.get("/metrics", headers=header)).text
                    assert FIRST not in metrics and SECOND not in metrics

    asyncio.run(run())
    assert FIRST not in caplog.text and SECOND not in caplog.text


def test_keys_have_owners_and_are_not_shown() -> None:
    keys = Keys([FIRST, SECOND])
    assert keys.owner(f"Bearer {FIRST}".encode()) == "key 1"
    assert keys.owner(f"Bearer {SECOND}".encode()) == "key 2"
    assert keys.owner(None) is None and keys.owner(b"Bearer \xff\xfe") is None
    assert FIRST not in repr(vars(keys))
    assert Keys([]).owner(None) == ""


def test_large_bodies_are_refused_whether_announced_or_not(client: Any, service: Any) -> None:
    async def chunks() -> Any:
        for _ in range(100):
            yield b"x" * 100

    async def run() -> None:
        server = service(limits=Limits(max_body_bytes=2000))
        async with client(server) as http:
            for content in (b"x" * 2001, chunks()):
                response = await http.post("/v1/completions", content=content)
                assert response.status_code == 413
                assert response.json()["error"]["code"] == "body_too_large"
            response = await http.post("/v1/completions", content=b"x" * 2000)
            assert response.status_code == 400
            for length in ("-1", "1e3", "9" * 30, "a"):
                response = await http.post(
                    "/v1/completions", content=b"x", headers={"Content-Length": length}
                )
                assert response.status_code in (400, 413)
            assert (await http.post("/v1/chat/completions", json=ASK)).status_code == 200

    asyncio.run(run())


def call(app: Any, *, receive: Any = None, send: Any = None, **fields: Any) -> list[Any]:
    """Messages that an ASGI app sends."""
    sent: list[Any] = []

    async def body() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def keep(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/x", "method": "POST", "headers": [], **fields}
    asyncio.run(app(scope, receive or body, send or keep))
    return sent


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "BODY_SECONDS", 0.05)

    async def never() -> Any:
        await asyncio.sleep(60)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("reached")

    sent = call(Gate(app, Keys([]), 100, Metrics()), receive=never)
    assert sent[0]["status"] == 408


def test_a_failing_app_is_answered_without_its_words(caplog: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("/secret/path")

    sent = call(Gate(app, Keys([]), 100, Metrics()))
    assert sent[0]["status"] == 500
    assert json.loads(sent[1]["body"])["error"]["type"] == "server_error"
    assert b"/secret/path" not in sent[1]["body"] and "/secret/path" in caplog.text


def test_an_answer_that_nobody_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "SEND_SECONDS", 0.05)
    ended = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        finally:
            ended.append(True)

    async def stuck(message: Any) -> None:
        await asyncio.sleep(60)

    call(Gate(app, Keys([]), 100, Metrics()), send=stuck)
    assert ended == [True]


def test_unknown_paths_and_methods_have_the_shape_of_errors(client: Any, service: Any) -> None:
    async def run() -> None:
        server = service()
        async with client(server) as http:
            for path in ("/", "/v2", "/docs", "/openapi.json", "/v1/embeddings", "/v1/" + "x" * 99):
                response = await http.get(path)
                assert response.status_code == 404 and response.json()["error"]["message"]
            response = await http.get("/v1/completions")
            assert response.status_code == 405 and response.json()["error"]["message"]
            requests = server.metrics.requests
            assert requests.value(path="other", status="404") == 6

    asyncio.run(run())
