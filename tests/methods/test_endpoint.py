"""A model behind a server in the place of one that is loaded."""

from __future__ import annotations

import pytest

import posttrain as pt
from posttrain.errors import ConfigError
from posttrain.methods.endpoint import EndpointModel, engine_of, spec_of
from posttrain.types import Example, Task

pytest.importorskip("openai")
SERVER = pt.Endpoint("http://127.0.0.1:9/v1", "m")


def test_a_server_stands_for_a_model() -> None:
    spec = spec_of(SERVER)
    assert isinstance(spec, EndpointModel) and spec_of(spec) is spec and spec.load() is spec
    assert spec.place == "m at http://127.0.0.1:9/v1" and spec.context_length() is None
    assert engine_of(spec) is spec.engine and engine_of(object()) is None


def test_prompts_are_messages_where_there_is_only_the_chat_route() -> None:
    task = Task(
        "t", [Example("a"), Example([{"role": "user", "content": "b"}])], lambda *_: 1.0, str
    )
    assert EndpointModel(SERVER).chat_task(task) is task
    chat = EndpointModel(pt.Endpoint(SERVER.url, "m", route="chat")).chat_task(task)
    contents = [e.prompt[0]["content"] for e in chat.examples if isinstance(e.prompt, list)]
    assert contents == ["a", "b"]


def test_what_a_server_cannot_do_is_refused_before_it_is_asked() -> None:
    rows = [{"prompt": "1+1=", "answer": "2"}]
    with pytest.raises(ConfigError, match="critic"):
        pt.evaluate(SERVER, rows, search="value_beam")
    with pytest.raises(ConfigError):
        pt.evaluate(SERVER, "calculator", environment="calculator")
