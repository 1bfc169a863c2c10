"""What holds for every registered strategy, on the embedded model."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import posttrain as pt
from posttrain import registry
from posttrain.data.templates import encode_prompt
from posttrain.engines.torch import TorchEngine
from posttrain.rewards.grader import TaskGrader
from posttrain.search.base import Selection
from posttrain.search.journal import Journal
from posttrain.search.run import SearchLimits, SearchTools, run_searches
from posttrain.search.strategy import strategy
from posttrain.tasks.arithmetic import arithmetic
from posttrain.types import Sampling

NAMES = registry.searches.names()
TASK = arithmetic(num_steps=2, num_examples=3)
SAMPLING = Sampling(max_tokens=20)


@pytest.fixture(scope="module")
def model() -> Any:
    """The embedded model."""
    return pt.load("embedded")


def run(
    model: Any, name: str, *, budget: int | None = None, journal: Journal | None = None
) -> tuple[list[Selection], TorchEngine]:
    """The strategy's choices for three problems, and the engine that sampled."""
    engine = TorchEngine(model)
    chosen = strategy(name)
    if chosen.needs_score:
        chosen = chosen.with_scorer("length")
    chosen = chosen.open(TASK)
    verdicts = TaskGrader(TASK)
    more: dict[str, Any] = {}
    if "amateur" in {field.name for field in fields(SearchTools)}:
        more["amateur"] = TorchEngine(model)
    tools = SearchTools(
        model.tokenizer,
        verdicts.answer,
        verdicts,
        lambda states: [float(len(state) % 7) for state in states],
        TASK.system,
        journal,
        **more,
    )
    prompts = [tuple(encode_prompt(model.tokenizer, e.prompt)) for e in TASK.examples]
    try:
        results = run_searches(
            chosen,
            list(zip(TASK.examples, prompts, strict=True)),
            engine,
            tools,
            sampling=SAMPLING,
            seeds=[3, 4, 5],
            limits=SearchLimits(max_tokens=budget),
        )
    finally:
        chosen.close()
    selections = []
    for result in results:
        assert isinstance(result, Selection), getattr(result, "traceback", result)
        selections.append(result)
    return selections, engine


def key(selection: Selection) -> Any:
    """What must be equal between two runs of a search."""
    ids = [c.ids for c in selection.candidates]
    return selection.text, selection.answer, selection.index, ids, selection.votes, selection.notes


@pytest.mark.parametrize("name", NAMES)
def test_accounts_are_the_engines_and_seeds_reproduce(
    model: Any, name: str, tmp_path: Path
) -> None:
    journal = Journal(tmp_path / "calls.jsonl", {})
    selections, engine = run(model, name, journal=journal)
    ledgers = [s.ledger for s in selections if s.ledger is not None]
    assert len(ledgers) == 3
    assert sum(ledger.sampled_tokens for ledger in ledgers) == engine.stats.generated_tokens > 0
    for selection in selections:
        assert 0 <= selection.index < len(selection.candidates)
        assert all(len(c.ids) <= SAMPLING.max_tokens for c in selection.candidates)
    again, _ = run(model, name)
    assert list(map(key, again)) == list(map(key, selections))
    journal.close()
    replayed, idle = run(model, name, journal=Journal(tmp_path / "calls.jsonl", {}))
    assert list(map(key, replayed)) == list(map(key, selections))
    assert idle.stats.generated_tokens == 0
    assert [s.num_tokens for s in replayed] == [s.num_tokens for s in selections]


@pytest.mark.parametrize("budget", [1, 6, 33])
@pytest.mark.parametrize("name", NAMES)
def test_no_budget_is_exceeded_by_a_token(model: Any, name: str, budget: int) -> None:
    selections, engine = run(model, name, budget=budget)
    assert all(selection.num_tokens <= budget for selection in selections)
    assert engine.stats.generated_tokens == sum(s.num_tokens for s in selections)
