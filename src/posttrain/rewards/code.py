"""Programs in Python, judged by unit tests in a sandbox.

Three forms of tests are read from the columns of a row:

    test, entry_point                    HumanEval: a function `check(candidate)` (arXiv 2107.03374)
    test_list [, test_setup_code, code]  MBPP: assertions (arXiv 2108.07732)
    inputs, outputs                      standard input and output, one text each per test
                                         (or input_output: both as JSON, as APPS has them)
"""

from __future__ import annotations

import ast
import builtins
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from posttrain.errors import DataError, SandboxError
from posttrain.registry import rewards
from posttrain.rewards.reward import LoadedModels, made_by
from posttrain.sandbox.limits import SandboxLimits
from posttrain.sandbox.pool import FunctionTests, Sandbox, shared_sandbox
from posttrain.types import Example, plain_text

_FENCE = re.compile(r"[ \t]*```[ \t]*([\w+-]*)")
_PYTHON = ("python", "py", "python3", "")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What tests say of a program.

    Attributes:
        num_passed, num_tests: tests.
        lost: why there is no verdict; "" where there is one.
    """

    num_passed: int
    num_tests: int
    lost: str = ""

    def reward(self, partial: bool) -> float:
        """The share of passing tests, or 1 if all pass and else 0.

        Raises:
            SandboxError: there is no verdict.
        """
        if self.lost:
            raise SandboxError(f"the sandbox has failed: {self.lost}")
        if partial:
            return self.num_passed / self.num_tests if self.num_tests else 0.0
        return float(0 < self.num_tests == self.num_passed)


def extract_code(text: str) -> str:
    """The program in a completion: the last block between ``` marks that is Python, else the text.

    A block that is not closed ends with the text.
    """
    blocks = [block for name, block in fenced_blocks(text) if name.lower() in _PYTHON]
    return blocks[-1] if blocks else text


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """Blocks between lines of ``` marks: name of the language and content.

    A block that is not closed ends with the text.
    """
    blocks: list[tuple[str, str]] = []
    name: str | None = None
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        mark = _FENCE.match(line)
        if mark is None:
            lines.append(line)
        elif name is None:
            name, lines = mark[1], []
        else:
            blocks.append((name, "".join(lines)))
            name = None
    return blocks if name is None else [*blocks, (name, "".join(lines))]


def program_of(text: str, columns: Mapping[str, Any]) -> str:
    """The program that a completion stands for.

    A completion that goes on from the code of a prompt (HumanEval) is joined to it. One that
    defines the function itself stands behind it, for the sake of imports and of other functions.
    """
    code = extract_code(text)
    prompt, name = columns.get("code_prompt", ""), columns.get("entry_point", "")
    if not prompt:
        return code
    if re.search(rf"^(async )?def {re.escape(name)}\b", code, re.MULTILINE):
        return f"{prompt}\n    pass\n\n{code}"
    return prompt + code


def has_tests(columns: Mapping[str, Any]) -> bool:
    """Whether a row has tests in one of the three forms."""
    return bool(
        ("test" in columns and "entry_point" in columns)
        or "test_list" in columns
        or ("inputs" in columns and "outputs" in columns)
        or "input_output" in columns
    )


def function_tests(columns: Mapping[str, Any]) -> FunctionTests | None:
    """Tests that call functions; None where the row has tests of another form.

    Raises:
        DataError: the tests are no Python.
    """
    if "test" in columns and "entry_point" in columns:
        name = str(columns["entry_point"])
        unit = f"{columns['test']}\n\ncheck({name})\n"
        tests = FunctionTests((unit,), (name,), str(columns.get("code_prompt", "")))
    elif "test_list" in columns:
        units = tuple(map(str, columns["test_list"]))
        setup = str(columns.get("test_setup_code") or "")
        names = _names([*units, setup], columns.get("code"))
        # The setup may make objects of the program's classes, so it is a part of each unit.
        tests = FunctionTests(tuple(f"{setup}\n{unit}" for unit in units), names)
    else:
        return None
    _parsed(tests.setup)
    for unit in tests.units:
        _parsed(unit)
    return tests


def _parsed(code: str) -> ast.Module:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise DataError(f"tests: {code!r:.200} is no Python: {error}") from error


def _names(codes: Sequence[str], solution: Any) -> tuple[str, ...]:
    """The program's names that tests use: those that a solution defines, else all that are not
    built in.
    """
    nodes = [node for code in codes for node in ast.walk(_parsed(code))]
    used = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    if not isinstance(solution, str) or not solution.strip():
        return tuple(sorted(used - set(dir(builtins))))
    defined: set[str] = set()
    for node in _parsed(solution).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign):
            defined |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return tuple(sorted(used & defined))


def judge(
    sandbox: Sandbox,
    text: str,
    columns: Mapping[str, Any],
    limits: SandboxLimits,
    *,
    partial: bool = True,
) -> Verdict:
    """Run the tests of a row on the program of a completion.

    Args:
        partial: False ends tests of standard input at the first that fails.
    Raises:
        DataError: the row has no tests, or they are no Python.
    """
    if not has_tests(columns):
        raise DataError(
            "code tests: the row has none; it needs the columns test and entry_point, test_list, "
            f"inputs and outputs, or input_output; there are {', '.join(columns) or 'none'}"
        )
    source = program_of(text, columns)
    tests = function_tests(columns)
    if tests is not None:
        run = sandbox.test(source, tests, limits=limits)
        return Verdict(run.num_passed, run.num_tests, run.lost)
    cases = _cases(columns)
    passed = 0
    for given, expected in cases:
        program = sandbox.run(source, given, limits=limits)
        if program.status == "lost":
            return Verdict(passed, len(cases), program.reason)
        right = program.succeeded and same_output(program.stdout, expected)
        passed += right
        if not right and not partial:
            break
    return Verdict(passed, len(cases))


def _cases(columns: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of standard input and output.

    Raises:
        DataError: as many inputs as outputs are needed.
    """
    pairs = columns
    if "input_output" in columns:
        value = columns["input_output"]
        try:
            pairs = json.loads(value) if isinstance(value, str) else value
        except ValueError as error:
            raise DataError(f"code tests: input_output is no JSON: {error}") from error
    inputs, outputs = pairs["inputs"], pairs["outputs"]
    if len(inputs) != len(outputs):
        raise DataError(f"code tests: {len(inputs)} inputs, but {len(outputs)} outputs")
    return [(_joined(given), _joined(wanted)) for given, wanted in zip(inputs, outputs)]


