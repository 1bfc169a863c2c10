"""Answers that are JSON of a schema, by the engine itself on a model with random weights."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any, Literal

import pytest

pytest.importorskip("fastapi", reason="the server needs the extra serve")
pytest.importorskip("llguidance", reason="forms of answers need the extra constrained")

from pydantic import BaseModel, ConfigDict

from posttrain.engines.torch import TorchEngine
from posttrain.models.load import load_model
from posttrain.serve.served import Limits, ServedModel
from posttrain.serve.service import Service

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ASK = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 60}
WRITE = {"model": "tiny", "prompt": ["a", "b"], "max_tokens": 60}


class Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    kind: Literal["good", "bad", "mixed"]
    sure: bool
    marks: list[Literal[1, 2, 30]] | None


SCHEMA = Verdict.model_json_schema() | {"required": ["kind", "sure", "marks"]}
SCHEMA["properties"]["marks"]["anyOf"][0]["maxItems"] = 4


def of(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> ServedModel:
    loaded = load_model(str(tiny_folder), dtype="float32")
    engine = TorchEngine(loaded)
    size, context = loaded.config.vocab_size, loaded.context_length
    return ServedModel(
        "tiny", loaded.tokenizer, engine, size, context, compile_constraint=engine.compile
    )


def streamed(body: str) -> dict[int, str]:
    """The text of each choice of a stream."""
    texts: dict[int, str] = {}
    for line in body.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                text = choice.get("text") or choice.get("delta", {}).get("content") or ""
                texts[choice["index"]] = texts.get(choice["index"], "") + text
    return texts


@pytest.mark.parametrize(("path", "body"), [(CHAT, ASK | {"n": 6}), (TEXT, WRITE | {"n": 3})])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_answer_has_the_form(
    client: Any, model: ServedModel, path: str, body: dict[str, Any], temperature: float
) -> None:
    body = body | of(SCHEMA) | {"seed": 3, "temperature": temperature}

    async def run() -> None:
        async with client(Service(model)) as http:
            whole, stream, free = await asyncio.gather(
                http.post(path, json=body),
                http.post(path, json=body | {"stream": True}),
                http.post(path, json=body | {"response_format": {"type": "text"}}),
            )
        assert [r.status_code for r in (whole, stream, free)] == [200, 200, 200]
        choices = whole.json()["choices"]
        texts = [c["text"] if path == TEXT else c["message"]["content"] for c in choices]
        assert len(texts) == 6
        for choice, text in zip(choices, texts, strict=True):
            assert choice["finish_reason"] == "stop"
            Verdict.model_validate_json(text)
            assert Verdict.model_validate(json.loads(text))
        assert streamed(stream.text) == dict(enumerate(texts))
        for choice in free.json()["choices"]:  # what runs beside them is not constrained
            text = choice["text"] if path == TEXT else choice["message"]["content"]
            with pytest.raises(ValueError):
                json.loads(text)

    asyncio.run(run())


def test_any_object_will_do(client: Any, model: ServedModel) -> None:
    body = ASK | {"response_format": {"type": "json_object"}, "n": 8, "seed": 1, "max_tokens": 150}

    async def run() -> None:
        async with client(Service(model)) as http:
            choices = (await http.post(CHAT, json=body)).json()["choices"]
        ended = [c["message"]["content"] for c in choices if c["finish_reason"] == "stop"]
        assert ended and all(isinstance(json.loads(text), dict) for text in ended)
        assert all(c["message"]["content"].startswith("{") for c in choices)

    asyncio.run(run())


WRONG: list[Any] = [
    {"type": "nonsense"},
    {"not": {"type": "string"}},
    {"$ref": "#/$defs/absent"},
    {"$ref": "http://127.0.0.1:1/schema"},
    {"type": "string", "pattern": "(a"},
    {"type": "string", "minLength": 5, "maxLength": 2},
    {"x-guidance": {"lenient": True}, "not": {}},
    {"enum": ["x" * 100 + str(i) for i in range(1000)]},  # characters
    {"enum": [f"{i}" for i in range(9000)]},
    {"allOf": [{"anyOf": [{"properties": {f"p{i}": {"type": k}}} for k in ("string", "integer")]}
               for i in range(11)]},
]  # fmt: skip


def test_what_cannot_be_compiled_is_a_400(client: Any, model: ServedModel) -> None:
    async def run() -> None:
        async with client(Service(model)) as http:
            for schema in WRONG:
                for path, body in ((CHAT, ASK), (TEXT, WRITE | {"stream": True})):
                    answer = await http.post(path, json=body | of(schema))
                    assert answer.status_code == 400, schema
                    error = answer.json()["error"]
                    assert error["param"] == "response_format"
                    assert "\n" not in error["message"] and len(error["message"]) < 1000

    asyncio.run(run())


def test_a_form_that_cannot_be_followed_is_an_error_not_a_cut_answer(
    client: Any, model: ServedModel
) -> None:
    """Any of 600 keys may come: more than the library's parser takes, which shows on the way."""
    wide = of({"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(600)}})

    async def run() -> None:
        server = Service(model)
        async with client(server) as http:
            assert (await http.post(CHAT, json=ASK | wide)).status_code == 400
            stream = await http.post(CHAT, json=ASK | wide | {"stream": True})
            assert '"error"' in stream.text and "[DONE]" not in stream.text
            assert (await http.post(CHAT, json=ASK | of(SCHEMA))).status_code == 200
            assert server.num_samples == 0 and model.engine.num_open == 0

    asyncio.run(run())


TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    "fields",
    [
        {"search": {"name": "majority_vote", "num_samples": 2}},
        {"model": "tiny@majority_vote"},
        {"tools": [TOOL]},
    ],
)
def test_neither_searches_nor_tools(
    client: Any, model: ServedModel, fields: dict[str, Any]
) -> None:
    async def run() -> None:
        async with client(Service(model)) as http:
            answer = await http.post(CHAT, json=ASK | of(SCHEMA) | fields)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "response_format"

    asyncio.run(run())


def test_tools_that_are_not_shown_do_no_harm(client: Any, model: ServedModel) -> None:
    body = ASK | of(SCHEMA) | {"tools": [TOOL], "tool_choice": "none"}

    async def run() -> None:
        async with client(Service(model)) as http:
            answer = (await http.post(CHAT, json=body)).json()
        Verdict.model_validate_json(answer["choices"][0]["message"]["content"])

    asyncio.run(run())


def test_the_engine_goes_on_while_a_schema_compiles(client: Any, service: Any) -> None:
    gate, threads = threading.Event(), []

    def compile_slowly(constraint: Any) -> None:
        threads.append(threading.current_thread().name)
        gate.wait(20)

    server = service(compile_constraint=compile_slowly)

    async def run() -> None:
        async with client(server) as http:
            slow = asyncio.ensure_future(http.post(CHAT, json=ASK | of({"type": "integer"})))
            while not threads:
                await asyncio.sleep(0.01)
            assert (await http.post(CHAT, json=ASK)).status_code == 200
            assert not slow.done() and server.num_samples == 1
            gate.set()
            assert (await slow).status_code == 200
        assert server.model.engine.requests[-1].constraint is not None
        assert threads[0] not in ("engine", threading.main_thread().name)

    asyncio.run(run())


def test_waiting_for_a_compilation_has_an_end(client: Any, service: Any) -> None:
    server = service(
        limits=Limits(timeout_seconds=1), compile_constraint=lambda constraint: time.sleep(2)
    )

    async def run() -> None:
        async with client(server) as http:
            answer = await http.post(CHAT, json=ASK | of({"type": "integer"}))
            assert answer.status_code == 504 and server.num_samples == 0

    asyncio.run(run())
