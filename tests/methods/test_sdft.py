"""SDFT: nothing to learn without a demonstration; the divergence in float64; teachers that move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import posttrain as pt
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.errors import ConfigError, DataError
from posttrain.methods.sdft import demonstrated, demonstrated_task
from posttrain.models.language_model import LanguageModel
from posttrain.retentions.base import source_of

ROWS = [{"prompt": f"{i}+{i}=", "completion": f"{2 * i}"} for i in range(1, 7)]
SHORT: dict[str, Any] = {"batch_size": 3, "sampling": {"max_tokens": 6}}


@pytest.fixture
def model(tiny_folder: Path) -> LanguageModel:
    return pt.load(str(tiny_folder), dtype="float32")


def loss_of(
    model: LanguageModel, rows: Sequence[TokenSequence], needs: Any, objective: Any
) -> tuple[torch.Tensor, Mapping[str, float]]:
    batch = Batch([Tree.build([row]) for row in rows])
    (micro,) = batch.split(None)
    loss, metrics = objective(model.forward(micro, needs), micro, objective.denominators(batch))
    return loss, metrics.means()


def sampled(model: LanguageModel) -> tuple[Any, list[TokenSequence]]:
    plan = pt.sdft(ROWS, **SHORT)
    (batch,) = source_of(plan, model, 0).batches(0)
    model.enable_reference()
    return plan.objective, [s for tree in batch.trees for s in tree.sequences]


def test_without_a_demonstration_there_is_nothing_to_learn(model: LanguageModel) -> None:
    objective, rows = sampled(model)
    for row in rows:
        row.context = row.ids[: int(row.loss_mask.argmax())]
    loss, _ = loss_of(model, rows, objective.needs, objective)
    loss.backward()
    assert abs(float(loss.detach())) < 1e-7
    norms = [float(p.grad.abs().max()) for p in model.trainable_parameters() if p.grad is not None]
    assert max(norms) < 1e-6


def test_the_divergence_is_that_from_the_model_with_a_demonstration(model: LanguageModel) -> None:
    objective, rows = sampled(model)
    assert all(row.context is not None for row in rows)
    loss, metrics = loss_of(model, rows, objective.needs, objective)
    values = []
    for row in rows:
        assert row.context is not None
        first = int(row.loss_mask.argmax())
        count = len(row.ids) - first
        ids = torch.from_numpy(np.concatenate([row.context, row.ids[first:]]))[None]
        with torch.no_grad():
            theirs = torch.log_softmax(model.hf(input_ids=ids).logits[0].double(), -1)
            ours = model.hf(input_ids=torch.from_numpy(row.ids)[None]).logits[0].double()
            ours = torch.log_softmax(ours, -1)
        p, q = ours[-count - 1 : -1], theirs[-count - 1 : -1]
        values.append((p.exp() * (p - q)).sum(-1))
    expected = float(torch.cat(values).mean())
    assert expected > 1e-4
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-3)
    assert metrics["kl"] == pytest.approx(expected, rel=1e-3)


def test_the_teacher_reads_the_demonstration(model: LanguageModel) -> None:
    _, rows = sampled(model)
    by_id = {str(i): row for i, row in enumerate(ROWS)}
    for row in rows:
        text = model.tokenizer.decode(row.context)
        demonstration = by_id[row.row]["completion"]
        assert demonstration in text and by_id[row.row]["prompt"] in text
        assert demonstration not in model.tokenizer.decode(row.ids[: int(row.loss_mask.argmax())])


@pytest.mark.parametrize("rate", [0.0, 0.02, 1.0])
def test_a_teacher_that_moves_resumes_exactly(
    tmp_path: Path, tiny_folder: Path, rate: float
) -> None:
    plan = pt.sdft(ROWS, teacher_rate=rate, learning_rate=1e-2, **SHORT)
    whole = pt.fit(str(tiny_folder), plan, steps=4, output=tmp_path / "a", save_every=2)
    assert all(np.isfinite(row["loss"]) for row in whole.metrics[1:])
    pt.fit(str(tiny_folder), plan, steps=2, schedule_steps=4, output=tmp_path / "b", save_every=2)
    half = pt.fit(
        str(tiny_folder), plan, steps=4, schedule_steps=4, output=tmp_path / "b", resume=True
    )
    for a, b in zip(whole.model.hf.parameters(), half.model.hf.parameters(), strict=True):
        assert torch.equal(a, b)


def test_it_learns_what_the_demonstrations_say(model: LanguageModel) -> None:
    """The divergence from a teacher of the start falls."""
    plan = pt.sdft(ROWS, teacher_rate=0.0, learning_rate=5e-3, **{**SHORT, "batch_size": 6})
    result = pt.fit(model, plan, steps=30)
    kls = [row["kl"] for row in result.metrics if "kl" in row]
    assert np.mean(kls[-5:]) < 0.8 * np.mean(kls[:5])


def test_adapters_are_taken_over_whole(tiny_folder: Path) -> None:
    model = pt.load(str(tiny_folder), dtype="float32", lora=pt.LoRA(r=2))
    with pytest.raises(ConfigError):
        pt.fit(model, pt.sdft(ROWS, **SHORT), steps=1)
    pt.fit(model, pt.sdft(ROWS, teacher_rate=0.0, **SHORT), steps=1)


def test_a_conversation_shows_it_in_the_last_question() -> None:
    turns = [
        {"role": "user", "content": "a {b}"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    answer = [{"role": "assistant", "content": "e {f}"}]
    shown = demonstrated(turns, answer, "{prompt} | {demonstration}")
    assert [turn["content"] for turn in shown] == ["a {b}", "c", "d | e {f}"]
    rows = [{"messages": [*turns, *answer]}]
    (example,) = demonstrated_task(rows, None).examples
    assert example.prompt == turns and example.completion == answer


def test_wrong_calls_are_refused() -> None:
    for settings in (
        {"template": "{prompt}"},
        {"teacher_rate": 1.5},
        {"num_generations": 0},
        {"task": "sorting"},
    ):
        with pytest.raises(ConfigError):
            pt.sdft(ROWS, **settings)
    with pytest.raises(DataError):
        demonstrated_task([{"text": "no prompt"}], None)
    with pytest.raises(DataError):
        demonstrated_task([{"id": 1, **ROWS[0]}, {"id": 1, **ROWS[1]}], None)
    bare = pt.make_task([{"prompt": "a", "answer": "b"}])
    with pytest.raises(DataError):
        demonstrated_task(None, bare)
