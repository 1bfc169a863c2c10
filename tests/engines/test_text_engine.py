"""Searches on a server that takes text, against one that answers as OpenAI's does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

import posttrain as pt
from posttrain.budget import Budget
from posttrain.config import EndpointConfig
from posttrain.data.templates import encode_prompt
from posttrain.engines.characters import CharacterTokenizer
from posttrain.engines.text_engine import TextEngine
from posttrain.episodes.drive import Failed
from posttrain.errors import ConfigError, DataError, EndpointError, RequestRefused
from posttrain.search.base import Selection
from posttrain.search.run import SearchLimits, SearchTools, run_searches
from posttrain.search.strategy import strategy
from posttrain.types import Example, Request, Sampling, Task

pytest.importorskip("openai")

STEPS = ["1+1=2", "2+2=4", "so 4"]


class Server:
    """Writes the steps one after the other behind what it is given, a character per token.

    asked: the bodies of the requests. spent: tokens written. max_prompt: characters of a prompt,
    beyond which a request is refused.
    """

    def __init__(
        self, refused: tuple[str, ...] = (), logprobs: bool = True, max_prompt: int = 10**6
    ) -> None:
        self.max_prompt = max_prompt
        self.asked: list[dict[str, Any]] = []
        self.spent = 0
        self.refused, self.logprobs = refused, logprobs
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    status, answer = outer.answer(body)
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

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.asked.append(body)
        for name in self.refused:
            if name in body:
                return 400, {"error": {"message": f"{name} is not a field"}}
        if len(body.get("prompt") or "") > self.max_prompt:
            return 400, {"error": {"message": "the prompt is too long"}}
        messages = body.get("messages")
        given = body["prompt"].partition("?")[2] if messages is None else ""
        if messages is not None and messages[-1]["role"] == "assistant":
            given = messages[-1]["content"]
        rest = ("\n".join(STEPS))[len(given) :]
        tokens = [*rest, ""]
        reason = "stop"
        for place, token in enumerate(tokens[:-1]):
            if token in body.get("stop", []):
                tokens = tokens[: place + 1]
                rest = rest[:place]
                break
        if len(tokens) > body["max_tokens"]:
            tokens, reason = tokens[: body["max_tokens"]], "length"
            rest = "".join(tokens)
        self.spent += body["n"] * len(tokens)
        choices = []
        for index in range(body["n"]):
            choice: dict[str, Any] = {"index": index, "finish_reason": reason, "logprobs": None}
            if messages is None:
                choice["text"] = rest
            else:
                choice["message"] = {"role": "assistant", "content": rest}
            if self.logprobs and body.get("logprobs") is not None:
                choice["logprobs"] = logprobs_of(tokens, chat=messages is not None)
            choices.append(choice)
        usage = {"prompt_tokens": 7, "completion_tokens": body["n"] * len(tokens)}
        head = {"id": "x", "object": "x", "created": 0, "model": body["model"]}
        return 200, {**head, "choices": choices, "usage": {**usage, "total_tokens": 0}}


def logprobs_of(tokens: list[str], *, chat: bool) -> dict[str, Any]:
    if not chat:
        return {"tokens": tokens, "token_logprobs": [-0.5] * len(tokens)}
    entry = {"logprob": -0.5, "bytes": None, "top_logprobs": []}
    return {"content": [{"token": token, **entry} for token in tokens]}


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def make(**options: Any) -> Server:
        servers.append(Server(**options))
        return servers[-1]

    yield make
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


def search(
    engine: TextEngine, prompts: list[Any], name: str, budget: int | None = None, **settings: Any
) -> list[Selection | Failed]:
    """What a strategy chooses."""
    tokenizer = CharacterTokenizer()

    def value_of(states: Any) -> list[float]:
        return [float(len(state)) for state in states]

    tools = SearchTools(tokenizer, lambda text: text[-1:] or None, None, value_of)
    problems = [(Example(p), tuple(encode_prompt(tokenizer, p))) for p in prompts]
    return run_searches(
        strategy(name, **settings),
        problems,
        engine,
        tools,
        sampling=Sampling(max_tokens=40),
        seeds=range(len(prompts)),
        limits=SearchLimits(max_tokens=budget),
    )


CHAT: Any = [{"role": "user", "content": "how much?"}]


@pytest.mark.parametrize("logprobs", [True, False])
@pytest.mark.parametrize("prompt", ["how much?", CHAT], ids=["text", "chat"])
def test_a_search_by_steps_goes_on_behind_what_was_written(
    serve: Callable[..., Server], prompt: Any, logprobs: bool
) -> None:
    server = serve(logprobs=logprobs)
    engine = TextEngine(EndpointConfig(server.url, "m"), logprobs=logprobs)
    (chosen,) = search(engine, [prompt], "value_beam", num_beams=2)
    assert isinstance(chosen, Selection), chosen
    # A server that does not say what ended a text is asked once more, for the end.
    assert chosen.text == "\n".join(STEPS) + "\n" * (not logprobs)
    assert chosen.num_tokens == server.spent == engine.stats.generated_tokens
    continued = server.asked[-1 if logprobs else -2]
    if isinstance(prompt, str):
        assert continued["prompt"] == "how much?1+1=2\n2+2=4\n"
    else:
        last = {"role": "assistant", "content": "1+1=2\n2+2=4\n"}
        assert continued["messages"] == [*CHAT, last]
        assert continued["continue_final_message"] is True
        assert continued["add_generation_prompt"] is False
        assert (
            server.asked[0]["messages"] == CHAT and "continue_final_message" not in server.asked[0]
        )
    if logprobs:
        chosen_one = chosen.candidates[chosen.index]
        assert chosen_one.logprob == -0.5 * len(chosen_one.ids)


@pytest.mark.parametrize("budget", [1, 2, 5, 17, 60])
@pytest.mark.parametrize("name", ["majority_vote", "value_beam"])
def test_no_budget_is_exceeded_by_a_token(
    serve: Callable[..., Server], name: str, budget: int
) -> None:
    server = serve()
    engine = TextEngine(EndpointConfig(server.url, "m"))
    results = search(engine, ["a?", "b?"], name, budget=budget)
    for result in results:
        assert isinstance(result, Selection), result
        assert result.num_tokens <= budget
    assert server.spent == sum(r.num_tokens for r in results if isinstance(r, Selection))


def test_a_refused_request_fails_its_own_search_alone(serve: Callable[..., Server]) -> None:
    server = serve(max_prompt=20)
    engine = TextEngine(EndpointConfig(server.url, "m", max_retries=0))
    results = search(engine, ["a?", "a" * 30 + "?", "aaaaaaaaaa?"], "value_beam", num_beams=2)
    assert isinstance(results[0], Selection) and engine.num_open == 0
    for failed in results[1:]:
        assert isinstance(failed, Failed) and "too long" in failed.reason
    # The last one is refused behind its first step, whose tokens are counted.
    assert [f.num_tokens > 0 for f in results[1:] if isinstance(f, Failed)] == [False, True]
    assert sum(r.num_tokens for r in results) == server.spent
    with pytest.raises(RequestRefused, match="too long"):
        search(engine, ["a" * 30 + "?"] * 2, "sample")


def test_an_evaluation_counts_it_as_an_error(serve: Callable[..., Server]) -> None:
    server = serve(max_prompt=20)
    examples = [
        Example("a?", answer="4", id="short"),
        Example("a" * 30 + "?", answer="4", id="long"),
    ]
    task = Task("two", examples, lambda text, e: float(text[-1:] == e.answer), lambda t: t[-1:])
    result = pt.evaluate(EndpointConfig(server.url, "m", max_retries=0), task, search="sample")
    assert result.means() == [1.0, 0.0] and result.errors == 1
    assert len(result.failures) == 1 and "too long" in result.failures[0]


def test_generate_leaves_nothing_open_behind_an_error(serve: Callable[..., Server]) -> None:
    server = serve(max_prompt=20)
    engine = TextEngine(EndpointConfig(server.url, "m", max_retries=0, concurrency=1))
    requests = [Request(tuple(map(ord, t + "?")), Sampling(max_tokens=3)) for t in ("a" * 30, "b")]
    with pytest.raises(RequestRefused):
        engine.generate(requests)
    assert engine.num_open == 0
    with pytest.raises(DataError):
        engine.generate([requests[1], Request((), Sampling())])
    assert engine.num_open == 0
    ((sample,),) = engine.generate(requests[1:])
    assert engine.tokenizer.decode(sample.ids) == "1+1"


def test_errors_name_the_way_out(serve: Callable[..., Server]) -> None:
    server = serve(refused=("continue_final_message", "logprobs"))
    engine = TextEngine(EndpointConfig(server.url, "m", max_retries=0))
    with pytest.raises(EndpointError, match="logprobs=false"):
        search(engine, ["a?"], "sample")
    engine = TextEngine(EndpointConfig(server.url, "m", max_retries=0), logprobs=False)
    with pytest.raises(EndpointError, match="continue_final_message.*completions route"):
        search(engine, [CHAT], "value_beam")
    chat = TextEngine(EndpointConfig(server.url, "m", route="chat"))
    with pytest.raises(ConfigError, match="route: auto"):
        search(chat, ["a?"], "sample")
    with pytest.raises(ConfigError):
        engine.score([((1, 2), 1)])


def test_requests_of_other_protocols_are_refused_and_aborted_ones_are_counted(
    serve: Callable[..., Server],
) -> None:
    server = serve()
    engine = TextEngine(EndpointConfig(server.url, "m"))
    with pytest.raises(ConfigError, match="deadline_seconds"):
        engine.submit(Request((97,), Sampling(), deadline_seconds=1.0))
    ((sample,),) = engine.generate([Request((97, 63), Sampling(max_tokens=4))])
    assert engine.tokenizer.decode(sample.ids) == "1+1=" and sample.finish_reason == "length"
    budget = Budget(max_tokens=10)
    first = engine.submit(Request((97, 63), Sampling(max_tokens=3), budget=budget))
    second = engine.submit(Request((98, 63), Sampling(max_tokens=3), budget=budget))
    engine.abort(second)
    done = []
    while engine.num_open:
        done += engine.step()
    assert [f.ticket for f in done] == [first] and budget.num_tokens == 3
    server.http.shutdown()
    server.http.server_close()
    gone = TextEngine(EndpointConfig(server.url, "m", max_retries=0))
    with pytest.raises(EndpointError):
        gone.generate([Request((97,), Sampling())])


def test_a_server_without_usage_is_refused(serve: Callable[..., Server]) -> None:
    server = serve()
    answer = server.answer

    def silent(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status, given = answer(body)
        return status, {**given, "usage": None}

    server.answer = silent  # type: ignore[method-assign]
    engine = TextEngine(EndpointConfig(server.url, "m"))
    with pytest.raises(EndpointError, match="usage"):
        engine.generate([Request((97,), Sampling())])
