"""The verifiers of reasoning-gym on answers that they would run as Python, or would take for
ever over.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

pytest.importorskip("reasoning_gym")

from typing import Any

import pytest

from posttrain import registry
from posttrain.errors import ConfigError
from posttrain.tasks.reasoning_gym import calls_nothing, runs_answers
from posttrain.types import Task, plain_text


@pytest.mark.parametrize(
    "dataset", ["spiral_matrix", "binary_matrix", "puzzle24", "polynomial_multiplication"]
)
def test_no_answer_is_run(dataset: str, tmp_path: Path) -> None:
    task = registry.tasks.bind("reasoning_gym", {"dataset": dataset, "num_examples": 1})()
    example = task.examples[0]
    victim = tmp_path / "victim"
    for code in (
        f"__import__('pathlib').Path({str(victim)!r}).touch()",
        f"open({str(victim)!r}, 'w')",
        f"[open ({str(victim)!r}, 'w')]",
        f"(open)({str(victim)!r}, 'w')",
        "exit()",
        "quit(0)",
        "(lambda: 1)()",
    ):
        assert task.score(f"<answer>{code}</answer>", example) == 0.0
    assert not victim.exists()
    if example.completion is not None:
        assert task.score(str(example.completion), example) == 1.0


def test_a_verdict_has_a_time_limit() -> None:
    task = registry.tasks.bind("reasoning_gym", {"dataset": "puzzle24", "num_examples": 1})()
    started = time.monotonic()
    assert task.score("<answer>9**9**9</answer>", task.examples[0]) == 0.0
    assert task.score("<answer>" + "(" * 20_000 + "</answer>", task.examples[0]) == 0.0
    assert time.monotonic() - started < 60  # the guard of 2 s, on a busy machine


def test_what_runs_answers_is_known_by_its_source() -> None:
    import reasoning_gym as gym

    assert runs_answers(gym.create_dataset("n_queens", size=1)) and runs_answers(
        gym.create_dataset("countdown", size=1)
    )
    assert not runs_answers(gym.create_dataset("leg_counting", size=1))


@pytest.mark.parametrize(
    ("answer", "harmless"),
    [
        ("sin(x)**2 + C", True),
        ("(1+2)*3", True),
        ("[[1, 0], [0, 1]]", True),
        ("x*(x+1)", True),
        ("open('x')", False),
        ("a.b ('x')", False),
        ("x.__class__", False),
        ("(f)(1)", False),
        ("[f][0](1)", False),
        ("\u00e9val(1)", False),
        ("getattr(x, 'y')", False),
        ("x" * 9000, True),
    ],
)
def test_calls(answer: str, harmless: bool) -> None:
    assert calls_nothing(answer) is harmless


def make(name: str, **options: Any) -> Task:
    return registry.tasks.bind(name, options)()


def test_reasoning_gym() -> None:
    pytest.importorskip("reasoning_gym")
    task = make("reasoning_gym", dataset="chain_sum", num_examples=5)
    for example in task.examples:
        assert task.score(plain_text(example.completion or ""), example) == 1
        assert task.score(str(example.answer), example) == 0  # without the tags
        # the library gives part credit to a text that holds the answer; here it is wrong
        assert task.score(f"<answer>perhaps {example.answer} or so</answer>", example) == 0
    with pytest.raises(ConfigError, match="unknown dataset 'chain_smu': did you mean 'chain_sum'"):
        make("reasoning_gym", dataset="chain_smu")
    with pytest.raises(ConfigError, match="refuses its settings"):
        make("reasoning_gym", dataset="chain_sum", settings={"no_such": 1})
