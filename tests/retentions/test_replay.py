"""Replay: the share of each batch, which stages it comes from, and exact averages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from stage_rows import ROWS

import posttrain as pt
from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.models.loaded import LoadedModel
from posttrain.registry import retentions
from posttrain.retentions.base import MAX_TOKENS
from posttrain.retentions.replay import share_of
from posttrain.training.plan import Learner


def replayed(plan: Any, model: LanguageModel) -> Any:
    return plan.prepare(LoadedModel(model), 0, None).source(Learner(model, None, MAX_TOKENS))


def test_the_first_stage_replays_nothing(
    model: LanguageModel, stage_of: Callable[..., Any]
) -> None:
    stage = stage_of(model, 0)
    assert retentions.get("replay")().begin(stage) is stage.plan
    assert retentions.get("naive")().begin(stage) is stage.plan


def test_each_batch_holds_the_share(model: LanguageModel, stage_of: Callable[..., Any]) -> None:
    stage = stage_of(model, 2)
    source = replayed(retentions.get("replay")(share=0.4).begin(stage), model)
    texts = {tuple(s.ids) for s in _sequences(stage.plan, model)}
    earlier: set[int] = set()
    for step in range(6):
        (batch,) = source.batches(step)
        own = [t for t in batch.trees if tuple(t.sequences[0].ids) in texts]
        assert batch.num_trees - len(own) == 2  # 2 of 5 are .4
        for place, plan in enumerate(stage.earlier):
            of_it = {tuple(s.ids) for s in _sequences(plan, model)}
            earlier |= {place for t in batch.trees if tuple(t.sequences[0].ids) in of_it}
    assert earlier == {0, 1}
    list(source.batches(0))
    assert source.metrics().means()["replay/share"] == pytest.approx(0.4)


def _sequences(plan: Any, model: LanguageModel) -> list[Any]:
    source = plan.prepare(LoadedModel(model), 0, None).source(Learner(model, None, MAX_TOKENS))
    return [s for group in source.groups for s in group]


def test_the_order_is_a_function_of_the_step(
    model: LanguageModel, stage_of: Callable[..., Any]
) -> None:
    make = retentions.get("replay")(share=0.4)
    one, two = (replayed(make.begin(stage_of(model, 2)), model) for _ in range(2))
    list(one.batches(0))
    for step in (3, 1):
        (a,), (b,) = one.batches(step), two.batches(step)
        assert [list(t.sequences[0].ids) for t in a.trees] == [
            list(t.sequences[0].ids) for t in b.trees
        ]


def test_a_buffer_keeps_the_first_rows(model: LanguageModel, stage_of: Callable[..., Any]) -> None:
    stage = stage_of(model, 1)
    source = replayed(retentions.get("replay")(share=0.4, buffer_size=1).begin(stage), model)
    first = _sequences(pt.sft(ROWS[0][:1]), model)[0]
    for step in range(3):
        (batch,) = source.batches(step)
        assert any(list(t.sequences[0].ids) == list(first.ids) for t in batch.trees)
        assert batch.num_trees == 3 + 1  # the buffer holds one row


def test_general_rows_are_replayed_from_the_first_stage_on(
    model: LanguageModel, stage_of: Callable[..., Any], tmp_path: Any
) -> None:
    file = tmp_path / "general.jsonl"
    file.write_text('{"prompt": "g", "completion": "h"}\n')
    make = retentions.get("replay")(share=0.25, rows=str(file))
    (batch,) = replayed(make.begin(stage_of(model, 0)), model).batches(0)
    assert batch.num_trees == 4


def test_a_step_averages_over_own_and_replayed_targets(
    model: LanguageModel, stage_of: Callable[..., Any]
) -> None:
    """One update on the joined batch is that on its rows in one data set."""
    stage = stage_of(model, 1)
    plan = retentions.get("replay")(share=0.4).begin(stage)
    (batch,) = replayed(plan, model).batches(0)
    totals = plan.objective.denominators(batch)
    joined = 0.0
    for micro in batch.split(16):
        loss, _ = plan.objective(model.forward(micro, plan.objective.needs), micro, totals)
        joined += float(loss.detach())
    logprobs = [
        model.forward(part, frozenset({"logprobs"}))["logprobs"].detach()
        for part in batch.split(None)
    ]
    plain = -float(sum(x.sum() for x in logprobs)) / batch.num_targets
    assert joined == pytest.approx(plain, rel=1e-5)


def test_stages_of_other_losses_are_refused(model: LanguageModel) -> None:
    from posttrain.retentions.base import Stage

    pairs = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    stage = Stage(1, "pairs", pt.dpo(pairs), model, (pt.sft(ROWS[0]),), 0, {})
    with pytest.raises(ConfigError):
        retentions.get("replay")().begin(stage)


@pytest.mark.parametrize("settings", [{"share": 0.0}, {"share": 1.0}, {"buffer_size": 0}])
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        retentions.get("replay")(**settings)


def test_shares_are_of_the_whole_batch() -> None:
    assert [share_of(16, s) for s in (0.01, 0.1, 0.5)] == [1, 2, 16]
