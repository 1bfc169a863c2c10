"""Tables, files and plots of results."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from posttrain.dynamics.forecaster import Cost
from posttrain.dynamics.results import (
    Calibration,
    DynamicsEvaluation,
    LearnerScore,
    SeriesForecast,
)
from posttrain.evaluation.statistics import Difference, Interval


def test_a_forecast_is_written(tmp_path: Path) -> None:
    forecast = SeriesForecast(
        np.arange(6.0).reshape(3, 2), np.ones((2, 4, 2)), np.zeros(2), np.ones(2), Cost(2, 30)
    )
    forecast.save(tmp_path)
    values = json.loads((tmp_path / "forecast.json").read_text())
    assert values["tokens"] == 30 and np.array(values["paths"]).shape == (2, 4, 2)
    ElementTree.parse(tmp_path / "forecast.svg")
    assert len(str(forecast).splitlines()) == 5


def test_an_evaluation_is_a_table_of_learners(tmp_path: Path) -> None:
    interval = Interval(0.1, 0.05, 0.15, 4)
    difference = Difference(0.2, 0.1, 0.3, 0.01, 4)
    scores = [
        LearnerScore("vicl", interval, None, 0.1, 0.05, [0.5], [0.6], [(2.0, 0.4), (4.0, 0.2)], 8),
        LearnerScore("network", interval, difference, 0.2, 0.1, [0.5], [0.9], [], 0),
    ]
    result = DynamicsEvaluation("m", 32, 16, 4, scores)
    assert result.score("network").passes == 0
    assert "+0.2000 [+0.1000, +0.3000]" in str(result)
    result.save(tmp_path)
    for name in ("dynamics.svg", "context.svg"):
        ElementTree.parse(tmp_path / name)
    assert json.loads((tmp_path / "dynamics.json").read_text())["window"] == 32


def test_a_calibration_shows_both_sides(tmp_path: Path) -> None:
    row = {"nll": 1.0, "ks": 0.2, "ece": 0.1, "coverage": [0.4]}
    result = Calibration(1.5, row, {**row, "ece": 0.02}, [0.5])
    result.save(tmp_path)
    ElementTree.parse(tmp_path / "calibration.svg")
    assert "0.020" in (tmp_path / "calibration.txt").read_text()
