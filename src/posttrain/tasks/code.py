"""What tasks of programs have in common: a grade by tests in a sandbox."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.errors import SandboxError
from posttrain.rewards.code import extract_code, judge
from posttrain.sandbox.limits import SandboxLimits
from posttrain.sandbox.pool import SandboxKind, shared_sandbox
from posttrain.types import Example, Task


def code_task(
    name: str,
    examples: Sequence[Example],
    *,
    sandbox: SandboxKind,
    seconds: float,
    memory_mb: int,
    partial: bool,
    stop: Sequence[str] = (),
    max_tokens: int = 512,
) -> Task:
    """A task whose completions are programs, judged as reward `code_tests` judges them.

    Raises:
        SandboxError: no sandbox works on this machine.
        ConfigError: a limit that no program can keep.
    """
    limits = SandboxLimits.of(seconds, memory_mb)
    shared_sandbox(sandbox)

    def score(completion: str, example: Example) -> float:
        pool = shared_sandbox(sandbox)
        verdict = judge(pool, completion, example.columns, limits, partial=partial)
        try:
            return verdict.reward(partial)
        except SandboxError as error:  # of one program: recorded, and no end of the run
            raise RuntimeError(str(error)) from error

    def extract(completion: str) -> str | None:
        return extract_code(completion).strip() or None

    return Task(name, examples, score, extract, stop=tuple(stop), max_tokens=max_tokens)
