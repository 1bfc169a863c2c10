"""Independent components, where scikit-learn is installed."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest

from posttrain.dynamics.feature_maps import fit_map
from posttrain.errors import MissingDependency


def test_independent_sources_are_separated() -> None:
    pytest.importorskip("sklearn")
    draw = np.random.default_rng(1)
    sources = draw.uniform(-1, 1, (2000, 2))
    mixed = sources @ np.array([[1.0, 0.5], [0.4, 1.0]])
    fitted = fit_map(mixed, "ica", 2)
    components = fitted.encode(mixed)
    np.testing.assert_allclose(fitted.decode(components), mixed, atol=1e-6)
    related = np.abs(np.corrcoef(components.T, sources.T)[:2, 2:])
    assert (related.max(1) > 0.98).all() and (related.min(1) < 0.2).all()


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependency):
        fit_map(np.random.default_rng(0).standard_normal((20, 3)), "ica")
