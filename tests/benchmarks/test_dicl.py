"""Claims about dynamics in context: the sign and the verdict of each."""

from __future__ import annotations

import numpy as np
import pytest

from .loading import load

NOISE = np.linspace(-0.01, 0.01, 5)


def verdicts(module: object, part: str, **columns: float) -> list[str]:
    rows = [{name: value * (1 + n) for name, value in columns.items()} for n in NOISE]
    return [claim["verdict"] for claim in module.claims(part, rows)]  # type: ignore[attr-defined]


def test_a_claim_is_reproduced_refuted_or_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("dicl", monkeypatch)
    assert verdicts(module, "context", **{"4": 0.5, "64": 0.2}) == ["reproduced"]
    assert verdicts(module, "context", **{"4": 0.2, "64": 0.5}) == ["refuted"]
    half = {"vicl/passes": 6.0, "pca/passes": 3.0}
    for error, verdict in ((0.31, "reproduced"), (0.5, "refuted")):
        columns = {"vicl/error": 0.3, "pca/error": error, **half}
        assert verdicts(module, "components", **columns) == [verdict]
    calibrated = {
        "ks_own": 0.02,
        "ks_critical": 0.05,
        "ks_gaussian": 0.2,
        "ks_model": 0.1,
        "ece_before": 0.1,
        "ece_after": 0.05,
    }
    assert verdicts(module, "calibration", **calibrated) == ["reproduced"] * 3
    worse = {**calibrated, "ks_own": 0.1, "ks_model": 0.3, "ece_after": 0.2}
    assert verdicts(module, "calibration", **worse) == ["refuted"] * 3
    returns = {"0/early": -900.0, "0.05/early": -800.0, "0.25/early": -850.0}
    assert verdicts(module, "control", **returns) == ["reproduced", "reproduced"]
    returns = {"0/early": -800.0, "0.05/early": -900.0, "0.25/early": -850.0}
    assert verdicts(module, "control", **returns) == ["refuted", "refuted"]
