"""MBPP: its own solutions pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import ConfigError, DataError
from posttrain.rewards.code import judge
from posttrain.sandbox.limits import SandboxLimits
from posttrain.sandbox.pool import shared_sandbox, why_not
from posttrain.tasks.mbpp import mbpp
from posttrain.types import plain_text

DATA = Path(__file__).parents[3] / "shared" / "data" / "mbpp"
needs_sandbox = pytest.mark.skipif(bool(why_not()), reason=f"no sandbox: {why_not()}")
ROWS = [
    {
        "task_id": number,
        "text": "Write a function that doubles.",
        "code": "import math\r\ndef double(x):\r\n  return 2 * x",
        "test_list": ["assert double(1) == 2", "assert double(2) == 4"],
    }
    for number in (1, 20, 700)
]


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "mbpp.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(file)


@needs_sandbox
@pytest.mark.parametrize("chat", [False, True])
def test_a_row_and_its_verdicts(path: str, chat: bool) -> None:
    task = mbpp(path=path, chat=chat, partial=True, seconds=20.0)
    (example,) = task.examples
    assert example.id == "mbpp-20"
    reference: Any = example.completion
    text = reference if isinstance(reference, str) else reference[-1]["content"]
    assert task.score(text, example) == 1
    assert task.score("def double(x): return 2", example) == 0.5
    prompt = plain_text(example.prompt)
    assert "double(1)" in prompt and "double(2)" not in prompt
    assert "2 * x" not in json.dumps(example.columns)


@needs_sandbox
def test_splits_follow_the_numbers(path: str) -> None:
    splits: list[Any] = ["prompt", "test", "train", "all"]
    assert [len(mbpp(path=path, split=split).examples) for split in splits] == [1, 1, 1, 3]
    assert len(mbpp(path=path, split="all", num_examples=2).examples) == 2
    with pytest.raises(DataError, match="validation"):
        mbpp(path=path, split="validation")
    with pytest.raises(ConfigError):
        mbpp(path=path, num_shown_tests=-1)


def test_other_rows_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a", "code": "b"}\n')
    with pytest.raises(DataError, match="test_list"):
        mbpp(path=str(file))


@needs_sandbox
@pytest.mark.skipif(not DATA.exists(), reason="MBPP is not here")
def test_all_solutions_pass() -> None:
    task = mbpp(path=str(DATA), split="all")
    sandbox, limits = shared_sandbox(), SandboxLimits(seconds=60)
    verdicts = sandbox.each(
        lambda e: judge(sandbox, str(e.completion), e.columns, limits), task.examples
    )
    failed = [e.id for e, v in zip(task.examples, verdicts) if v.reward(False) != 1]
    assert len(task.examples) == 974 and not failed
