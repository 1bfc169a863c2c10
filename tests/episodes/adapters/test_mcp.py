"""Tools of an MCP server, through a client of the same shape."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from posttrain.episodes.adapters.mcp import McpTools, call_text
from posttrain.errors import EpisodeError

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def part(text: str) -> SimpleNamespace:
    return SimpleNamespace(type="text", text=text)


class Client:
    """Like the library's: opened and closed in one task, used from others of the same loop."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.task: Any = None

    async def __aenter__(self) -> Client:
        self.task, self.thread = asyncio.current_task(), threading.get_ident()
        return self

    async def __aexit__(self, *error: Any) -> None:
        assert asyncio.current_task() is self.task
        self.log.append("closed")

    async def list_tools(self, *, cursor: str | None = None) -> SimpleNamespace:
        assert threading.get_ident() == self.thread
        names = ["double"] if cursor is None else ["fail", "wait"]
        tools = [SimpleNamespace(name=n, description=f"{n} it", inputSchema=SCHEMA) for n in names]
        return SimpleNamespace(tools=tools, next_cursor="more" if cursor is None else None)

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> SimpleNamespace:
        if name == "wait":
            await asyncio.sleep(60)
        if name == "fail":
            return SimpleNamespace(content=[part("no"), part("way")], is_error=True)
        return SimpleNamespace(content=[part(str(2 * arguments["a"]))], is_error=False)


def test_tools_of_a_server() -> None:
    client = Client()
    server = McpTools(lambda: client, timeout_seconds=0.5)
    double, fail, wait = server.tools()
    assert double.name == "double" and double.schema["function"]["description"] == "double it"
    assert double.parameters == SCHEMA
    assert double.function(a=4) == "8"
    with pytest.raises(RuntimeError, match="no\nway"):
        fail.function(a=1)
    with pytest.raises(EpisodeError, match=r"wait has not answered within 0\.5 s"):
        wait.function(a=1)
    server.close()
    assert client.log == ["closed"]


def test_a_server_that_cannot_be_reached() -> None:
    class Unreachable(Client):
        async def __aenter__(self) -> Client:
            raise ConnectionError("refused")

    class Silent(Client):
        async def __aenter__(self) -> Client:
            await asyncio.sleep(60)
            return self

    with pytest.raises(EpisodeError, match="refused"):
        McpTools(Unreachable).tools()
    with pytest.raises(EpisodeError, match="has not answered"):
        McpTools(Silent, timeout_seconds=0.1).tools()


def test_text_of_results() -> None:
    assert call_text({"content": [{"text": "a"}, {"data": "picture"}, {"text": "b"}]}) == "a\nb"
    assert call_text(SimpleNamespace(content=None, structured_content={"x": 1})) == '{"x": 1}'
    assert call_text({"data": 5}) == "5" and call_text({}) == "{}"
