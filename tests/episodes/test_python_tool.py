"""The Python tool of episodes."""

from __future__ import annotations

import asyncio

import pytest

from posttrain.episodes.python_tool import PythonInterpreter, python, told, with_last_value
from posttrain.episodes.tools import call_tool, tools_by_name
from posttrain.episodes.worker import Worker
from posttrain.errors import ConfigError
from posttrain.sandbox.limits import SandboxLimits
from posttrain.sandbox.pool import why_not
from posttrain.sandbox.worker import ProgramRun
from posttrain.types import ToolCall

needs_sandbox = pytest.mark.skipif(bool(why_not()), reason=f"no sandbox: {why_not()}")


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("x = 2\nx * 3", "6\n"),
        ("x = 'é'; x + 'ü'", "'éü'\n"),
        ("print(1)\nNone", "1\n"),
        ("x = 2", ""),
        ("[i for i in range(3)\n if i]", "[1, 2]\n"),
        ("(1 +", None),
        ("", ""),
    ],
)
def test_the_last_value_is_printed(
    code: str, value: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    rewritten = with_last_value(code)
    if value is None:
        assert rewritten == code
        return
    exec(rewritten, {})
    assert capsys.readouterr().out == value


def test_what_the_model_is_told() -> None:
    limits = SandboxLimits(seconds=2)
    assert told(ProgramRun("ended", stdout="a\n"), limits) == "a"
    assert "2 s" in told(ProgramRun("timeout", stdout="a\n"), limits)
    assert "signal 9" in told(ProgramRun("ended", code=-9), limits)
    assert told(ProgramRun("ended", code=3), limits) == "Error: exit code 3"


@needs_sandbox
def test_as_a_tool() -> None:
    interpreter = python(seconds=20.0, max_characters=300)
    assert isinstance(interpreter, PythonInterpreter)
    tools = tools_by_name([interpreter.python])

    def call(code: str) -> str:
        asked = ToolCall("python", {"code": code})
        return asyncio.run(call_tool(tools, asked, Worker(), timeout_seconds=60.0))

    assert call("x = 6\nx * 7") == "42"
    assert "NameError" in call("x")
    wrong = call("1 / 0")
    assert "ZeroDivisionError" in wrong and "guest" not in wrong
    assert "left out" in call("print('a' * 1000)")
    with pytest.raises(ConfigError):
        python(max_characters=0)