def _joined(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def same_output(output: str, expected: str) -> bool:
    """Whether two outputs are equal but for white space at the ends of lines and of the whole."""
    return _stripped(output) == _stripped(expected)


def _stripped(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


class CodeTests:
    """The reward `code_tests` with its settings; programs run side by side in one sandbox."""

    def __init__(
        self,
        models: LoadedModels | None = None,
        *,
        partial: bool = False,
        sandbox: Literal["bubblewrap", "none"] = "bubblewrap",
        seconds: float = 5.0,
        memory_mb: int = 512,
    ) -> None:
        self.partial, self.kind = partial, sandbox
        self.limits = SandboxLimits.of(seconds, memory_mb)

    def __call__(self, completions: Any, examples: Sequence[Example]) -> list[float | Exception]:
        """The reward of each completion; an exception where the sandbox has failed."""
        sandbox = shared_sandbox(self.kind)

        def value(pair: tuple[str, Example]) -> float | Exception:
            text, example = pair
            verdict = judge(sandbox, text, example.columns, self.limits, partial=self.partial)
            try:
                return verdict.reward(self.partial)
            except SandboxError as error:
                return RuntimeError(str(error))

        texts = [c if isinstance(c, str) else plain_text(c[-1]["content"]) for c in completions]
        return sandbox.each(value, list(zip(texts, examples, strict=True)))

    def check(self) -> None:
        """Refuse a machine on which no sandbox works."""
        shared_sandbox(self.kind)

    def close(self) -> None:
        """The sandbox is shared by the process, and ends with it."""


@rewards.register
@made_by(CodeTests)
def code_tests(
    completions,
    examples,
    *,
    partial: bool = False,
    sandbox: Literal["bubblewrap", "none"] = "bubblewrap",
    seconds: float = 5.0,
    memory_mb: int = 512,
) -> list[float | Exception]:
    """Unit tests of the program in a completion: 1 if all pass, else 0; or the share that passes.

    The program is the last block of Python between ``` marks, else the whole completion. Tests are
    read from the row's columns: test and entry_point (HumanEval), test_list (MBPP), inputs and
    outputs, or input_output (APPS). Assertions run in another sandbox than the program, which sees
    neither them nor what they expect.

    partial: the share of passing tests. sandbox: bubblewrap, or none, which runs programs with the
    rights of this process. seconds: processor time of a program. memory_mb: address space in MiB.
    """
    reward = CodeTests(partial=partial, sandbox=sandbox, seconds=seconds, memory_mb=memory_mb)
    return reward(completions, examples)
