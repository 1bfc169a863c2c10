from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

uvicorn = pytest.importorskip("uvicorn", reason="the server needs the extra serve")

from posttrain.serve.app import make_app  # noqa: E402
from posttrain.serve.service import Service  # noqa: E402

Until = Callable[[Callable[[], bool]], None]
CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 100,
    "n": 4,
}


@contextlib.contextmanager
def listening(service: Service, until: Until) -> Iterator[int]:
    """The port of a service behind a real uvicorn in a thread of this process."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_app(service), log_level="critical"))
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
    thread.start()
    try:
        until(lambda: server.started)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)


def send(port: int, body: dict[str, Any]) -> socket.socket:
    """A connection on which a request was sent."""
    content = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", port))
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return connection


def kill(connection: socket.socket) -> None:
    """Close as a killed process does: at once, with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("stream", [True, False])
def test_a_killed_client_frees_its_rows_within_a_step(
    service: Any, until: Until, stream: bool
) -> None:
    server = service()
    engine = server.model.engine
    with listening(server, until) as port:
        connection = send(port, ASK | {"stream": stream})
        until(lambda: engine.steps >= 3)
        engine.gate.clear()
        until(lambda: engine.num_open == 1)
        if stream:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        steps = engine.steps
        kill(connection)
        until(lambda: server.num_samples == 0)  # the server knows, while the engine is at work
        engine.gate.set()
        until(lambda: engine.num_open == 0)
        assert engine.aborted == [1]
        assert engine.aborted_after <= steps + 1  # the step that was running
        server.worker.run(lambda: None).result(10)
        assert engine.steps <= steps + 1 and server.worker.num_open == 0
    assert server.metrics.aborted.value() == 1
    assert server.metrics.tokens.value(kind="discarded") > 0


def test_a_killed_search_frees_its_rows(service: Any, until: Until) -> None:
    server = service()
    engine = server.model.engine
    with listening(server, until) as port:
        search = {"name": "majority_vote", "num_samples": 4}
        connection = send(port, ASK | {"n": 1, "stream": True, "search": search})
        until(lambda: engine.steps >= 3)
        engine.gate.clear()
        kill(connection)
        until(lambda: server.num_samples == 0)
        engine.gate.set()
        until(lambda: engine.num_open == 0)
        assert engine.aborted


def test_a_client_that_reads_nothing_is_not_waited_for_by_others(
    service: Any, until: Until
) -> None:
    server = service(lambda request, index: [ord("a")] * 10**6, context_length=10**6)
    with listening(server, until) as port:
        stuck = send(port, ASK | {"stream": True, "max_tokens": 4000})
        until(lambda: server.model.engine.num_open == 1)
        with send(port, ASK | {"max_tokens": 5}) as other:
            other.settimeout(20)
            assert other.recv(100).startswith(b"HTTP/1.1 200")
        kill(stuck)
        until(lambda: server.num_samples == 0)


def test_models_are_the_base_and_its_searches(client: Any, service: Any) -> None:
    async def run() -> None:
        async with client(service()) as http:
            models = (await http.get("/v1/models")).json()["data"]
            names = [model["id"] for model in models]
            assert names[0] == "tiny" and "tiny@majority_vote" in names
            assert {model["max_model_len"] for model in models} == {200}
            one = await http.get("/v1/models/tiny@majority_vote")
            assert one.json() == models[names.index("tiny@majority_vote")]
            none = await http.get("/v1/models/other")
            assert none.status_code == 404 and none.json()["error"]["param"] == "model"

    asyncio.run(run())


def test_health_knows_a_dead_engine(client: Any, service: Any) -> None:
    async def run() -> None:
        server = service()
        async with client(server) as http:
            assert (await http.get("/health")).status_code == 200
            server.worker.stop()
            assert (await http.get("/health")).status_code == 503

    asyncio.run(run())


def test_a_failure_in_a_stream_is_its_last_event(
    client: Any, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.serve import answer

    def broken(*arguments: Any, **fields: Any) -> Any:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(answer, "SampleText", broken)

    async def run() -> None:
        server = service()
        async with client(server) as http:
            response = await http.post(CHAT, json=ASK | {"stream": True})
            last = response.text.strip().split("\n\n")[-1]
            assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
            assert "/secret/path" not in response.text and server.num_samples == 0

    asyncio.run(run())
