"""Functions of the package called by hand: wrong settings are refused where they are written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import posttrain as pt
from posttrain import checked, registry
from posttrain.errors import ConfigError
from posttrain.training.settings import TrainingSettings

QUIET = Console(quiet=True)
ROWS = [{"prompt": f"{a}+2=", "completion": f" {a + 2}"} for a in range(4)]
SUMS = torch.full((2,), -10.0)
DPO = (SUMS, SUMS - 2, SUMS - 1, SUMS - 1)


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: pt.sft(ROWS, lr_scheduler_type="linaer"), ["lr_scheduler_type", "'linear'"]),
        (lambda: pt.sft(ROWS, learning_rate="1e-3"), ["learning_rate", "'1e-3'"]),
        (lambda: pt.sft(ROWS, batch_size=2.5), ["batch_size", "2.5"]),
        (lambda: pt.sft(ROWS, lerning_rate=1e-3), ["lerning_rate", "'learning_rate'"]),
        (lambda: pt.sft(ROWS, weight_decay=0.1), ["weight_decay", "pt.fit"]),
        (lambda: pt.sft(ROWS, max_steps=3), ["max_steps", "steps=..."]),
        (lambda: pt.sft(ROWS, max_length=3), ["max_length", "pt.Data"]),
        (lambda: pt.sft(rows=ROWS), ["rows", "'data'"]),
        (lambda: pt.grpo("arithmetic", temperature=0.5), ["pt.Sampling(temperature=...)"]),
        (lambda: pt.grpo("arithmetic", mask_truncated="yes"), ["mask_truncated", "'yes'"]),
        (lambda: pt.grpo("arithmetic", sampling={"top": 1}), ["top", "top_p"]),
        (lambda: pt.self_training("arithmetic", num_train_epochs=2), ["num_train_epochs"]),
        (lambda: pt.offline(ROWS, baseline="promt"), ["baseline", "'prompt'"]),
        (lambda: pt.loss.dpo(*DPO, bta=0.2), ["bta", "'beta'"]),
        (lambda: pt.loss.dpo(*DPO, divergence="forward"), ["divergence", "forward"]),
        (lambda: pt.reward.length(["a"], targt=2), ["targt", "'target'"]),
        (lambda: pt.reward.length(["a"], target="two"), ["target", "'two'"]),
        (lambda: pt.task.arithmetic(num_stepz=2), ["num_stepz", "'num_steps'"]),
        (lambda: pt.majority_vote(num_sample=2), ["num_sample", "'num_samples'"]),
        (lambda: pt.Sampling(max_token=8), ["Sampling", "'max_tokens'"]),
        (lambda: pt.Sampling(temperature="hot"), ["Sampling.temperature", "'hot'"]),
        (lambda: pt.LoRA(init="piss"), ["LoRA.init", "'pissa'"]),
        (lambda: fit(steps=0), ["steps", "0"]),
        (lambda: fit(steps=-1), ["steps", "-1"]),
        (lambda: fit(steps="3"), ["steps", "'3'"]),
        (lambda: fit(seed=-1), ["seed", "-1"]),
        (lambda: fit(save_every="x"), ["save_every", "'x'"]),
        (lambda: fit(learning_rate=1e-3), ["learning_rate", "pt.sft"]),
        (lambda: fit(max_steps=3), ["max_steps", "'steps'"]),
        (lambda: pt.fit("embedded", ROWS), ["plan"]),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_setting_is_named(call: Callable[[], Any], names: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        call()
    assert all(name in str(error.value) for name in names), str(error.value)


def fit(**settings: Any) -> pt.Result:
    return pt.fit("embedded", pt.sft(ROWS), **{"steps": 1, "console": QUIET, **settings})


def test_what_loses_nothing_is_converted() -> None:
    plan = pt.grpo(
        "arithmetic", batch_size=np.int64(2), sampling={"max_tokens": 4}, learning_rate=1
    )
    assert plan.settings["sampling"] == pt.Sampling(max_tokens=4)
    assert type(plan.settings["batch_size"]) is int
    assert type(plan.settings["learning_rate"]) is float


def test_a_checked_function_is_the_function() -> None:
    losses, _ = pt.loss.dpo(*DPO, beta=0.3)
    inner, _ = checked.unchecked(pt.loss.dpo)(*DPO, beta=0.3)
    assert torch.equal(losses, inner)
    learnable = torch.tensor(0.3, requires_grad=True)
    pt.loss.dpo(*DPO, beta=learnable)[0].sum().backward()
    assert learnable.grad is not None
    # Training calls the function itself: its settings are checked once.
    bound = registry.losses.bind("dpo", {"beta": 0.3})
    assert bound.func is checked.unchecked(pt.loss.dpo)  # type: ignore[attr-defined]


def test_functions_of_users_stay_themselves() -> None:
    def mine(completions: Any, *, limit: int = 3) -> list[float]:
        return [float(len(c) <= limit) for c in completions]

    assert registry.Registry("reward", "rewards", "posttrain.rewards").register(mine) is mine


def test_the_settings_of_fit_are_all_known() -> None:
    fields = {field.name for field in dataclasses.fields(TrainingSettings)}
    assert fields < set(checked.OF_FIT)


def test_a_section_shows_its_public_name() -> None:
    assert repr(pt.Sampling(max_tokens=8, top_k=2)) == "Sampling(max_tokens=8, top_k=2)"
    assert repr(pt.LoRA()) == "LoRA()"
    assert repr(pt.Data("rows.jsonl")) == "Data(path='rows.jsonl')"


def test_losses_take_plain_numbers() -> None:
    losses, _ = pt.loss.dpo(-10.0, -12, [-11.0], ref_rejected=-11.0)
    assert torch.equal(losses, pt.loss.dpo(*(torch.tensor([x]) for x in (-10.0, -12, -11, -11)))[0])
    learnt = torch.tensor(-10.0, requires_grad=True)
    pt.loss.dpo(learnt, -12.0, -11.0, -11.0)[0].sum().backward()
    assert learnt.grad is not None
    with pytest.raises(ConfigError, match="ref_chosen"):
        pt.loss.dpo(-10.0, -12.0, ["a"], -11.0)


def test_sections_of_credit_and_sampling_are_read_from_dicts() -> None:
    plan = pt.ppo("arithmetic", credit={"kl_weight": 0.25}, sampling={"max_tokens": 7})
    assert plan.settings["credit"].kl_weight == 0.25
    assert plan.settings["sampling"].max_tokens == 7
    with pytest.raises(ConfigError, match="kl_weigth"):
        pt.ppo("arithmetic", credit={"kl_weigth": 0.25})
