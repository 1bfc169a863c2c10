"""Areas, pairs and the table of active learning."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from posttrain.errors import DataError
from posttrain.evaluation.learning_curves import Active, Curve, area_under, read_active


def curve(selector: str, seed: int, scores: list[float]) -> Curve:
    labels = [10 * (i + 1) for i in range(len(scores))]
    zeros = [0.0] * len(scores)
    return Curve(selector, seed, labels, scores, zeros, [0] * len(scores), zeros, reason="done")


def result() -> Active:
    curves = []
    for seed, lift in enumerate([0.0, 0.02, 0.04]):
        curves.append(curve("entropy", seed, [0.5 + lift, 0.7 + lift, 0.8 + lift]))
        curves.append(curve("random", seed, [0.5 + lift, 0.6 + lift, 0.7 + lift]))
    return Active("a title", "oracle", curves, True)


def test_the_area_by_hand() -> None:
    assert area_under([10, 20, 40], [0.5, 0.7, 0.7]) == pytest.approx((10 * 0.6 + 20 * 0.7) / 30)
    assert area_under([5], [0.3]) == 0.3


def test_selectors_are_paired_by_seed() -> None:
    (compared,) = result().compare()
    # (.5+.7)/2*.5 + (.7+.8)/2*.5 = .675 against .6, with the same lift of the seeds.
    assert compared.selector == "entropy" and compared.area.estimate == pytest.approx(0.075)
    assert compared.area.low == pytest.approx(0.075) and compared.p_value < 1e-6
    assert compared.last.estimate == pytest.approx(0.1)
    assert result().compare("entropy")[0].area.estimate == pytest.approx(-0.075)
    assert Active("t", "l", [curve("entropy", 0, [0.5])]).compare() == []


def test_curves_of_unequal_length_are_compared_up_to_the_shorter() -> None:
    active = Active("t", "l", [curve("random", 0, [0.1, 0.2, 0.9]), curve("badge", 0, [0.1, 0.4])])
    (compared,) = active.compare()
    assert compared.last.estimate == pytest.approx(0.2)


def test_labels_to_a_score() -> None:
    assert curve("a", 0, [0.2, 0.5, 0.6]).labels_to(0.5) == 20
    assert curve("a", 0, [0.2]).labels_to(0.5) is None


def test_table_picture_and_file(tmp_path: Path) -> None:
    active = result()
    text = str(active)
    assert "oracle" in text and "entropy" in text and "+0.075" in text
    file = active.save(tmp_path)
    assert read_active(file) == active == read_active(tmp_path)
    assert "polyline" in (tmp_path / "active.svg").read_text()
    assert (tmp_path / "active.txt").read_text().startswith("a title")
    alone = Active("t", "l", [curve("random", 0, [0.5, 0.6])])
    assert not math.isfinite(alone.area("random").low) and "inf" not in str(alone)
    (tmp_path / "active.json").write_text("{}")
    with pytest.raises(DataError):
        read_active(tmp_path)
