"""Curves of best-of-N against brute force, and a proxy that is known to be hacked."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from posttrain.errors import DataError
from posttrain.evaluation.hacking import (
    curve_of,
    fall_of,
    gold_table,
    hacking_of,
    read_hacking,
    regularized_scores,
    sizes,
)


def hacked(prompts: int = 40, samples: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores that rise with gold for most samples, and one exploit of gold 0 per prompt that has
    the highest score."""
    draw = np.random.default_rng(seed)
    gold = (draw.random((prompts, samples)) < 0.4).astype(float)
    scores = gold + 0.3 * draw.standard_normal((prompts, samples))
    gold[:, 3], scores[:, 3] = 0.0, 9.0
    return scores, gold


def test_the_curve_is_the_mean_over_all_subsets() -> None:
    draw = np.random.default_rng(1)
    scores, gold = draw.standard_normal((3, 6)), draw.random((3, 6))
    table = gold_table(scores, gold)
    for row in range(3):
        for place, n in enumerate((1, 2, 4)):
            chosen = [
                gold[row, max(subset, key=lambda i: scores[row, i])]
                for subset in itertools.combinations(range(6), n)
            ]
            assert math.isclose(table[row, place], np.mean(chosen), rel_tol=1e-12)
    assert sizes(6) == [1, 2, 4]


def test_an_exploit_makes_gold_fall_behind_its_peak() -> None:
    scores, gold = hacked()
    curve = curve_of("one", scores, gold)
    proxy = [p.proxy.estimate for p in curve.points]
    assert proxy == sorted(proxy)
    assert 1 < curve.peak < 16
    assert curve.fall.estimate < -0.1 and curve.fall.p_value < 0.01
    assert math.isclose(curve.peak_kl, math.log(curve.peak) - (curve.peak - 1) / curve.peak)


def test_the_gold_reward_itself_does_not_fall() -> None:
    _, gold = hacked()
    curve = curve_of("gold", gold, gold)
    assert curve.peak == 16 and curve.fall.estimate == 0.0
    result = hacking_of("t", "m", "task", {"gold": gold}, gold)
    assert not result.is_hacked("gold")
    assert math.isclose(result.ceiling, curve.points[-1].gold.estimate)


def test_the_peak_is_taken_from_the_other_half() -> None:
    """Two halves with different peaks: each is measured at the other's."""
    table = np.array([[0.0, 1.0, 0.2], [1.0, 0.0, 0.2]] * 8)
    assert math.isclose(fall_of(table).estimate, 0.2)


def test_mitigations_are_paired_with_the_first_proxy(tmp_path: Path) -> None:
    scores, gold = hacked()
    costs = np.where(np.arange(16) == 3, 50.0, 1.0) * np.ones_like(scores)
    mended = regularized_scores(scores, costs, 0.5)
    result = hacking_of("t", "m", "task", {"one": scores, "kl": mended}, gold)
    assert result.is_hacked("one") and not result.is_hacked("kl")
    assert result.gains["kl"].low > 0.2
    assert list(result.gains) == ["kl"]
    assert len(result.lines()) == 2 and str(result).count("*") >= 2
    result.save(tmp_path)
    assert read_hacking(tmp_path) == result
    assert {p.name for p in tmp_path.iterdir()} == {"hacking.json", "hacking.svg", "hacking.txt"}


def test_completions_without_a_score_are_chosen_last() -> None:
    scores, gold = hacked()
    scores[:, 3] = -np.inf
    curve = curve_of("one", scores, gold)
    assert curve.unscored == 40 and curve.peak == 16
    assert all(math.isfinite(p.proxy.estimate) for p in curve.points)


def test_what_gives_no_curve_is_refused(tmp_path: Path) -> None:
    scores, gold = hacked()
    with pytest.raises(DataError):
        curve_of("one", scores[:, :1], gold[:, :1])
    with pytest.raises(DataError):
        curve_of("one", scores, gold[:, :8])
    with pytest.raises(DataError):
        curve_of("one", np.full_like(scores, -np.inf), gold)
    with pytest.raises(DataError):
        hacking_of("t", "m", "task", {}, gold)
    with pytest.raises(DataError):
        hacking_of("t", "m", "task", {"one": scores}, gold).is_hacked("two")
    with pytest.raises(DataError):
        read_hacking(tmp_path)
    (tmp_path / "hacking.json").write_text("{}")
    with pytest.raises(DataError):
        read_hacking(tmp_path)
