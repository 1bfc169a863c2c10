"""A Python interpreter as a tool of episodes: each call is a program in the sandbox."""

from __future__ import annotations

import ast
from typing import Literal

from posttrain.errors import ConfigError
from posttrain.registry import environments
from posttrain.sandbox.limits import SandboxLimits
from posttrain.sandbox.pool import SandboxKind, shared_sandbox
from posttrain.sandbox.worker import ProgramRun

_MAX_CODE = 100_000


class PythonInterpreter:
    """The tool `python(code)`, without a state: each call is a program of its own.

    Args:
        sandbox: what keeps the programs in.
        limits: of each program.
        max_characters: of what a call gives back; the middle of a longer text is left out.
    """

    def __init__(
        self, sandbox: SandboxKind, limits: SandboxLimits, *, max_characters: int = 2000
    ) -> None:
        self._sandbox = shared_sandbox(sandbox)
        self._limits = limits
        self._max_characters = max_characters

    def python(self, code: str) -> str:
        """Run a program in Python and return what it prints, and the value of its last line.

        Args:
            code: The program. Nothing of earlier programs is left: neither names nor files.
        """
        run = self._sandbox.run(with_last_value(code), limits=self._limits)
        return self._shortened(told(run, self._limits))

    def _shortened(self, text: str) -> str:
        if len(text) <= self._max_characters:
            return text
        half = self._max_characters // 2
        left_out = len(text) - 2 * half
        return f"{text[:half]}\n... ({left_out} characters left out) ...\n{text[-half:]}"


def with_last_value(code: str) -> str:
    """The program, printing the value of its last line as an interactive interpreter does.

    >>> with_last_value("x = 2\\nx * 3")
    'x = 2\\n__import__("sys").displayhook(x * 3)'
    """
    if len(code) > _MAX_CODE:
        return code
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return code
    if not body or not isinstance(body[-1], ast.Expr):
        return code
    last = body[-1]
    lines = code.encode().split(b"\n")  # columns are counted in bytes
    before = b"\n".join([*lines[: last.lineno - 1], lines[last.lineno - 1][: last.col_offset]])
    value = ast.get_source_segment(code, last)
    return f'{before.decode()}__import__("sys").displayhook({value})'


def told(run: ProgramRun, limits: SandboxLimits) -> str:
    """What a model is told of a program: its output, and why it did not end well."""
    parts = [run.stdout.rstrip()]
    if run.status == "timeout":
        parts.append(f"Error: the program took longer than {limits.seconds:g} s")
    elif run.status == "output":
        parts.append(f"Error: the program wrote more than {limits.output_bytes} bytes")
    elif run.status == "lost":
        parts.append("Error: the program could not be run")
    elif run.code < 0:
        parts.append(f"Error: the program was ended by signal {-run.code}")
    elif run.code:
        parts.append(_last_error(run.stderr) or f"Error: exit code {run.code}")
    return "\n".join(part for part in parts if part)


def _last_error(text: str) -> str:
    """A traceback without the lines of the sandbox's own files."""
    kept, own = [], False
    for line in text.rstrip().splitlines():
        if line.startswith("  File "):
            own = "posttrain/sandbox/guest" in line
        elif not line.startswith("    "):
            own = False
        if not own:
            kept.append(line)
    return "\n".join(kept)


@environments.register
def python(
    *,
    sandbox: Literal["bubblewrap", "none"] = "bubblewrap",
    seconds: float = 5.0,
    memory_mb: int = 512,
    max_characters: int = 2000,
) -> PythonInterpreter:
    """The tool `python(code)`: a program in a sandbox; its output and the value of its last line.

    Calls share no state. It gives no reward itself.

    sandbox: bubblewrap, or none, which runs programs with the rights of this process. seconds:
    processor time of a program. memory_mb: its address space in MiB. max_characters: of what a call
    gives back.
    """
    if max_characters < 2:
        raise ConfigError(f"environment python: max_characters {max_characters} must be above 1")
    limits = SandboxLimits.of(seconds, memory_mb)
    return PythonInterpreter(sandbox, limits, max_characters=max_characters)
