"""Tools of MCP servers, through a client of theirs.

A client is an async context manager with `list_tools() -> .tools` and `call_tool(name, arguments)
-> .content`, such as `mcp.Client(url)` and a session of the older library. It lives in a thread of
its own, from its first use until it is closed, and serves all episodes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from typing import Any

from posttrain.episodes.tools import Tool, result_text
from posttrain.errors import EpisodeError


class McpTools:
    """The tools of a server.

        server = McpTools(lambda: mcp.Client("http://localhost:8000/mcp"))
        trace = await agent(example, ask, server.tools())

    Args:
        client: makes the client.
        timeout_seconds: of connecting, and of each message.
    """

    def __init__(
        self,
        client: Callable[[], AbstractAsyncContextManager[Any]],
        *,
        timeout_seconds: float = 60.0,
    ) -> None:
        self._make = client
        self._seconds = timeout_seconds
        self._ended = asyncio.Event()
        self._opened: Future[Any] = Future()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="mcp", daemon=True)
        self._thread.start()

    def tools(self) -> list[Tool]:
        """The server's tools, all pages of them.

        Raises:
            EpisodeError: the server cannot be reached, or answers with an error.
        """
        listed: list[Any] = []
        cursor: str | None = None
        while True:
            session = self._session()
            request = session.list_tools(cursor=cursor) if cursor else session.list_tools()
            page = self._wait(request, "list_tools")
            listed += page.tools
            cursor = _field(page, "next_cursor", "nextCursor")
            if not cursor:
                return [self._tool(tool) for tool in listed]

    def close(self) -> None:
        """Close the client."""
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(self._seconds)

    def _tool(self, tool: Any) -> Tool:
        name = str(tool.name)

        def call(**arguments: Any) -> str:
            result = self._wait(self._session().call_tool(name, arguments), name)
            text = call_text(result)
            if _field(result, "is_error", "isError"):
                raise RuntimeError(text)
            return text

        schema = _field(tool, "input_schema", "inputSchema") or {}
        return Tool.of_schema(name, tool.description or "", schema, call)

    def _session(self) -> Any:
        try:
            return self._opened.result(self._seconds)
        except TimeoutError as error:
            raise EpisodeError(
                f"the MCP server has not answered within {self._seconds:g} s"
            ) from error
        except Exception as error:
            raise EpisodeError(f"the MCP server cannot be reached: {error}") from error

    def _wait(self, request: Coroutine[Any, Any, Any], what: str) -> Any:
        future = asyncio.run_coroutine_threadsafe(request, self._loop)
        try:
            return future.result(self._seconds)
        except TimeoutError as error:
            future.cancel()
            raise EpisodeError(
                f"MCP: {what} has not answered within {self._seconds:g} s"
            ) from error

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        """Keep the client open. It is opened and closed in one task, as its library asks."""
        try:
            async with self._make() as session:
                self._opened.set_result(session)
                await self._ended.wait()
        except BaseException as error:
            if not self._opened.done():
                self._opened.set_exception(error)


def call_text(result: Any) -> str:
    """The text of a call's result: its parts of text, else what it holds as data.

    result: an object of the library, or a mapping as servers send it.
    """
    parts = _field(result, "content")
    if isinstance(parts, list):
        texts = [_field(part, "text") for part in parts]
        return "\n".join(str(text) for text in texts if text is not None)
    data = _field(result, "data", "structured_content", "structuredContent")
    return result_text(result if data is None else data)


def _field(holder: Any, *names: str) -> Any:
    """The first of some fields of an object or a mapping that is there, else None."""
    for name in names:
        value = holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
        if value is not None:
            return value
    return None
