"""JSON over HTTP: what is tried again, and what an error says."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from posttrain.engines import http_client
from posttrain.engines.http_client import JsonClient, RequestRefused
from posttrain.errors import ConfigError, ServerLost


class Script:
    """Answers by a list of (status, text, seconds to wait); the last one repeats."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, str, float]] = [(200, '{"a": 1}', 0.0)]
        self.seen: list[tuple[str, str, Any, str | None]] = []

    def next(self) -> tuple[int, str, float]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def served() -> Iterator[tuple[str, Script]]:
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            script.seen.append((self.command, self.path, body, self.headers.get("Authorization")))
            status, text, seconds = script.next()
            time.sleep(seconds)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

        do_GET = do_POST

        def log_message(self, format: str, *values: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", script
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "_FIRST_PAUSE", 0.001)


def test_a_body_goes_out_and_an_answer_comes_back(served: tuple[str, Script]) -> None:
    url, script = served
    client = JsonClient(url + "/")
    assert client.post("/x", {"b": [1]}) == {"a": 1}
    assert client.get("/y?z=1") == {"a": 1}
    assert script.seen == [("POST", "/x", {"b": [1]}, None), ("GET", "/y?z=1", None, None)]


def test_an_answer_that_is_no_json_is_none(served: tuple[str, Script]) -> None:
    url, script = served
    script.answers = [(200, "", 0.0)]
    assert JsonClient(url).get("/health") is None


def test_what_may_pass_is_tried_again_so_many_times(served: tuple[str, Script]) -> None:
    url, script = served
    script.answers = [(500, "", 0.0), (503, "", 0.0), (200, "{}", 0.0)]
    assert JsonClient(url, max_retries=2).post("/x") == {}
    script.answers = [(500, "broken", 0.0)]
    with pytest.raises(RequestRefused) as caught:
        JsonClient(url, max_retries=2).post("/x")
    assert (caught.value.status, caught.value.detail) == (500, "broken")
    assert len(script.seen) == 6


def test_a_refusal_is_not_tried_again(served: tuple[str, Script]) -> None:
    url, script = served
    script.answers = [(400, "too long", 0.0)]
    with pytest.raises(RequestRefused):
        JsonClient(url).post("/x")
    assert len(script.seen) == 1


def test_a_server_that_cannot_be_reached_is_lost() -> None:
    with pytest.raises(ServerLost) as caught:
        JsonClient("http://127.0.0.1:9", max_retries=1).get("/x")
    assert caught.value.url == "http://127.0.0.1:9"


def test_a_dead_process_is_not_waited_for() -> None:
    asked = []

    def is_alive() -> bool:
        asked.append(1)
        return False

    with pytest.raises(ServerLost):
        JsonClient("http://127.0.0.1:9", max_retries=50, is_alive=is_alive).get("/x")
    assert len(asked) == 1


def test_a_slow_answer_is_lost_and_not_asked_for_again(served: tuple[str, Script]) -> None:
    url, script = served
    script.answers = [(200, "{}", 1.0)]
    with pytest.raises(ServerLost):
        JsonClient(url, timeout=0.1, max_retries=3).post("/x")
    assert len(script.seen) == 1


def test_the_key_goes_along_and_stays_out_of_messages(
    served: tuple[str, Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, script = served
    monkeypatch.setenv("VLLM_API_KEY", "s3cret")
    script.answers = [(401, "bad key s3cret", 0.0)]
    with pytest.raises(RequestRefused) as caught:
        JsonClient(url).get("/x")
    assert script.seen[0][3] == "Bearer s3cret"
    assert "s3cret" not in str(caught.value)


def test_a_secret_in_the_address_is_refused_by_the_key_of_the_recipe() -> None:
    with pytest.raises(ConfigError, match=r"^engine\.url: "):
        JsonClient("http://me:pass@127.0.0.1:1")
