"""Sources of scores."""

from __future__ import annotations

import math

import pytest

from posttrain.errors import ConfigError
from posttrain.search.base import Candidate
from posttrain.search.score_sources import AGGREGATIONS, Ensemble, Logprobs, Verdicts
from posttrain.types import Example

EXAMPLE = Example("?", None, "1", id="e")
GROUP = [Candidate((1, 2), "a", -3.0, True), Candidate((1,), "b", -math.inf, True)]


def test_aggregations() -> None:
    numbers = [0.5, 0.2, 0.8]
    by = {name: aggregate(numbers) for name, aggregate in AGGREGATIONS.items()}
    assert by == pytest.approx({"product": 0.08, "minimum": 0.2, "last": 0.8, "mean": 0.5})


def test_sources_keep_the_groups_apart() -> None:
    items = [(EXAMPLE, GROUP), (EXAMPLE, []), (EXAMPLE, GROUP[:1])]
    assert Logprobs(False).scores(items, None) == [[-3, -math.inf], [], [-3]]
    both = Ensemble([Logprobs(False), Logprobs(True)], [1.0, 2.0], "mean", 1.0)
    assert both.scores(items, None) == [[-3, -math.inf], [], [-3]]
    with pytest.raises(ConfigError, match="needs a task"):
        Verdicts().scores(items, None)
