"""Tree searches on the embedded model: exact accounts, and no token beyond a budget."""

from __future__ import annotations

from typing import Any

import pytest

import posttrain as pt
from posttrain import registry
from posttrain.engines.torch import TorchEngine
from posttrain.methods.run_search import run_search
from posttrain.search.base import Selection
from posttrain.types import Sampling

SMALL: dict[str, dict[str, int]] = {
    "step_beam": {"num_beams": 4, "beam_width": 2, "lookahead": 1},
    "dvts": {"num_beams": 4, "beam_width": 2},
    "rebase": {"num_samples": 4},
    "particle_filter": {"num_particles": 4},
    "mcts": {"num_simulations": 4, "num_children": 2},
    "scored_thoughts": {"num_thoughts": 2, "num_beams": 2},
    "tree_of_thoughts": {"num_thoughts": 2, "num_beams": 1, "num_evaluations": 1},
    "graph_of_thoughts": {"num_branches": 3, "improve_rounds": 1},
    "ab_mcts": {"num_samples": 4},
    "rstar": {"num_rollouts": 3, "consistency_checks": 1},
}


@pytest.fixture(scope="module")
def model() -> Any:
    """The embedded model."""
    return pt.load("embedded")


@pytest.mark.parametrize("name", SMALL)
def test_accounts_are_those_of_the_engine(model: Any, name: str) -> None:
    entry = registry.searches.entry(name)
    scorer = "length" if "score" in entry.inputs else None
    for limit in (None, 30):
        engine = TorchEngine(model)
        (selection,) = run_search(
            model,
            "3+4=",
            {"name": name, **SMALL[name]},
            scorer=scorer,
            sampling=Sampling(max_tokens=24),
            budget=limit,
            engine=engine,
        )
        assert isinstance(selection, Selection) and selection.ledger is not None
        assert selection.num_tokens == engine.stats.generated_tokens
        assert limit is None or selection.num_tokens <= limit
        assert selection.ledger.num_calls > 0
        assert (selection.ledger.num_scored > 0) == (scorer is not None)
