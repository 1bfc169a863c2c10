from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain import registry
from posttrain.errors import ConfigError
from posttrain.types import Task, plain_text

EMBEDDED: list[tuple[str, dict[str, Any]]] = [
    ("arithmetic", {"num_examples": 40}),
    (
        "arithmetic",
        {"num_examples": 20, "num_steps": 1, "max_operand": 9, "max_value": 20, "split": "test"},
    ),
    ("countdown", {"num_examples": 40}),
    ("countdown", {"num_examples": 20, "num_numbers": 5}),
    ("sorting", {"num_examples": 40}),
]


def make(name: str, **options: Any) -> Task:
    return registry.tasks.bind(name, options)()


@pytest.mark.parametrize(("name", "options"), EMBEDDED)
def test_references_score_one_and_nothing_else_does(name: str, options: dict[str, Any]) -> None:
    task = make(name, **options)
    assert len(task.examples) == options["num_examples"]
    assert len({e.id for e in task.examples}) == len(task.examples)
    for i, example in enumerate(task.examples):
        reference = plain_text(example.completion or "")
        assert task.score(reference, example) == 1.0
        assert task.extract(reference) is not None
        for wrong in (
            "",
            "####",
            "no",
            reference + "9",
            reference[:-1] if name == "sorting" else "x" + reference * 0,
        ):
            assert task.score(wrong, example) == 0.0, (reference, wrong)
        other = task.examples[(i + 1) % len(task.examples)]
        if other.answer != example.answer and name != "countdown":
            assert task.score(plain_text(other.completion or ""), example) == 0.0
        assert (
            len(reference.encode()) <= task.max_tokens
        )  # room for the reference, were every byte a token


@pytest.mark.parametrize(("name", "options"), EMBEDDED)
def test_the_same_seed_gives_the_same_examples(name: str, options: dict[str, Any]) -> None:
    again = make(name, **options).examples
    assert again == make(name, **options).examples
    assert [e.prompt for e in again] != [
        e.prompt for e in make(name, **{**options, "seed": 1}).examples
    ]
    code = (
        f"from posttrain import registry; print(registry.tasks.bind({name!r}, "
        f"{options!r})().examples[3].prompt)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "5", "PATH": "", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert out.stdout.rstrip("\n") == again[3].prompt.rstrip("\n")  # type: ignore[union-attr]


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | st.text("0123456789+-*/()=# .\n", max_size=60))
def test_no_text_makes_a_verifier_raise(text: str) -> None:
    for name in ("arithmetic", "countdown", "sorting"):
        task = make(name, num_examples=2)
        assert task.score(text, task.examples[0]) in (0.0, 1.0)
        answer = task.extract(text)
        assert answer is None or isinstance(answer, str)


def test_difficulty_that_has_no_problems_is_refused() -> None:
    with pytest.raises(ConfigError, match="there are only .* different problems"):
        make("arithmetic", num_examples=5000, num_steps=1, max_operand=2, max_value=9)
    with pytest.raises(ConfigError, match="num_steps 0"):
        make("arithmetic", num_steps=0)
    with pytest.raises(ConfigError, match="num_numbers 9"):
        make("countdown", num_numbers=9)
