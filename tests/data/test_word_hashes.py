"""Words and shingles as numbers, against plain Python."""

from __future__ import annotations

import random

import numpy as np
import pytest

from posttrain.data.word_hashes import Words, plain, shingles, words_of_texts


def hashes_of(text: str) -> list[int]:
    return words_of_texts([text]).hashes.tolist()


def test_a_word_has_one_hash_wherever_it_stands() -> None:
    draw = random.Random(0)
    vocabulary = [
        "".join(draw.choices("abcdefghijklmnop", k=draw.randint(1, 9))) for _ in range(99)
    ]
    texts = [" ".join(draw.choices(vocabulary, k=draw.randint(0, 30))) for _ in range(50)]
    words = words_of_texts(texts)
    split = [word for text in texts for word in text.split()]
    assert len(words.hashes) == len(split)
    assert np.diff(words.starts).tolist() == [len(text.split()) for text in texts]
    of = dict(zip(split, words.hashes.tolist()))
    assert [of[word] for word in split] == words.hashes.tolist()
    assert len(set(of.values())) == len(of)


@pytest.mark.parametrize(
    ("text", "num"),
    [("Tom's 3 apples", 5), ("3 + 4", 3), ("a_b c", 2), ("  ", 0), ("小明有十", 4), ("naïve!", 2)],
)
def test_what_is_a_word(text: str, num: int) -> None:
    assert len(hashes_of(text)) == num


def test_case_and_composition_do_not_count_and_signs_do() -> None:
    assert hashes_of("CAFÉ au lait") == hashes_of("cafe\u0301 au\n lait")
    assert hashes_of("3 + 4") != hashes_of("3 - 4")
    assert plain("ﬁrst STRASSE") == "first strasse"


def test_no_text_and_a_text_without_words() -> None:
    assert words_of_texts([]).starts.tolist() == [0]
    runs = shingles(words_of_texts(["", "a b c"]), 2)
    assert runs.starts.tolist() == [0, 0, 2]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_shingles_are_the_distinct_runs_of_words(n: int) -> None:
    draw = random.Random(n)
    texts = [" ".join(draw.choices("abcd", k=draw.randint(0, 12))) for _ in range(40)]
    runs: Words = shingles(words_of_texts(texts), n)
    for i, text in enumerate(texts):
        words = text.split()
        expected = {tuple(words[k : k + n]) for k in range(len(words) - n + 1)}
        expected = expected or ({tuple(words)} if words else set())
        part = runs.hashes[runs.starts[i] : runs.starts[i + 1]]
        assert len(part) == len(expected) and (np.diff(part.astype(np.int64)) > 0).all()


def test_equal_texts_have_equal_shingles_in_any_batch() -> None:
    alone = shingles(words_of_texts(["the quick brown fox"]), 2).hashes
    among = shingles(words_of_texts(["x y", "The quick brown fox", "z"]), 2)
    assert among.hashes[among.starts[1] : among.starts[2]].tolist() == alone.tolist()
