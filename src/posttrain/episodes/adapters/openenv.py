"""OpenEnv servers over their WebSocket: {"type": "reset" | "step" | "close", "data": ...} there,
{"type": "observation", "data": {"observation", "reward", "done"}} back. One connection is one
episode.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from posttrain.episodes.adapters.mcp import call_text
from posttrain.episodes.adapters.websocket import WebSocket
from posttrain.episodes.environments import Step, TextEnvironment, ToolEnvironment
from posttrain.episodes.tools import Tool, result_text
from posttrain.errors import EpisodeError

_TEXT_FIELDS = ("message", "text", "prompt", "output", "result", "echoed_message", "stdout")


class _Session:
    """One episode on a server."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        scheme, _, rest = url.partition("://")
        scheme = {"http": "ws", "https": "wss"}.get(scheme, scheme)
        path = rest.rstrip("/") if rest.rstrip("/").endswith("/ws") else rest.rstrip("/") + "/ws"
        self._socket = WebSocket(f"{scheme}://{path}", timeout_seconds=timeout_seconds)

    def ask(self, kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """The data of the server's answer.

        Raises:
            EpisodeError: the server answers with an error.
        """
        self._socket.send({"type": kind, "data": dict(data)})
        answer = self._socket.receive()
        content = answer.get("data") or {}
        if answer.get("type") == "error":
            raise EpisodeError(f"OpenEnv: {content.get('code')}: {content.get('message')}")
        return dict(content)

    def close(self) -> None:
        """End the episode."""
        self._socket.send({"type": "close"})
        self._socket.close()


class OpenEnv(TextEnvironment):
    """An OpenEnv server that takes text as action.

        environment = lambda: OpenEnv("http://localhost:8000", action="message")

    Args:
        url: of the server.
        action: the field of the action that holds the model's text, or a function text -> action.
        text: the field of the observation that holds the text for the model, or a function
            observation -> text. None: the first of the usual fields, else the whole as JSON.
        reset: further data of the reset, beside the seed.
        timeout_seconds: of each message.
    """

    def __init__(
        self,
        url: str,
        *,
        action: str | Callable[[str], Mapping[str, Any]] = "message",
        text: str | Callable[[Mapping[str, Any]], str] | None = None,
        reset: Mapping[str, Any] | None = None,
        timeout_seconds: float = 60.0,
    ) -> None:
        self.action = action
        self.text = text
        self.reset_data = dict(reset or {})
        self._session = _Session(url, timeout_seconds)

    def reset(self, **row: Any) -> str:
        """Begin with the row's seed."""
        answer = self._session.ask("reset", {"seed": int(row["seed"]), **self.reset_data})
        return self._text(answer.get("observation") or {})

    def step(self, action: str) -> Step:
        """One step with the model's text."""
        content = {self.action: action} if isinstance(self.action, str) else self.action(action)
        answer = self._session.ask("step", content)
        said = self._text(answer.get("observation") or {})
        reward = answer.get("reward")
        reward = None if reward is None else float(reward)
        return Step(said, reward, bool(answer.get("done")))

    def close(self) -> None:
        """End the episode."""
        self._session.close()

    def _text(self, observation: Mapping[str, Any]) -> str:
        if callable(self.text):
            return self.text(observation)
        if self.text is not None:
            return result_text(observation.get(self.text))
        usual = _usual_text(observation)
        return json.dumps(observation, ensure_ascii=False) if usual is None else usual


class OpenEnvTools(ToolEnvironment):
    """An OpenEnv server whose actions are calls of its tools. The reward is that of the last
    step that gave one.

    Args:
        url: of the server. reset: further data of the reset, beside the seed.
        timeout_seconds: of each message.
    """

    def __init__(
        self, url: str, *, reset: Mapping[str, Any] | None = None, timeout_seconds: float = 60.0
    ) -> None:
        self.reset_data = dict(reset or {})
        self.done = False
        self._session = _Session(url, timeout_seconds)
        self._reward: float | None = None

    def reset(self, **row: Any) -> str | None:
        """Begin with the row's seed; gives the server's text, where it has one."""
        answer = self._session.ask("reset", {"seed": int(row["seed"]), **self.reset_data})
        return _usual_text(answer.get("observation") or {})

    def tools(self) -> Sequence[Tool]:
        """The server's tools."""
        answer = self._session.ask("step", {"type": "list_tools"})
        listed = (answer.get("observation") or {}).get("tools") or []
        return [
            Tool.of_schema(
                tool["name"],
                tool.get("description") or "",
                tool.get("input_schema") or tool.get("inputSchema") or {},
                lambda _name=tool["name"], **arguments: self._call(_name, arguments),
            )
            for tool in listed
        ]

    def get_reward(self) -> float | None:
        """The reward of the last step that gave one."""
        return self._reward

    def close(self) -> None:
        """End the episode."""
        self._session.close()

    def _call(self, name: str, arguments: dict[str, Any]) -> str:
        call = {"type": "call_tool", "tool_name": name, "arguments": arguments}
        answer = self._session.ask("step", call)
        observation = answer.get("observation") or {}
        self.done = bool(answer.get("done"))
        if answer.get("reward") is not None:
            self._reward = float(answer["reward"])
        if error := observation.get("error"):
            raise RuntimeError(error.get("message") if isinstance(error, dict) else str(error))
        result = observation.get("result", observation)
        return call_text(result) if isinstance(result, Mapping) else result_text(result)


def _usual_text(observation: Mapping[str, Any]) -> str | None:
    texts = [observation[f] for f in _TEXT_FIELDS if isinstance(observation.get(f), str)]
    return texts[0] if texts else None
