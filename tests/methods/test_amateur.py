"""The amateur of a search: asked for, checked before weights are loaded, part of a journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import posttrain as pt
from posttrain.config import EndpointConfig
from posttrain.errors import ConfigError
from posttrain.methods.amateur import amateur_of, identity
from posttrain.methods.endpoint import spec_of
from posttrain.models.spec import model_spec
from posttrain.search.strategy import strategy

CONTRAST = strategy("contrastive_decoding")
SHORT: Any = {"max_tokens": 8}


@pytest.fixture(scope="module")
def model() -> Any:
    """The embedded model."""
    return pt.load("embedded")


@pytest.fixture
def weaker() -> Any:
    """The embedded model with smaller weights."""
    amateur = pt.load("embedded")
    with torch.no_grad():
        for parameter in amateur.hf.parameters():
            parameter.mul_(0.8)
    return amateur


def test_an_evaluation_takes_one(model: Any, weaker: Any) -> None:
    task = pt.task.arithmetic(num_steps=1, num_examples=3)
    options: dict[str, Any] = {"search": CONTRAST, "sampling": SHORT}
    result = pt.evaluate(model, task, amateur=weaker, **options)
    searched = pt.run_search(model, task, CONTRAST, amateur=weaker, sampling=SHORT)
    assert result.accounts["notes/num_contrasted"] > 0
    assert [o.texts[0] for o in result.outcomes] == [s.text for s in searched]  # type: ignore[union-attr]
    table = pt.tradeoff(
        model, task, [CONTRAST, "greedy"], [20], amateur=weaker, sampling=SHORT, num_examples=3
    )
    assert [p.search for p in table.points] == ["contrastive_decoding", "greedy"]


def test_it_is_missing_or_superfluous(model: Any) -> None:
    spec = spec_of(model)
    for search, amateur in ((CONTRAST, None), (strategy("greedy"), model), (None, model)):
        with pytest.raises(ConfigError, match="amateur"):
            amateur_of(spec, search, amateur)
    assert amateur_of(spec, strategy("greedy"), None) is None
    served = spec_of(EndpointConfig("http://127.0.0.1:1/v1", "m"))
    with pytest.raises(ConfigError, match="token ids"):
        amateur_of(served, CONTRAST, model)
    task = pt.task.arithmetic(num_steps=1, num_examples=3)
    with pytest.raises(ConfigError, match="amateur"):
        pt.evaluate(model, task, amateur=model)
    with pytest.raises(ConfigError, match="amateur"):
        pt.tradeoff(model, task, ["greedy"], [20], amateur=model)


def test_a_resumed_search_refuses_another(model: Any, weaker: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"journal": tmp_path / "calls.jsonl", "sampling": SHORT}
    first = pt.run_search(model, "3+4=", CONTRAST, amateur=weaker, **settings)
    again = pt.run_search(model, "3+4=", CONTRAST, amateur=weaker, **settings)
    assert [s.text for s in first] == [s.text for s in again]  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="another search"):
        pt.run_search(model, "3+4=", CONTRAST, amateur=model, **settings)


def test_weights_in_memory_are_told_apart(model: Any, weaker: Any) -> None:
    assert identity(None) is None
    assert identity(model_spec(model)) != identity(model_spec(weaker))
    assert identity(model_spec(model)) == identity(model_spec(pt.load("embedded")))
