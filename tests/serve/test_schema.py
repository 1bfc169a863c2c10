"""What a request may hold, and that no request whatever breaks the server."""

from __future__ import annotations

import asyncio
import copy
import json
import random
from typing import Any

import pytest

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
MESSAGE = {"role": "user", "content": "hello"}
ASK: dict[str, Any] = {"model": "tiny", "messages": [MESSAGE], "max_tokens": 3}
WRITE: dict[str, Any] = {"model": "tiny", "prompt": "hello", "max_tokens": 3}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def says(**fields: Any) -> dict[str, Any]:
    return ASK | {"messages": [{**MESSAGE, **fields}]}


REFUSED: list[tuple[str, Any, str | None]] = [
    (CHAT, [], None),
    (CHAT, "text", None),
    (CHAT, {}, "model"),
    (CHAT, {"model": "tiny"}, "messages"),
    (CHAT, ASK | {"messages": []}, "messages"),
    (CHAT, ASK | {"messages": "hello"}, "messages"),
    (CHAT, ASK | {"messages": [3]}, "messages.0"),
    (CHAT, says(role="developer"), "messages.0.role"),
    (CHAT, says(role=None), "messages.0.role"),
    (CHAT, says(content=None), "messages.0.content"),
    (CHAT, says(content=3), "messages.0.content"),
    (CHAT, says(content=[{"type": "image_url", "image_url": {"url": "x"}}]), None),
    (CHAT, says(name="bob"), "messages.0.tool_call_id"),
    (CHAT, says(tool_calls=[CALL]), "messages.0.tool_calls"),
    (CHAT, says(audio={}), "messages.0.audio"),
    (CHAT, says(role="assistant", tool_calls=[CALL | {"type": "custom"}]), None),
    (CHAT, ASK | {"max_tokens": 0}, "max_tokens"),
    (CHAT, ASK | {"max_tokens": -1}, "max_tokens"),
    (CHAT, ASK | {"max_tokens": 2.5}, "max_tokens"),
    (CHAT, ASK | {"max_tokens": "3"}, "max_tokens"),
    (CHAT, ASK | {"max_tokens": True}, "max_tokens"),
    (CHAT, ASK | {"max_tokens": 10**6}, "max_tokens"),
    (CHAT, ASK | {"max_completion_tokens": 4}, "max_tokens"),
    (CHAT, ASK | {"n": 0}, "n"),
    (CHAT, ASK | {"n": 10**9}, "n"),
    (CHAT, ASK | {"seed": 2**70}, "seed"),
    (CHAT, ASK | {"seed": "a"}, "seed"),
    (CHAT, ASK | {"temperature": -0.1}, "temperature"),
    (CHAT, ASK | {"temperature": 1e9}, "temperature"),
    (CHAT, ASK | {"temperature": "1"}, "temperature"),
    (CHAT, ASK | {"top_p": 0}, "top_p"),
    (CHAT, ASK | {"top_p": 1.1}, "top_p"),
    (CHAT, ASK | {"top_k": -1}, "top_k"),
    (CHAT, ASK | {"min_p": 1}, "min_p"),
    (CHAT, ASK | {"stop": ""}, "stop.0"),
    (CHAT, ASK | {"stop": ["a", ""]}, "stop.1"),
    (CHAT, ASK | {"stop": ["a"] * 17}, "stop"),
    (CHAT, ASK | {"stop": "a" * 257}, "stop.0"),
    (CHAT, ASK | {"stop": 3}, "stop"),
    (CHAT, ASK | {"stop_token_ids": [-1]}, "stop_token_ids.0"),
    (CHAT, ASK | {"logprobs": 1}, "logprobs"),
    (CHAT, ASK | {"top_logprobs": 2}, "top_logprobs"),
    (CHAT, ASK | {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    (CHAT, ASK | {"stream": "yes"}, "stream"),
    (CHAT, ASK | {"stream_options": {"include_usage": True}}, "stream_options"),
    (CHAT, ASK | {"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
    (CHAT, ASK | {"frequency_penalty": 0.5}, "frequency_penalty"),
    (CHAT, ASK | {"presence_penalty": -1}, "presence_penalty"),
    (CHAT, ASK | {"logit_bias": {"5": 1.0}}, "logit_bias"),
    (CHAT, ASK | {"response_format": {"type": "json_object"}}, "response_format"),
    (CHAT, ASK | {"response_format": {"type": "xml"}}, "response_format.type"),
    (CHAT, ASK | {"response_format": {"type": "json_schema"}}, "response_format"),
    (CHAT, ASK | {"tool_choice": "auto"}, "tool_choice"),
    (CHAT, ASK | {"tools": [{}]}, "tools.0.type"),
    (CHAT, ASK | {"tools": [{"type": "function", "function": {"name": "a b"}}]}, None),
    (CHAT, ASK | {"functions": []}, "functions"),
    (CHAT, ASK | {"user": "me"}, "user"),
    (CHAT, ASK | {"top_kk": 3}, "top_kk"),
    (CHAT, ASK | {"": 3}, None),
    (CHAT, ASK | {"prompt": "x"}, "prompt"),
    (CHAT, ASK | {"search": "majority_vote"}, "search"),
    (TEXT, WRITE | {"messages": []}, "messages"),
    (TEXT, WRITE | {"prompt": None}, "prompt"),
    (TEXT, WRITE | {"prompt": [[1], "a", None]}, None),
    (TEXT, WRITE | {"prompt": [2**40]}, "prompt"),
    (TEXT, WRITE | {"logprobs": True}, "logprobs"),
    (TEXT, WRITE | {"echo": "yes"}, "echo"),
]


def ask(client: Any, service: Any, requests: list[tuple[str, bytes]]) -> list[Any]:
    """The answers to bodies that are sent one after another."""

    async def send() -> list[Any]:
        headers = {"Content-Type": "application/json"}
        async with client(service) as http:
            return [await http.post(p, content=b, headers=headers) for p, b in requests]

    return asyncio.run(send())


def is_refusal(response: Any) -> bool:
    error = response.json()["error"]
    return (
        set(error) == {"message", "type", "param", "code"}
        and bool(error["message"])
        and error["type"] == "invalid_request_error"
    )


def test_each_refusal_names_its_field(client: Any, service: Any) -> None:
    server = service()
    sent = [(path, json.dumps(body).encode()) for path, body, _ in REFUSED]
    for (_, body, param), response in zip(REFUSED, ask(client, server, sent), strict=True):
        assert response.status_code == 400 and is_refusal(response), (body, response.text)
        if param is not None:
            assert response.json()["error"]["param"] == param, (body, response.text)
    assert server.model.engine.requests == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"\xff\xfe",
        b'{"model": "tiny", "prompt": "\\ud800"}',
        b'{"model": "\\ud800", "prompt": "a"}',
        b'{"model": "tiny", "prompt": "a", "temperature": NaN}',
        b'{"model": "tiny", "prompt": "a", "temperature": Infinity}',
        b'{"model": "tiny", "prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"model": "tiny", "prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model": "tiny", "prompt": "a", "stop": "\\ud800"}',
    ],
)
def test_broken_bodies_are_refused(client: Any, service: Any, body: bytes) -> None:
    (response,) = ask(client, service(), [(TEXT, body)])
    assert response.status_code == 400 and is_refusal(response), response.text


def test_an_unknown_model_is_not_found(client: Any, service: Any) -> None:
    for name in ("", "gpt-4", "tiny@", "tiny@best_of_n", "@majority_vote", "x" * 10_000):
        body = json.dumps(ASK | {"model": name}).encode()
        (response,) = ask(client, service(), [(CHAT, body)])
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "model_not_found"
        assert len(response.content) < 1000


JUNK: list[Any] = [
    None,
    True,
    -1,
    0,
    10**30,
    1e308,
    -0.0,
    "",
    "\x00",
    "\u202e🙂",
    "x" * 3000,
    [],
    {},
    [[]],
    {"a": {"b": []}},
    [None] * 50,
]


def mutated(body: Any, generator: random.Random) -> Any:
    """A body of which something, at any depth, has gone, changed or been added."""
    body = copy.deepcopy(body)
    node = body
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return body
        key = generator.choice(keys)
        inner = node[key]
        if isinstance(inner, dict | list) and inner and generator.random() < 0.7:
            node = inner
            continue
        kind = generator.randrange(3)
        if kind == 0:
            del node[key]
        elif kind == 1 or isinstance(node, list):
            node[key] = generator.choice(JUNK)
        else:
            node[generator.choice(["x", "", "schema", "é", "model ", "__class__"])] = inner
        return body


def test_no_mutation_breaks_the_server(client: Any, service: Any) -> None:
    """300 bodies: every one is answered or refused, and the engine serves on."""
    generator = random.Random(15)
    full = ASK | {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "t"}]},
            {"role": "assistant", "content": "a", "tool_calls": [CALL]},
            {"role": "tool", "content": "r", "tool_call_id": "c"},
        ],
        "n": 2,
        "stop": ["x", "y"],
        "seed": 1,
        "temperature": 0.5,
        "search": {"name": "majority_vote", "num_samples": 2, "extractor": "boxed"},
        "response_format": {"type": "text"},
        "stream": False,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": [1]}}}],
    }
    plain = WRITE | {"prompt": [[5, 6], "b"], "echo": True, "logprobs": 0, "n": 2}
    sent = []
    for number in range(300):
        path, body = ((CHAT, full), (TEXT, plain), (CHAT, ASK))[number % 3]
        text = json.dumps(mutated(body, generator)).encode()
        if number % 5 == 0:  # bytes instead of fields
            place = generator.randrange(len(text))
            text = text[:place] + bytes([generator.randrange(256)]) + text[place + 1 :]
        sent.append((path, text))
    server = service()
    counts: dict[int, int] = {}
    for (_, text), response in zip(sent, ask(client, server, sent), strict=True):
        counts[response.status_code] = counts.get(response.status_code, 0) + 1
        assert response.status_code in (200, 400, 404), (text, response.text)
        if response.status_code != 200:
            assert {"message", "type", "param", "code"} == set(response.json()["error"]), text
    assert counts[400] > 150 and counts[200] > 10
    assert server.model.engine.num_open == 0 and server.num_samples == 0
    assert server.worker.failures == 0
