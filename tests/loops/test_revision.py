"""Rows of a revision model: what they hold, and that training and search see the same contexts."""

from __future__ import annotations

from typing import Any

import pytest

import posttrain as pt
from posttrain.data.templates import encode_pair, encode_prompt
from posttrain.errors import ConfigError, DataError
from posttrain.loops.revision import edit_distance, revision_rows
from posttrain.search.revision import revision_context

INSTRUCTION = "again {problem}"


def samples(*rewards: tuple[str, float], prompt: Any = "P") -> list[dict[str, Any]]:
    return [{"prompt": prompt, "completion": c, "reward": r} for c, r in rewards]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("kitten", "sitting", 3),
        ("", "abc", 3),
        ("abc", "", 3),
        ("", "", 0),
        ("abc", "abc", 0),
        ("abc", "xbc", 1),
        ("abcdef", "bcdefa", 2),
        ("aaaa", "a", 3),
    ],
)
def test_edit_distance(first: str, second: str, expected: int) -> None:
    assert edit_distance(first, second) == edit_distance(second, first) == expected


def test_edit_distance_is_that_of_its_recursion() -> None:
    import random

    def plain(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        same = a[-1] == b[-1]
        return min(plain(a[:-1], b) + 1, plain(a, b[:-1]) + 1, plain(a[:-1], b[:-1]) + (not same))

    draw = random.Random(0)
    for _ in range(40):
        a, b = ("".join(draw.choices("ab", k=draw.randint(0, 5))) for _ in range(2))
        assert edit_distance(a, b) == plain(a, b)


def test_the_nearest_wrong_attempt_stands_last() -> None:
    group = samples(("right1", 1.0), ("far away", 0.0), ("right2", 0.0), ("farther", 0.5))
    lengths = set()
    for seed in range(40):
        (row,) = revision_rows(group, instruction=INSTRUCTION, seed=seed, max_attempts=2)
        assert row["completion"] == "right1"
        attempts = row["prompt"].removeprefix("P").split("\n\nagain P")[:-1]
        lengths.add(len(attempts))
        assert attempts[-1:] in ([], ["right2"]) and len(set(attempts)) == len(attempts)
        text = revision_context("P", attempts, INSTRUCTION, 2)
        assert row["prompt"] == text
    assert lengths == {0, 1, 2}


def test_rows_are_of_distinct_right_samples_and_reproduce() -> None:
    group = [
        *samples(("a", 1.0), ("a", 1.0), ("b", 2.0), ("c", 0.9)),
        *samples(("x", 0.0), prompt="never right"),
        *samples(("y", 1.0), prompt="always right"),
    ]
    rows = revision_rows(group, seed=3)
    assert [row["completion"] for row in rows] == ["a", "b", "y"]
    assert rows[2]["prompt"] == "always right" and rows == revision_rows(group, seed=3)


def test_messages_make_messages() -> None:
    chat = [{"role": "user", "content": "P"}]
    group = [
        {"prompt": chat, "completion": [{"role": "assistant", "content": c}], "reward": r}
        for c, r in (("1", 0.0), ("2", 1.0))
    ]
    rows = [revision_rows(group, instruction=INSTRUCTION, seed=s)[0] for s in range(9)]
    revised = [
        *chat,
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "again P"},
    ]
    assert {len(row["prompt"]) for row in rows} == {1, 3}
    assert all(row["prompt"] in (chat, revised) for row in rows)
    assert all(row["completion"] == [{"role": "assistant", "content": "2"}] for row in rows)


def test_errors() -> None:
    with pytest.raises(ConfigError, match="max_attempts"):
        revision_rows(samples(("a", 1.0)), max_attempts=0)
    with pytest.raises(DataError, match="none of the samples of 1 problems"):
        revision_rows(samples(("a", 0.0), ("b", 0.5)))
    with pytest.raises(DataError, match="row 1"):
        revision_rows([*samples(("a", 1.0)), {"prompt": "P", "completion": "x"}])


def test_what_is_trained_is_what_is_searched() -> None:
    """Sampled, made into rows, trained and searched: the contexts of training are those in which
    the search asks.
    """
    model = pt.load("embedded")
    task = pt.task.arithmetic(num_steps=2, num_examples=12)
    short = pt.Sampling(max_tokens=40)
    rows = pt.revision_rows(pt.sample(model, task, num_generations=8, sampling=short))
    assert any("Try again" in row["prompt"] for row in rows)
    prompts = {example.prompt for example in task.examples}
    assert all(any(row["prompt"].startswith(p) for p in prompts) for row in rows)
    result = pt.fit(model, pt.sft(rows, batch_size=4), steps=1)
    assert len(result.metrics["loss"]) == 1
    for row in rows[:5]:
        trained = encode_pair(model.tokenizer, row["prompt"], row["completion"])
        context = encode_prompt(model.tokenizer, row["prompt"])
        assert list(trained.ids[: len(context)]) == context
        assert list(trained.loss_mask).index(True) == len(context)
    (selection,) = pt.run_search(
        result.model, task.examples[0].prompt, pt.strategy.revise(num_samples=2, sequential_ratio=9)
    )
    first, second = selection.candidates
    text = revision_context(
        task.examples[0].prompt,
        [first.text],
        "There may be a mistake in this answer. Try again.\n{problem}",
        4,
    )
    assert second.context_ids == tuple(encode_prompt(model.tokenizer, text))
