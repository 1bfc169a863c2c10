"""Subset estimates against enumeration, the front, and where more tokens stop helping."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from posttrain.evaluation.metrics import vote_share
from posttrain.evaluation.tradeoff import (
    Point,
    Pool,
    Tradeoff,
    at_k,
    best_of_k,
    disagrees,
    tokens_after_right,
    waste_of,
    weighted_vote_at_k,
)


def pool(seed: int = 0, number: int = 6) -> Pool:
    draw = np.random.default_rng(seed)
    answers = [str(a) if a else None for a in draw.integers(0, 4, number)]
    correct = [int(a == "1") for a in answers]
    scores = [float(s) for s in draw.integers(0, 3, number)]
    return Pool(answers, correct, scores, [5] * number, [float(x) for x in draw.random(number)])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_best_of_k_is_the_mean_over_all_subsets(seed: int, k: int) -> None:
    given = pool(seed)
    values = []
    for places in itertools.combinations(range(6), k):
        best = max(places, key=lambda i: (given.scores[i], given.mean_logprobs[i]))
        values.append(given.correct[best])
    assert best_of_k(given, k) == pytest.approx(np.mean(values), abs=1e-12)
    assert math.isnan(best_of_k(given, 7))


@pytest.mark.parametrize("seed", range(4))
def test_weighted_votes_are_near_the_mean_over_all_subsets(seed: int) -> None:
    given = pool(seed)
    ones = Pool(given.answers, given.correct, [1.0] * 6, given.num_tokens, given.mean_logprobs)
    every = [
        vote_share([given.answers[i] for i in s], [given.correct[i] for i in s])
        for s in itertools.combinations(range(6), 3)
    ]
    assert weighted_vote_at_k(ones, 3) == pytest.approx(np.mean(every), abs=0.12)
    assert weighted_vote_at_k(ones, 6) == vote_share(given.answers, given.correct)
    assert at_k("majority_vote", given, 6) == vote_share(given.answers, given.correct)
    assert math.isnan(weighted_vote_at_k(ones, 7))
    nobody = Pool([None, "1"], [0, 1], [2.0, -math.inf], [1, 1], [0.0, 0.0])
    assert weighted_vote_at_k(nobody, 2) == 0.0


def test_waste() -> None:
    right = Pool(["1", "2", "2"], [0, 1, 1], [1.0] * 3, [3, 4, 5], [0.0] * 3)
    wrong = Pool([None, None], [0, 0], [1.0] * 2, [7, 7], [0.0] * 2)
    assert disagrees(right) and not disagrees(wrong)
    assert tokens_after_right(right) == 5 and tokens_after_right(wrong) is None
    waste = waste_of([right, wrong])
    assert (waste.disagreeing, waste.tokens_after_right) == (0.5, 5.0)
    assert math.isnan(waste_of([wrong]).tokens_after_right)


def point(name: str, budget: int, correct: list[float], oracle: bool = False) -> Point:
    return Point(name, name, {}, budget, None, correct, budget * 0.9, 0.1, 1e9, oracle)


def study() -> Tradeoff:
    def rising(share: float) -> list[float]:
        return [float(i < share * 100) for i in range(100)]

    points = [point("vote", b, rising(s)) for b, s in ((10, 0.2), (20, 0.5), (40, 0.52), (80, 0.5))]
    points += [point("slow", 80, rising(0.3)), point("oracle", 10, rising(0.9), oracle=True)]
    ids = [str(i) for i in range(100)]
    return Tradeoff("t", "m", ids, points, {"vote": waste_of([])}, 1000)


def test_the_front_holds_what_nothing_deployable_beats() -> None:
    front = study().front()
    assert [(p.strategy, p.budget) for p in front] == [("vote", 10), ("vote", 20), ("vote", 40)]


def test_where_gains_stop_being_significant() -> None:
    result = study()
    first, second, third = result.gains("vote")
    assert first.low > 0 and second.low <= 0.02 and third.estimate < 0
    assert result.saturation("vote") == 20 and result.saturation("slow") is None
    still = [point("vote", b, [float(i < b) for i in range(100)]) for b in (10, 40, 80)]
    assert Tradeoff("t", "m", [], still).saturation("vote") == 80


def test_table_and_files(tmp_path: Path) -> None:
    result = study()
    lines = str(result).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.rstrip().count("%*") for line in lines) == 3
    result.save(tmp_path)
    saved = json.loads((tmp_path / "tradeoff.json").read_text())
    assert [p["on_front"] for p in saved["points"]] == [True, True, True, False, False, False]
    assert saved["saturation"]["vote"] == 20 and saved["waste"]["vote"]["disagreeing"] == 0
    assert (tmp_path / "tradeoff.svg").read_text().startswith("<svg")
    assert (tmp_path / "tradeoff.txt").read_text().rstrip() == str(result)
