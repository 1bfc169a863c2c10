"""Completions from a server, against one that answers as OpenAI's does and writes down what it
was asked.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from posttrain.config import EndpointConfig
from posttrain.engines.endpoint import Endpoint
from posttrain.errors import ConfigError, EndpointError
from posttrain.types import Sampling

pytest.importorskip("openai")


class Server:
    """url: its address. asked: path, key and body of each request. `answer` makes (status,
    body) of one.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.answer: Callable[[str, dict[str, Any]], tuple[int, dict[str, Any]]] = choices
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.asked.append((self.path, self.headers["Authorization"] or "", body))
                status, answer = outer.answer(self.path, body)
                raw = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *given: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


def choices(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """As many completions as asked for, which tell prompt and number; the last is cut off."""
    n = body["n"]
    ends = ["stop"] * (n - 1) + ["length"]
    if path.endswith("/chat/completions"):
        last = body["messages"][-1]["content"]
        made = [
            {
                "index": i,
                "finish_reason": e,
                "message": {"role": "assistant", "content": f"{last} {i}"},
            }
            for i, e in enumerate(ends)
        ]
    else:
        made = [
            {"index": i, "finish_reason": e, "text": f"{body['prompt']} {i}"}
            for i, e in enumerate(ends)
        ]
    return 200, {"id": "x", "object": "x", "created": 0, "model": body["model"], "choices": made}


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def test_texts_and_messages_go_to_their_routes_and_come_back_in_order(
    server: Server, monkeypatch: Any
) -> None:
    monkeypatch.setenv("SOME_KEY", "sesame")
    endpoint = Endpoint(
        EndpointConfig(
            server.url, "big", key_variable="SOME_KEY", extra={"reasoning_effort": "low"}
        )
    )
    prompts = ["one", [{"role": "user", "content": "two"}], *(f"p{i}" for i in range(20))]
    found = endpoint.complete(
        prompts, Sampling(max_tokens=7, top_p=0.9, stop=("\n",)), n=2, seeds=range(22)
    )
    assert [[w.text for w in row] for row in found[:3]] == [
        ["one 0", "one 1"],
        ["two 0", "two 1"],
        ["p0 0", "p0 1"],
    ]
    assert [row[1].text for row in found[2:]] == [f"p{i} 1" for i in range(20)]
    assert [w.finish_reason for w in found[0]] == ["stop", "length"]
    paths = {path for path, _, body in server.asked if body.get("messages")}
    assert paths == {"/v1/chat/completions"} and {key for _, key, _ in server.asked} == {
        "Bearer sesame"
    }
    body = next(body for _, _, body in server.asked if body.get("prompt") == "one")
    assert body == {
        "model": "big",
        "prompt": "one",
        "n": 2,
        "seed": 0,
        "temperature": 1.0,
        "top_p": 0.9,
        "max_tokens": 7,
        "stop": ["\n"],
        "reasoning_effort": "low",
    }


def test_plain_text_can_be_asked_of_a_chat_and_reasoning_is_kept(server: Server) -> None:
    def thoughtful(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status, answer = choices(path, body)
        answer["choices"][0]["message"]["reasoning_content"] = "hm\n"
        return status, answer

    server.answer = thoughtful
    settings: dict[str, Any] = {"route": "chat", "extra": {"max_completion_tokens": 9}}
    kept = Endpoint(EndpointConfig(server.url, "big", **settings)).complete(
        ["why"], Sampling(), n=1, seeds=[0]
    )
    left = Endpoint(EndpointConfig(server.url, "big", keep_reasoning=False, **settings)).complete(
        ["why"], Sampling(), n=1, seeds=[0]
    )
    assert kept[0][0].text == "<think>\nhm\n</think>\n\nwhy 0" and left[0][0].text == "why 0"
    body = server.asked[0][2]
    assert body["messages"] == [{"role": "user", "content": "why"}]
    assert body["max_completion_tokens"] == 9 and "max_tokens" not in body


def test_a_server_that_is_busy_is_asked_again_and_one_that_refuses_is_told(server: Server) -> None:
    def busy(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return (
            choices(path, body) if len(server.asked) > 1 else (503, {"error": {"message": "busy"}})
        )

    server.answer = busy
    endpoint = Endpoint(EndpointConfig(server.url, "big"))
    assert (
        endpoint.complete(["a"], Sampling(), n=1, seeds=[0])[0][0].text == "a 0"
        and len(server.asked) == 2
    )
    server.answer = lambda path, body: (404, {"error": {"message": "no model big"}})
    with pytest.raises(EndpointError, match=r"big at http://127.*no model big.*endpoint\.model"):
        endpoint.complete(["a"], Sampling(), n=1, seeds=[0])
    server.answer = lambda path, body: (200, {"error": {"message": "no credit"}})
    with pytest.raises(
        EndpointError, match=r"answered without completions: .*no credit.*mostly in /v1"
    ):
        endpoint.complete(["a"], Sampling(), n=1, seeds=[0])
    server.answer = lambda path, body: choices(path, {**body, "n": 1})
    with pytest.raises(EndpointError, match="1 completions of 3.*num_generations: 1"):
        endpoint.complete(["a"], Sampling(), n=3, seeds=[0])
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(EndpointError, match="did not answer"):
        Endpoint(EndpointConfig(server.url, "big", max_retries=0)).complete(
            ["a"], Sampling(), n=1, seeds=[0]
        )


def test_a_prompt_that_is_refused_is_left_out_unless_all_are(server: Server) -> None:
    def strict(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return (
            (400, {"error": {"message": "too long"}})
            if len(body["prompt"]) > 3
            else choices(path, body)
        )

    server.answer = strict
    with pytest.raises(EndpointError, match="too long"):
        Endpoint(EndpointConfig(server.url, "big")).complete(
            ["aaaa", "bbbb"], Sampling(), n=1, seeds=[0, 1]
        )
    endpoint = Endpoint(EndpointConfig(server.url, "big"))
    found = endpoint.complete(["aaaa", "b", "cccc"], Sampling(), n=1, seeds=[0, 1, 2])
    assert [[w.text for w in row] for row in found] == [[], ["b 0"], []]


def test_odd_texts_are_made_whole(server: Server) -> None:
    contents: list[Any] = [
        "cut \ud83d",
        None,
        [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
    ]

    def odd(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status, answer = choices(path, body)
        for choice, content in zip(answer["choices"], contents, strict=True):
            choice["message"]["content"] = content
        return status, answer

    server.answer = odd
    endpoint = Endpoint(EndpointConfig(server.url, "big", route="chat", extra={"seed": None}))
    (row,) = endpoint.complete(["a"], Sampling(), n=3, seeds=[5])
    assert [w.text for w in row] == ["cut ?", "", "ab"] and "seed" not in server.asked[0][2]


def test_an_interruption_does_not_wait_for_the_server(server: Server) -> None:
    release = threading.Event()

    def slow(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if body["prompt"] == "bad":
            return 404, {"error": {"message": "gone"}}
        release.wait(60)
        return choices(path, body)

    server.answer = slow
    with pytest.raises(EndpointError, match="gone"):  # while "slow" is still being answered
        Endpoint(EndpointConfig(server.url, "big")).complete(
            ["bad", "slow"], Sampling(), n=1, seeds=[0, 1]
        )
    assert not release.is_set()
    release.set()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "localhost:8000"}, "endpoint.url: 'localhost:8000' must begin with http"),
        ({"concurrency": 0}, "endpoint.concurrency: 0 must be at least 1"),
        ({"timeout": 0.0}, "endpoint.timeout: 0 seconds"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Endpoint(EndpointConfig(**{"url": "http://x/v1", "model": "m", **settings}))


def test_method_sample_lets_a_server_write_and_keeps_what_is_right(
    server: Server, run_recipe: Callable[..., Path]
) -> None:
    """No model in the recipe: the server answers sums, the first of each pair rightly."""
    import re

    def solve(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status, answer = choices(path, body)
        problem = re.search(r"Q: (\S+)", body["prompt"]).group(1)  # type: ignore[union-attr]
        answer["choices"][0]["text"] = f" {problem}={eval(problem)}\n#### {eval(problem)}"
        return status, answer

    server.answer = solve
    task = {"name": "arithmetic", "num_steps": 1, "num_examples": 6}
    endpoint = {"url": server.url, "model": "big"}
    folder = run_recipe(
        method="sample",
        model=None,
        task=task,
        endpoint=endpoint,
        num_generations=2,
        min_reward=1.0,
        batch_size=4,
    )
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and all(
        row["reward"] == 1 and "####" in row["completion"] for row in rows
    )
    assert len({row["prompt"] for row in rows}) == 6 and len(server.asked) == 6
    seeds = {body["seed"] for _, _, body in server.asked}
    assert len(seeds) == 6
    with pytest.raises(
        ConfigError, match="length reads token ids and an endpoint gives text alone"
    ):
        run_recipe(
            method="sample",
            model=None,
            task=task,
            endpoint=endpoint,
            rewards=["length"],
            output=str(folder / "other"),
        )


def test_a_key_that_a_server_sends_back_is_not_shown(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", "sesame-open")
    config = EndpointConfig(server.url, "big", key_variable="MY_API_KEY", max_retries=0)
    for status in (401, 200):
        server.answer = lambda path, body, status=status: (
            status,
            {"error": {"message": "bad key sesame-open"}},
        )
        with pytest.raises(EndpointError, match=r"\[key\]") as caught:
            Endpoint(config).complete(["a"], Sampling(), n=1, seeds=[0])
        assert "sesame-open" not in str(caught.value)


@pytest.mark.parametrize("choice", [5, None, {"text": 5}, {"text": {"a": 1}}, {}])
def test_malformed_answers_are_an_error_of_ours(server: Server, choice: Any) -> None:
    server.answer = lambda path, body: (200, {"id": "x", "choices": [choice]})
    endpoint = Endpoint(EndpointConfig(server.url, "big", max_retries=0))
    with pytest.raises(EndpointError, match="big at http"):
        endpoint.complete(["a"], Sampling(), n=1, seeds=[0])


def test_a_dripping_server_meets_a_deadline(server: Server) -> None:
    release = threading.Event()
    server.answer = lambda path, body: (release.wait(60), choices(path, body))[1]
    endpoint = Endpoint(EndpointConfig(server.url, "big", max_retries=0))
    endpoint._deadline = 0.5  # what a timeout gives, which a drip never meets
    with pytest.raises(EndpointError, match=r"ended no request for 0\.5 seconds"):
        endpoint.complete(["a"], Sampling(), n=1, seeds=[0])
    release.set()
