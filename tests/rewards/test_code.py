"""Programs judged by unit tests."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.errors import ConfigError, DataError, SandboxError
from posttrain.rewards.base import RewardSet
from posttrain.rewards.code import (
    Verdict,
    code_tests,
    extract_code,
    function_tests,
    has_tests,
    program_of,
    same_output,
)
from posttrain.sandbox.pool import why_not
from posttrain.types import Example, Trace, TraceGroup

needs_sandbox = pytest.mark.skipif(bool(why_not()), reason=f"no sandbox: {why_not()}")

HUMANEVAL = {
    "code_prompt": 'import re\ndef half(x):\n    return x / 2\ndef f(x):\n    """x"""\n',
    "entry_point": "f",
    "test": "def check(f):\n    assert f(4) == half(4)\n    assert f(2) == 1",
}
MBPP = {"test_list": ["assert f(1) == 2", "assert f(2) == 4"]}
OUTPUTS = {"inputs": ["1\n", "2\n"], "outputs": ["2", "4"]}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = 1", "x = 1"),
        ("So:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```\nx = 1\n```\n```py\nx = 2\n```", "x = 2\n"),
        ("```python\nx = 1\n```\nIt prints\n```text\n1\n```", "x = 1\n"),
        ("Well:\n```python\nx = 1", "x = 1"),
        ("```bash\nls\n```", "```bash\nls\n```"),
    ],
)
def test_the_program_of_a_completion(text: str, code: str) -> None:
    assert extract_code(text) == code


def test_a_completion_goes_on_from_the_prompt_or_stands_behind_it() -> None:
    prompt = str(HUMANEVAL["code_prompt"])
    assert program_of("    return 1\n", HUMANEVAL) == prompt + "    return 1\n"
    whole = "def f(x):\n    return half(x)\n"
    assert program_of(f"```python\n{whole}```", HUMANEVAL).endswith(f"pass\n\n{whole}")
    assert program_of("x = 1", MBPP) == "x = 1"


def test_names_of_the_program_are_those_that_a_solution_defines() -> None:
    columns = {"test_list": ["assert sum(1, len([2])) == 3"], "code": "def sum(a, b): ..."}
    tests = function_tests(columns)
    assert tests is not None and tests.names == ("sum",)
    tests = function_tests({"test_list": ["assert g(1) == len([2])"]})
    assert tests is not None and tests.names == ("g",)
    assert function_tests(OUTPUTS) is None
    with pytest.raises(DataError):
        function_tests({"test_list": ["assert ("]})


def test_output_is_compared_without_white_space_at_ends() -> None:
    assert same_output("1 \n2\n\n", "1\n2") and not same_output("1 2", "1\n2")
    assert same_output("", "\n") and not same_output("1", "")


def test_verdicts() -> None:
    assert Verdict(1, 2).reward(True) == 0.5 and Verdict(1, 2).reward(False) == 0
    assert Verdict(2, 2).reward(False) == 1 and Verdict(0, 0).reward(False) == 0
    with pytest.raises(SandboxError):
        Verdict(2, 2, "killed").reward(True)
    assert has_tests(MBPP) and has_tests(OUTPUTS) and has_tests(HUMANEVAL) and not has_tests({})


@needs_sandbox
@pytest.mark.parametrize(
    ("columns", "right", "half"),
    [
        (HUMANEVAL, "    return x / 2\n", "    return 1\n"),
        (MBPP, "def f(x): return 2 * x", "def f(x): return 2"),
        (OUTPUTS, "print(2 * int(input()))", "print(2)"),
        ({"input_output": '{"inputs": ["1", "2"], "outputs": ["2", "4"]}'}, "print(2*int(input()))",
         "print(2)"),
    ],
    ids=["humaneval", "mbpp", "outputs", "apps"],
)  # fmt: skip
def test_each_form(columns: dict[str, Any], right: str, half: str) -> None:
    examples = [Example("p", columns=columns)] * 4
    texts = [right, half, "raise SystemExit(0)", ""]
    settings: dict[str, Any] = {"seconds": 20.0}
    assert code_tests(texts, examples, **settings) == [1, 0, 0, 0]
    assert code_tests(texts, examples, partial=True, **settings) == [1, 0.5, 0, 0]


@needs_sandbox
def test_in_a_set_of_rewards() -> None:
    rewards = RewardSet([("code_tests", 2.0, {"partial": True, "seconds": 20.0})])
    example = Example("p", columns=MBPP)
    traces = [Trace.of_text(t) for t in ("def f(x): return 2 * x", "def f(x): return 2", "(")]
    rewards.self_test([example])
    rewards.reward([TraceGroup(example, (1,), traces)])
    assert [t.reward for t in traces] == [2, 1, 0] and not rewards.failures
    rewards.close()


@needs_sandbox
def test_a_row_without_tests_is_refused() -> None:
    with pytest.raises(DataError, match="test_list"):
        code_tests(["x"], [Example("p", columns={"tests": 1})])
    with pytest.raises(ConfigError):
        code_tests(["x"], [Example("p", columns=MBPP)], seconds=0.0)


def test_outputs_of_another_number_are_refused() -> None:
    with pytest.raises(DataError):
        code_tests(["x"], [Example("p", columns={"inputs": ["1"], "outputs": []})], sandbox="none")
