"""Labelled texts whose mapping is drawn anew."""

from __future__ import annotations

from collections import Counter

import pytest

from posttrain import registry
from posttrain.errors import ConfigError
from posttrain.tasks.labelled_words import WORDS
from posttrain.types import Task


def task(name: str, **settings: object) -> Task:
    return registry.tasks.bind(name, settings)()


def test_a_keyword_says_the_label() -> None:
    examples = task("labelled_words", num_examples=300, num_labels=3, num_keywords=2).examples
    labels = Counter(e.answer for e in examples)
    assert sorted(labels.values()) == [100, 100, 100]
    seen: dict[str, set[str]] = {}
    for example in examples:
        for word in str(example.prompt).split():
            seen.setdefault(word, set()).add(example.answer)
    # Each text has a word that stands with one label alone.
    for example in examples:
        words = str(example.prompt).split()
        assert 1 <= len(words) <= 6
        assert any(seen[word] == {example.answer} for word in words)


def test_other_seeds_have_other_mappings() -> None:
    a, b = ({e.answer for e in task("labelled_words", seed=s).examples} for s in (0, 1))
    assert a != b
    again = task("labelled_words").examples
    assert again == task("labelled_words").examples
    first = again[0]
    assert task("labelled_words").score(f" {first.answer}\n", first) == 1.0


def test_a_conversation_has_one_mapping() -> None:
    for example in task("labelled_dialogues", num_examples=40, max_words=1).examples:
        turns = [*example.prompt, *example.completion]  # type: ignore[misc]
        pairs = {(u["content"], a["content"]) for u, a in zip(turns[::2], turns[1::2])}
        assert len(dict(pairs)) == len(pairs)  # a text of one word has one label
        assert 4 <= len(turns) // 2 <= 24
        assert {m["role"] for m in turns[1::2]} == {"assistant"}


def test_words_are_different() -> None:
    assert len(set(WORDS)) == len(WORDS)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("labelled_words", {"num_labels": 1}),
        ("labelled_words", {"num_labels": 100, "num_keywords": 5}),
        ("labelled_words", {"max_words": 0}),
        ("labelled_dialogues", {"max_shots": 2}),
        ("labelled_dialogues", {"max_words": 0}),
    ],
)
def test_numbers_out_of_range_are_refused(name: str, settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        task(name, **settings)
