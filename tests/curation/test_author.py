"""Who writes, what it costs, and what is not paid for twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.curation.author import Author
from posttrain.errors import ConfigError
from posttrain.types import Sampling

SAMPLING = Sampling(max_tokens=6)


def test_a_function_writes() -> None:
    author = Author(lambda prompts: [f" {p}! " for p in prompts], sampling=SAMPLING)
    assert author.write(["a", "b"]) == ["a!", "b!"]
    assert (author.cost.requests, author.cost.reused) == (2, 0)
    assert "2 requests" in str(author.cost)


@pytest.mark.parametrize("wrong", [lambda p: [], lambda p: "text", lambda p: [1], lambda p: 1 / 0])
def test_a_function_that_fails_is_named(wrong) -> None:
    with pytest.raises(ConfigError):
        Author(wrong, sampling=SAMPLING).write(["a"])


def test_a_journal_is_not_paid_for_twice(tmp_path: Path) -> None:
    asked: list[str] = []

    def write(prompts: list[str]) -> list[str]:
        asked.extend(prompts)
        return [p.upper() for p in prompts]

    journal = tmp_path / "journal.jsonl"
    assert Author(write, sampling=SAMPLING, journal=journal).write(["a", "b"]) == ["A", "B"]
    with journal.open("a") as file:
        file.write('{"key": "half of a li')  # killed while it wrote
    again = Author(write, sampling=SAMPLING, journal=journal)
    assert again.write(["a", "b", "c"]) == ["A", "B", "C"]
    assert asked == ["a", "b", "c"] and again.cost.reused == 2
    other = Author(write, sampling=SAMPLING, seed=9, journal=journal)
    assert other.write(["a"]) == ["A"] and other.cost.reused == 0
    assert Author(write, sampling=SAMPLING, journal=journal).write(["a", "b", "c"])[2] == "C"


def test_a_model_writes_and_its_tokens_are_counted(tiny_folder: Path) -> None:
    texts, costs = [], []
    for _ in range(2):
        author = Author(str(tiny_folder), sampling=SAMPLING, seed=3)
        texts.append(author.write(["1 + 1 =", "2 + 2 ="]))
        costs.append(author.cost)
    assert texts[0] == texts[1] and len(texts[0]) == 2
    assert costs[0] == costs[1] and costs[0].requests == 2
    assert 0 < costs[0].generated_tokens <= 12 and costs[0].prompt_tokens > 0
