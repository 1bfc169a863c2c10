"""Measures of scores: closed forms, brute force, and what they say of made-up models."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from posttrain.data.forest import TokenSequence
from posttrain.data.rows import load_rows
from posttrain.evaluation.reward_model import (
    auc,
    best_of,
    best_of_curve,
    brier,
    calibration_error,
    correlation,
    epic_distance,
    error_location,
    first_error,
    flat,
    kl_best_of,
    measure,
    pair_calibration,
    preferred,
    sigmoid,
)


def test_auc_is_the_share_of_ordered_pairs() -> None:
    draw = np.random.default_rng(0)
    scores, labels = draw.integers(0, 6, 40).astype(float), draw.integers(0, 2, 40)
    brute = np.mean(
        [
            preferred([a], [b])[0]
            for a, b in itertools.product(scores[labels == 1], scores[labels == 0])
        ]
    )
    assert auc(scores, labels) == pytest.approx(brute)
    assert (
        auc([1, 2, 3], [0, 0, 1]) == 1
        and auc([1, 1], [0, 1]) == 0.5
        and math.isnan(auc([1, 2], [1, 1]))
    )


def test_calibration_by_hand_and_of_a_calibrated_model() -> None:
    """Probabilities .9, .9, .1, .1 with outcomes 1, 0, 0, 0: gaps |1 - 1.8| and |0 - .2| over 4."""
    p, y = [0.9, 0.9, 0.1, 0.1], [1, 0, 0, 0]
    assert calibration_error(p, y) == pytest.approx((0.8 + 0.2) / 4)
    assert brier(p, y) == pytest.approx((0.01 + 0.81 + 0.01 + 0.01) / 4)
    draw = np.random.default_rng(1)
    true = draw.normal(0, 2, 40_000)
    won = draw.random(40_000) < sigmoid(
        true
    )  # which of two is chosen, with the margin as its log-odds
    chosen = np.where(won, true, -true)
    ece, squared = pair_calibration(chosen, np.zeros_like(chosen))
    sure, worse = pair_calibration(3 * chosen, np.zeros_like(chosen))
    assert ece < 0.01 < 0.08 < sure and squared < worse
    assert pair_calibration([0.0], [0.0]) == (0.0, 0.25)


def test_kl_of_best_of_n() -> None:
    assert [round(kl_best_of(n), 3) for n in (1, 2, 4, 16, 64)] == [0.0, 0.193, 0.636, 1.835, 3.175]


def test_best_of_is_the_mean_over_all_subsets() -> None:
    draw = np.random.default_rng(2)
    scores, gold = draw.integers(0, 4, (3, 6)).astype(float), draw.random((3, 6))
    for k in (1, 2, 4, 6):
        for row in range(3):
            means = []
            for subset in itertools.combinations(range(6), k):
                top = scores[row, list(subset)].max()
                means.append(np.mean([gold[row, i] for i in subset if scores[row, i] == top]))
            # ties share their places, as if they were broken at random
            assert best_of(scores, gold, k)[row] == pytest.approx(np.mean(means), abs=1e-12)
    distinct = draw.permutation(6)[None].astype(float)
    brute = np.mean(
        [gold[0, max(s, key=lambda i: distinct[0, i])] for s in itertools.combinations(range(6), 3)]
    )
    assert best_of(distinct, gold[:1], 3)[0] == pytest.approx(brute)
    assert math.isnan(best_of(scores, gold, 7)[0])


def test_the_curve_of_an_exploited_score_falls() -> None:
    """A proxy that agrees with gold up to a point and opposes it beyond: gold rises with N and
    falls again.
    """
    draw = np.random.default_rng(3)
    proxy = draw.normal(0, 1, (100, 64))
    gold = np.where(proxy < 1, proxy, 2 - 2 * proxy) + draw.normal(0, 0.3, proxy.shape)
    curve = best_of_curve(proxy, gold)
    found = [point["gold"] for point in curve]
    assert [point["n"] for point in curve] == [1, 2, 4, 8, 16, 32, 64]
    assert (
        found[1] > found[0]
        and found[-1] < found[1]
        and all(np.diff([p["score"] for p in curve]) > 0)
    )
    assert curve[-1]["ceiling"] > curve[-1]["gold"] and curve[3]["kl"] == pytest.approx(
        kl_best_of(8)
    )


def test_first_errors() -> None:
    assert first_error([0.9, 0.4, 0.2]) == 1 and first_error([0.9]) is None
    found = error_location([1, 2, None, 0, None], [1, 1, None, None, 3])
    assert found == {"error": pytest.approx(1 / 3), "correct": 0.5, "f1": pytest.approx(0.4)}
    assert (
        math.isnan(error_location([1], [1])["f1"]) and error_location([0, 0], [1, None])["f1"] == 0
    )


def test_epic_sees_through_shaping_and_scale() -> None:
    """R and 3 R + gamma phi(s') - phi(s) are 0 apart, R and -R 1, two unrelated rewards about
    sqrt(1/2).
    """
    draw = np.random.default_rng(4)
    reward, other, phi = (
        draw.normal(size=(9, 4, 9)),
        draw.normal(size=(9, 4, 9)),
        draw.normal(size=9),
    )
    for gamma in (1.0, 0.9):
        shaped = 3 * reward + gamma * phi[None, None, :] - phi[:, None, None]
        assert epic_distance(reward, shaped, gamma) == pytest.approx(0, abs=1e-7)
        assert epic_distance(reward, -shaped, gamma) == pytest.approx(1)
        assert epic_distance(reward, other, gamma) == pytest.approx(math.sqrt(0.5), abs=0.1)
    table = draw.normal(size=(20, 5))
    assert epic_distance(table, 2 * table + draw.normal(size=(20, 1))) == pytest.approx(0, abs=1e-7)
    assert math.isnan(epic_distance(table, np.zeros_like(table)))


def sequence(length: int, prompt: int = 0, **values: float) -> TokenSequence:
    ids = np.arange(prompt + length)
    return TokenSequence(
        ids, ids == len(ids) - 1, values={"completion_length": float(length), **values}
    )


def test_measures_of_pairs_show_a_liking_for_length() -> None:
    """A score that is the length alone: right where the chosen one is longer, wrong where the
    rejected one is.
    """
    lengths = [(9, 4), (8, 3), (7, 5), (4, 9)]
    trees = [[sequence(n) for n in pair] for pair in lengths]
    scores = [[np.array([float(n)]) for n in pair] for pair in lengths]
    told = measure("pairs", trees, scores)
    with_prompts = [[sequence(n, prompt=40 * i) for n in pair] for i, pair in enumerate(lengths)]
    assert (
        measure("pairs", with_prompts, scores) == told
    )  # how long a prompt is says nothing of the completion
    assert told["accuracy"]["estimate"] == 0.75 and told["accuracy"]["n"] == 4
    assert told["length_correlation"] == pytest.approx(1)
    assert (
        told["accuracy_rejected_longer"]["estimate"] == 0
        and told["accuracy_rejected_shorter"]["estimate"] == 1
    )
    assert math.isnan(correlation([1, 1], [1, 2])) and "length_correlation" in flat(told)


def test_measures_of_other_kinds() -> None:
    ranked = measure(
        "listwise",
        [[sequence(3, reward=r) for r in (1, 2, 2)]],
        [[np.array([x]) for x in (0.0, 1.0, -1.0)]],
    )
    assert ranked["accuracy"]["estimate"] == 0.5 and ranked["best"]["estimate"] == 1
    scored = measure(
        "rewarded",
        [[sequence(3, reward=r)] for r in (1.0, 2.0)],
        [[np.array([1.5])], [np.array([2.5])]],
    )
    assert scored["mse"] == 0.25 and scored["correlation"] == pytest.approx(1)
    labels = measure(
        "labelled",
        [[sequence(3, label=x)] for x in (1.0, 0.0)],
        [[np.array([2.0])], [np.array([-2.0])]],
    )
    assert labels["accuracy"]["estimate"] == 1 and labels["auc"] == 1
    step = TokenSequence(
        np.arange(4), np.array([False, True, True, True]), {"labels": np.array([0, 1, 0, 0])}
    )
    steps = measure("process", [[step]], [[np.array([3.0, 2.0, -1.0])]])
    assert steps["accuracy"]["estimate"] == pytest.approx(2 / 3) and steps["first_error_error"] == 0
    assert "first_error_f1" not in flat(steps)  # there is no right solution


def test_errors_in_real_reasoning_traces(shared: Path) -> None:
    """BIG-Bench Mistake: the truth scores 1, "always right" finds no error, and F1 shows it."""
    rows = load_rows(shared / "data" / "bigbench_mistake" / "multistep_arithmetic.jsonl")
    truth = [None if r["mistake_index"] is None else int(r["mistake_index"]) for r in rows]
    assert error_location(truth, truth)["f1"] == 1
    assert error_location([None] * len(rows), truth) == {"error": 0.0, "correct": 1.0, "f1": 0.0}
    labels = [
        [float(t is None or i < t) for i in range(len(r["steps"]))]
        for r, t in zip(rows, truth, strict=True)
    ]
    assert [first_error(x) for x in labels] == truth and json.dumps(len(rows)) == "300"
