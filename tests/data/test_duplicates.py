"""Copies and near copies, against shingles in plain Python, and as often as the S-curve says."""

from __future__ import annotations

import random

import numpy as np
import pytest

from posttrain.data.duplicates import find_duplicates, s_curve
from posttrain.errors import ConfigError

VOCABULARY = ["".join(random.Random(i).choices("abcdefghijklmnop", k=6)) for i in range(5000)]


def text_of(draw: random.Random, length: int = 50) -> list[str]:
    return draw.choices(VOCABULARY, k=length)


def edited(draw: random.Random, words: list[str], number: int) -> list[str]:
    """Words of which some are replaced, left out or doubled."""
    out = list(words)
    for _ in range(number):
        place = draw.randrange(len(out))
        out[place : place + 1] = draw.choice([[draw.choice(VOCABULARY)], [], [out[place]] * 2])
    return out


def jaccard(one: list[str], other: list[str], n: int = 2) -> float:
    a, b = ({tuple(w[i : i + n]) for i in range(len(w) - n + 1)} for w in (one, other))
    return len(a & b) / len(a | b)


def test_planted_near_copies_are_found_without_false_alarms() -> None:
    """95 % of rows with up to three edits in 50 words, at most 1 % of the others."""
    draw = random.Random(0)
    rows = [text_of(draw) for _ in range(3000)]
    sources = draw.sample(range(3000), 400)
    planted = [edited(draw, rows[i], draw.randint(1, 3)) for i in sources]
    result = find_duplicates(" ".join(words) for words in [*rows, *planted])
    found = result.first[3000:]
    assert (found == np.array(sources)).mean() >= 0.95
    assert (result.first[:3000] >= 0).mean() <= 0.01


def test_similarities_are_those_of_the_shingles() -> None:
    draw = random.Random(1)
    rows = [text_of(draw) for _ in range(50)]
    copies = [edited(draw, words, 4) for words in rows]
    result = find_duplicates([" ".join(w) for w in [*rows, *copies]], threshold=0.5)
    found = [i for i in range(50) if result.first[50 + i] == i]
    assert len(found) >= 45
    for i in found:
        expected = jaccard(rows[i], copies[i])
        assert result.similarity[50 + i] == pytest.approx(expected, abs=1e-9)


def test_pairs_are_looked_at_as_often_as_the_curve_says() -> None:
    """Of pairs of similarity s a share P(s) is compared: 400 pairs, within 4 standard errors."""
    draw = random.Random(2)
    shared, own = 20, 20  # of 60 distinct words a pair shares 20: s = 1/3
    texts = []
    for _ in range(400):
        words = [f"w{draw.random()}".replace(".", "") for _ in range(shared + 2 * own)]
        texts += [" ".join(words[: shared + own]), " ".join(words[:shared] + words[shared + own :])]
    result = find_duplicates(texts, n=1, bands=4, rows_per_band=2, threshold=0.3)
    rate = (result.first >= 0).sum() / 400
    expected = s_curve(1 / 3, 4, 2)
    error = (expected * (1 - expected) / 400) ** 0.5
    assert abs(rate - expected) < 4 * error


def test_equal_texts_are_exact_copies_of_the_first() -> None:
    result = find_duplicates(["A  b\nc", "x y z", "a b c", "x y z", "3 + 4 = 7", "3 - 4 = 7"])
    assert result.first.tolist() == [-1, -1, 0, 1, -1, -1]
    assert result.num_exact == 2 and result.num_near == 0
    assert result.kept.tolist() == [0, 1, 4, 5]
    assert result.clusters(1) == [(0, [2])]
    assert "2 copies" in str(result)


def test_a_dropped_row_is_near_a_row_that_is_kept() -> None:
    """A chain of small edits: its ends are far apart, so that one row cannot stand for all."""
    draw = random.Random(3)
    chain = [text_of(draw)]
    for _ in range(30):
        chain.append(edited(draw, chain[-1], 2))
    result = find_duplicates([" ".join(w) for w in chain])
    dropped = np.flatnonzero(result.first >= 0)
    assert 0 < len(dropped) < 30
    kept = set(result.kept.tolist())
    for row in dropped.tolist():
        assert int(result.first[row]) in kept and result.first[row] < row
        assert jaccard(chain[row], chain[int(result.first[row])]) >= 0.7


def test_an_equal_of_a_near_copy_is_near_the_row_that_is_kept() -> None:
    draw = random.Random(7)
    words = text_of(draw)
    other = edited(draw, words, 2)
    result = find_duplicates([" ".join(w) for w in (words, other, other)])
    assert result.first.tolist() == [-1, 0, 0] and result.exact.tolist() == [False, False, True]
    assert result.similarity[1] == result.similarity[2] < 1


def test_many_rows_of_one_template_cost_no_square() -> None:
    """Rows that share half of their words fall into common buckets and are no copies."""
    draw = random.Random(4)
    common = text_of(draw, 25)
    rows = [" ".join([*common, *text_of(draw, 25)]) for _ in range(2000)]
    result = find_duplicates(rows)
    assert len(result.kept) == 2000
    assert result.num_compared <= 2000 * 32 * 16


def test_long_texts_are_compared_by_sketches() -> None:
    draw = random.Random(5)
    long = text_of(draw, 5000)
    texts = [long, edited(draw, long, 300), text_of(draw, 5000)]
    result = find_duplicates([" ".join(w) for w in texts])
    assert result.first.tolist() == [-1, 0, -1]
    assert result.similarity[1] == pytest.approx(jaccard(texts[0], texts[1]), abs=0.08)


def test_empty_texts_are_equal_and_near_nothing() -> None:
    assert find_duplicates(["", "  ", "a"]).first.tolist() == [-1, 0, -1]
    assert len(find_duplicates([]).first) == 0
    assert find_duplicates(["a b c", "a b c d"], near=False).num_near == 0


def test_a_result_follows_from_the_texts_alone() -> None:
    draw = random.Random(6)
    rows = [text_of(draw) for _ in range(200)]
    rows += [edited(draw, rows[i], 2) for i in range(100)]
    texts = [" ".join(words) for words in rows]
    one, other = find_duplicates(texts), find_duplicates(iter(texts))
    assert one.first.tolist() == other.first.tolist()


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"threshold": 1.1}, {"n": 0}, {"bands": 0}])
def test_numbers_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        find_duplicates(["a"], **wrong)
