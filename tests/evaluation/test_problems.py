"""Problems as prompts: those that are too long are left out and counted."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.errors import ConfigError, DataError
from posttrain.evaluation.run import prepare
from posttrain.types import Example, Task


def task(num_examples: int = 3) -> Task:
    examples = [Example(f"{i}+1=", None, str(i + 1), id=f"q{i}") for i in range(num_examples)]
    return Task(
        "sums",
        examples,
        lambda text, e: float(text.strip() == e.answer),
        lambda text: text.strip() or None,
        max_tokens=4,
    )


def test_problems_that_are_too_long(tiny_tokenizer: Any) -> None:
    long = task(20)
    examples = [*long.examples, Example("9" * 400, None, "1", id="long")]
    with_long = Task("sums", examples, long.score, long.extract, max_tokens=4)
    measurement = prepare(with_long, tiny_tokenizer, 100)
    assert [e.id for e, _ in measurement.problems.dropped] == ["long"]
    assert len(measurement.problems.fitting) == 20
    with pytest.raises((ConfigError, DataError), match="max_prompts_dropped=0"):
        prepare(with_long, tiny_tokenizer, 100, max_prompts_dropped=0.0)
