"""The table of methods over seeds against hand-worked numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.errors import DataError
from posttrain.evaluation.sequences import Sequences, read_sequences

# rows: before, after stage 1, after stage 2
NAIVE = [[[0.0, 0.2], [1.0, 0.3], [0.4, 0.8]], [[0.0, 0.0], [0.8, 0.1], [0.4, 0.6]]]
JOINT = [[[0.0, 0.2], [1.0, 0.2], [0.9, 0.9]], [[0.0, 0.0], [0.9, 0.0], [0.9, 0.9]]]


def both() -> Sequences:
    others = {"naive": {"old": [[0.5, 0.4, 0.3], [0.5, 0.5, 0.4]]}, "joint": {}}
    return Sequences("m", ["a", "b"], [0, 1], {"naive": NAIVE, "joint": JOINT}, others)


def test_measures_by_hand() -> None:
    row = both().measures()["naive"]
    assert row["AP"] == pytest.approx([0.6, 0.5])
    assert row["BWT"] == pytest.approx([-0.6, -0.4])
    assert row["FWT"] == pytest.approx([0.1, 0.1])
    assert row["forgetting"] == pytest.approx([0.6, 0.4])
    # mean of (1.0 - 1.0, 0.9 - 0.8) and of (0.9 - 0.8, 0.9 - 0.6)
    assert row["intransigence"] == pytest.approx([0.05, 0.2])
    assert row["general_ability_delta"] == pytest.approx([-0.2, -0.1])
    assert "intransigence" not in both().measures()["joint"]


def test_intervals_and_paired_differences() -> None:
    table = both().table()
    cell = table["naive"]["AP"]
    assert cell["estimate"] == pytest.approx(0.55)
    assert cell["low"] is not None and cell["low"] < 0.55
    by_measure = {c["measure"]: c for c in both().comparisons()}
    assert by_measure["AP"]["estimate"] == pytest.approx(0.35)
    assert by_measure["BWT"]["estimate"] == pytest.approx(((-0.1 + 0.6) + (0.0 + 0.4)) / 2)
    assert by_measure["AP"]["a"] == "naive" and by_measure["AP"]["b"] == "joint"


def test_one_seed_has_no_interval() -> None:
    one = Sequences("m", ["a", "b"], [0], {"naive": NAIVE[:1], "joint": JOINT[:1]})
    cell = one.table()["naive"]["AP"]
    assert cell["estimate"] == pytest.approx(0.6) and cell["low"] is None
    assert one.comparisons() == []
    assert "1 seed" in str(one)


def test_it_is_read_back(tmp_path: Path) -> None:
    both().save(tmp_path)
    again = read_sequences(tmp_path)
    assert again == both()
    assert str(again) == (tmp_path / "sequences.txt").read_text().rstrip("\n")
    mean = both().mean_matrix("naive")
    assert mean.ravel().tolist() == pytest.approx([0.0, 0.1, 0.9, 0.2, 0.4, 0.7])
    with pytest.raises(DataError):
        read_sequences(tmp_path / "none")
