"""HumanEval: its own solutions pass, everything else does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.errors import DataError
from posttrain.rewards.code import judge
from posttrain.sandbox.limits import SandboxLimits
from posttrain.sandbox.pool import shared_sandbox, why_not
from posttrain.tasks.humaneval import humaneval
from posttrain.types import plain_text

DATA = Path(__file__).parents[3] / "shared" / "data" / "humaneval"
needs_sandbox = pytest.mark.skipif(bool(why_not()), reason=f"no sandbox: {why_not()}")
ROW = {
    "task_id": "T/0",
    "prompt": 'def inc(x):\n    """Return x + 1."""\n',
    "entry_point": "inc",
    "canonical_solution": "    return x + 1\n",
    "test": "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(-1) == 0\n",
}


@needs_sandbox
@pytest.mark.parametrize("chat", [False, True])
def test_a_row_and_its_verdicts(tmp_path: Path, chat: bool) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    task = humaneval(path=str(path), chat=chat, partial=True, seconds=20.0)
    (example,) = task.examples
    reference = example.completion
    assert reference is not None
    text = reference if isinstance(reference, str) else reference[-1]["content"]
    assert task.score(text, example) == 1 and task.score("    return 2\n", example) == 0.5
    assert task.score("", example) == 0 and task.extract(" \n") is None
    assert "def inc" in plain_text(example.prompt) and "assert" not in plain_text(example.prompt)
    assert bool(task.stop) != chat


def test_other_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**ROW, "test": None}) + "\n")
    with pytest.raises(DataError, match="test"):
        humaneval(path=str(path))


@needs_sandbox
@pytest.mark.skipif(not DATA.exists(), reason="HumanEval is not here")
def test_all_solutions_pass_and_no_empty_body_does() -> None:
    task = humaneval(path=str(DATA))
    sandbox, limits = shared_sandbox(), SandboxLimits(seconds=60)

    def passes(text: str) -> list[bool]:
        return sandbox.each(
            lambda e: judge(sandbox, text or e.completion, e.columns, limits).reward(False) == 1,
            task.examples,
        )

    assert len(task.examples) == 164
    assert all(passes(""))
    assert not any(passes("    pass\n"))
