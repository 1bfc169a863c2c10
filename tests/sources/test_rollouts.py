"""What a step's rollouts become before they are trained on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain.config import Component, CreditConfig
from posttrain.data.forest import TokenSequence
from posttrain.models.language_model import LanguageModel
from posttrain.sources.credit import Creditor
from posttrain.sources.rollouts import RolloutSource, measure
from posttrain.types import Example, Sample, Sampling, Trace, TraceGroup
from posttrain.world import World


def test_old_log_probs_are_without_dropout_at_the_temperature_of_sampling() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=24,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        attention_dropout=0.5,
    )
    model = LanguageModel(LlamaForCausalLM(config), None)  # type: ignore[arg-type]
    model.keep_unshared("dropout")
    ids = [np.array([1, 2, 3, 4]), np.array([1, 2, 5])]
    first, second = (TokenSequence(x, np.arange(len(x)) >= 2) for x in ids)
    model.train()
    found = measure(model, [[[first], []], [[second]]], ["logprobs"], 2.0, 1000)["logprobs"]
    assert model.hf.training and len(found[0][1]) == 0
    model.eval()
    for x, numbers in zip(ids, (found[0][0], found[1][0]), strict=True):
        logits = model.hf(torch.tensor(x)[None]).logits[0].detach() / 2.0
        expected = logits.log_softmax(-1)[torch.arange(1, len(x) - 1), torch.tensor(x[2:])]
        np.testing.assert_allclose(numbers, expected, rtol=1e-5)


def test_a_completion_that_is_masked_has_no_reward() -> None:
    """Losses that compare log-probs of completions would take one without targets for certain."""

    def trace(token: int, reason: Any, reward: float) -> Trace:
        return Trace.of_sample(
            (1,), Sample([token], [0.0], [0.0], reason), "", {"r": reward}, reward
        )

    traces = [trace(3, "stop", 1.0), trace(4, "length", 0.0)]
    groups = [TraceGroup(Example(""), (1, 2), traces)]
    told: dict[str, Any] = {"collect": lambda step: groups, "metrics": lambda *_: _Told()}
    world = World.alone()
    told = {"sampling": Sampling(), "seed": 0, "given_steps": 0, "world": world, **told}
    collector: Any = SimpleNamespace(**told)
    credit = Creditor(
        Component("group_mean"),
        CreditConfig(),
        asked=(),
        reward_weights={"r": 1.0},
        token_text=lambda i: "",
    )
    source = RolloutSource(collector, model=None, credit=credit, mask_truncated=True)
    (batch,) = source.batches(0)
    assert batch.num_targets == 1
    assert batch.trees[0].values["reward"] == pytest.approx([1.0, np.nan], nan_ok=True)


class _Told:
    def merge(self, other: Any) -> None:
        """Nothing is told here."""
