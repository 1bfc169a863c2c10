"""Many searches on one engine: the same as each alone, within budgets, with exact accounts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import posttrain as pt
from posttrain.engines.torch import TorchEngine
from posttrain.episodes.drive import Failed
from posttrain.errors import ConfigError
from posttrain.methods.run_search import run_search
from posttrain.search.base import Selection
from posttrain.search.run import SearchLimits
from posttrain.tasks.arithmetic import arithmetic
from posttrain.types import Sampling

PROMPTS = ["3+4=", "12-5=", "2*6="]


@pytest.fixture(scope="module")
def model() -> Any:
    """The embedded model."""
    return pt.load("embedded")


def test_one_sample_is_the_sample_of_an_evaluation(model: Any) -> None:
    task = arithmetic(num_steps=3, num_examples=20)
    plain = pt.evaluate(model, task, num_samples=1, num_examples=12)
    searched = pt.evaluate(model, task, search="sample", num_examples=12)
    assert [o.texts[0] for o in plain.outcomes] == [o.texts[0] for o in searched.outcomes]
    assert plain.means() == searched.means()


def test_a_search_does_not_depend_on_its_neighbours(model: Any) -> None:
    together = run_search(model, PROMPTS, "majority_vote")
    for seed, prompt in enumerate(PROMPTS):
        (alone,) = run_search(model, prompt, "majority_vote", seed=seed)
        assert isinstance(alone, Selection)
        beside = together[seed]
        assert isinstance(beside, Selection)
        assert [c.ids for c in alone.candidates] == [c.ids for c in beside.candidates]


@pytest.mark.parametrize("limit", [1, 5, 17, 40])
def test_a_budget_is_never_exceeded_by_a_token(model: Any, limit: int) -> None:
    engine = TorchEngine(model)
    selections = run_search(model, PROMPTS, "majority_vote", budget=limit, engine=engine)
    spent = 0
    for selection in selections:
        assert isinstance(selection, Selection) and selection.ledger is not None
        assert selection.num_tokens <= limit
        assert selection.num_tokens == sum(len(c.ids) for c in selection.candidates)
        spent += selection.ledger.sampled_tokens
    assert spent == engine.stats.generated_tokens


def test_accounts_are_those_of_the_engine(model: Any) -> None:
    engine = TorchEngine(model)
    selections = run_search(model, PROMPTS, "best_of_n", scorer="length", engine=engine)
    ledgers = [s.ledger for s in selections if isinstance(s, Selection) and s.ledger is not None]
    assert sum(ledger.sampled_tokens for ledger in ledgers) == engine.stats.generated_tokens
    assert [(ledger.num_calls, ledger.num_samples, ledger.num_scored) for ledger in ledgers] == [
        (1, 8, 8)
    ] * 3


def test_an_interrupted_search_goes_on_where_it_stopped(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"

    class Interrupted(Exception):
        pass

    class Breaking(TorchEngine):
        """Fails after some steps."""

        steps = 0

        def step(self) -> Any:
            self.steps += 1
            if self.steps > 3:
                raise Interrupted
            return super().step()

    settings: dict[str, Any] = {"sampling": Sampling(max_tokens=24), "journal": path}
    whole = run_search(model, PROMPTS, "majority_vote", sampling=Sampling(max_tokens=24))
    first = run_search(model, PROMPTS[:1], "majority_vote", **settings)
    with pytest.raises(Interrupted):
        run_search(model, PROMPTS, "majority_vote", engine=Breaking(model), **settings)
    engine = TorchEngine(model)
    again = run_search(model, PROMPTS, "majority_vote", engine=engine, **settings)
    for one, other in zip(whole, again, strict=True):
        assert isinstance(one, Selection) and isinstance(other, Selection)
        assert [c.ids for c in one.candidates] == [c.ids for c in other.candidates]
        assert one.num_tokens == other.num_tokens and one.answer == other.answer
    assert isinstance(first[0], Selection)
    assert engine.stats.generated_tokens <= sum(
        s.num_tokens for s in whole[1:] if isinstance(s, Selection)
    )


def test_a_journal_belongs_to_its_budget(model: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"journal": tmp_path / "calls.jsonl"}
    run_search(model, PROMPTS[:1], "sample", budget=2, **settings)
    with pytest.raises(ConfigError, match="another search"):
        run_search(model, PROMPTS[:1], "sample", budget=200, **settings)


def test_limits_are_checked() -> None:
    for name in ("max_tokens", "max_calls", "max_seconds"):
        with pytest.raises(ConfigError, match="search budget"):
            SearchLimits(**{name: 0})


def test_errors_of_settings_are_raised_and_others_are_results(model: Any) -> None:
    async def refused(prompt, ask) -> Any:
        raise ConfigError("wrong setting")

    async def broken(prompt, ask) -> Any:
        raise RuntimeError("oh")

    with pytest.raises(ConfigError, match="wrong setting"):
        run_search(model, PROMPTS, refused)
    results = run_search(model, PROMPTS, broken)
    assert [r.reason for r in results if isinstance(r, Failed)] == ["RuntimeError: oh"] * 3


def test_what_a_search_is_given(model: Any) -> None:
    given: dict[str, Any] = {}

    async def look(prompt, ask, extract, decode, encode, problem, render) -> Selection:
        given.update(locals())
        (candidate,) = await ask(prompt, max_tokens=3)
        (full,) = await ask((*prompt, *(5,) * 10_000))
        assert full.ids == () and not full.ended
        return Selection(candidate.text, None, 0, [candidate], 0)

    run_search(model, "3+4=", look)
    assert given["problem"] == "3+4=" and given["render"]("3+4=") == given["prompt"]
    assert given["decode"](given["encode"](" 12")).strip() == "12"
    assert given["extract"]("so 7") == "7" and given["ask"].sampling.max_tokens > 0
