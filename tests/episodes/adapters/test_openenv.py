"""OpenEnv's protocol, spoken by a small server."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.episodes.adapters.openenv import OpenEnv, OpenEnvTools
from posttrain.episodes.tools import checked_arguments
from posttrain.errors import EpisodeError

TOOL = {
    "name": "add",
    "description": "Add.",
    "input_schema": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}


class Game:
    """Guess a number; or call a tool."""

    target = 0

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        kind, data = message["type"], message.get("data", {})
        if kind == "reset":
            self.target = data["seed"] % 10
            return self.observed({"message": "Guess.", "limit": data.get("limit")})
        if data.get("type") == "list_tools":
            return self.observed({"tools": [TOOL], "metadata": {}})
        if data.get("type") == "call_tool":
            return self.called(data)
        if data.get("message") == "crash":
            return {"type": "error", "data": {"message": "it broke", "code": "EXECUTION_ERROR"}}
        right = int(data["message"]) == self.target
        return self.observed({"stdout": "right" if right else "wrong"}, float(right), right)

    def called(self, data: dict[str, Any]) -> dict[str, Any]:
        total = data["arguments"]["a"] + data["arguments"]["b"]
        if total < 0:
            error = {"error_type": "execution_error", "message": "too small"}
            return self.observed({"tool_name": "add", "result": None, "error": error})
        content = {"content": [{"type": "text", "text": str(total)}], "data": total}
        seen = {"tool_name": "add", "result": content, "error": None}
        return self.observed(seen, 0.5, total > 100)

    def observed(self, seen: Any, reward: Any = None, done: bool = False) -> dict[str, Any]:
        return {
            "type": "observation",
            "data": {"observation": seen, "reward": reward, "done": done},
        }


@pytest.fixture
def url(websocket_server: Any) -> str:
    def serve(connection: Any) -> None:
        game = Game()
        assert connection.shake_hands() == "GET /ws HTTP/1.1"
        while (message := connection.receive()) is not None and message["type"] != "close":
            connection.send(game.answer(message))

    return str(websocket_server(serve).url.replace("ws://", "http://"))


def test_text_actions(url: str) -> None:
    first, second = OpenEnv(url), OpenEnv(url + "/ws", text=lambda seen: f"<{seen}>")
    assert first.reset(seed=13) == "Guess."
    assert second.reset(seed=14) == "<{'message': 'Guess.', 'limit': None}>"
    step = first.step("7")
    assert (step.observation, step.reward, step.done) == ("wrong", 0.0, False)
    step = first.step("3")
    assert (step.observation, step.reward, step.done) == ("right", 1.0, True)
    assert second.step("4").done
    with pytest.raises(EpisodeError, match="it broke"):
        second.step("crash")
    first.close()
    second.close()


def test_fields(url: str) -> None:
    by_field = OpenEnv(url, text="limit", reset={"limit": 5}, action=lambda t: {"message": t[-1]})
    assert by_field.reset(seed=3) == "5"
    assert by_field.step("I say 3").done
    by_field.close()


def test_tools(url: str) -> None:
    environment = OpenEnvTools(url + "/")
    assert environment.reset(seed=1) == "Guess."
    (tool,) = environment.tools()
    assert tool.name == "add" and tool.schema["function"]["description"] == "Add."
    assert checked_arguments(tool.parameters, {"a": 1})[1] is not None
    assert tool.function(a=2, b=3) == "5" and not environment.done
    assert environment.get_reward() == 0.5
    with pytest.raises(RuntimeError, match="too small"):
        tool.function(a=-2, b=-3)
    assert tool.function(a=99, b=3) == "102" and environment.done
    environment.close()
