"""Off-policy rollouts: what is rejected is as if it had been deleted, in numerator and
denominator; weights are factors on the gradient. Against plain padded forwards in float64.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain.averages import Averages
from posttrain.config import Component, CreditConfig
from posttrain.data.forest import Batch
from posttrain.inputs import ROLLOUTS
from posttrain.models.language_model import LanguageModel
from posttrain.sources.correction import corrections, without_rejected
from posttrain.sources.credit import Creditor
from posttrain.sources.rollouts import RolloutSource
from posttrain.training.objective import Objective
from posttrain.types import Example, Sample, Sampling, Trace, TraceGroup
from posttrain.world import World

MAX_LENGTH = 6


def model_of(seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=24, num_attention_heads=2, **sizes)
    return LanguageModel(LlamaForCausalLM(config).double(), None)  # type: ignore[arg-type]


def groups_of(model: LanguageModel, seed: int = 1) -> list[TraceGroup]:
    """Completions whose engine log-probs are off by noise, some by a lot."""
    draw = np.random.default_rng(seed)
    groups = []
    for number, sizes in enumerate([(4, 2, 6), (3, 5, 1)]):
        prompt = tuple(draw.integers(0, 24, 3 + number).tolist())
        traces = []
        for size in sizes:
            ids = draw.integers(0, 24, size).tolist()
            own = logprobs_of(model, prompt, ids).detach().numpy()
            reported = (own + draw.normal(0, 0.8, size)).tolist()
            sample = Sample(ids, reported, reported, "stop")
            reward = float(draw.normal())
            traces.append(Trace.of_sample(prompt, sample, "", {"r": reward}, reward))
        groups.append(TraceGroup(Example(""), prompt, traces))
    return groups


def logprobs_of(model: LanguageModel, prompt: tuple[int, ...], ids: list[int]) -> Tensor:
    """Log-probs [T] of a completion, by a forward pass of its own."""
    logits = model.hf(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)]


def gradients(
    model: LanguageModel,
    groups: list[TraceGroup],
    credit: CreditConfig,
    aggregation: str,
    max_tokens: int = 10**6,
    **loss: Any,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Gradients and metrics of a step, by source and objective."""
    creditor = Creditor(
        Component("group_mean"),
        credit,
        asked=("old_logprobs", "advantages"),
        reward_weights={"r": 1.0},
        token_text=lambda i: "",
    )
    collector: Any = SimpleNamespace(
        sampling=Sampling(),
        seed=0,
        given_steps=0,
        world=World.alone(),
        collect=lambda step: groups,
        metrics=lambda *_: Averages(),
    )
    source = RolloutSource(collector, model=model, credit=creditor, max_tokens=max_tokens)
    objective = Objective(
        [Component("clipped", {"clip_low": 0.2, **loss})],
        aggregation=aggregation,  # type: ignore[arg-type]
        max_length=MAX_LENGTH,
        carries=ROLLOUTS,
    )
    model.hf.zero_grad()
    (batch,) = source.batches(0)
    totals = objective.denominators(batch)
    for micro in Batch.split(batch, max_tokens):
        outputs = model.forward(micro, objective.needs, temperature=1.0)
        value, _ = objective(outputs, micro, totals)
        model.backward(value)
    found = {n: p.grad.clone() for n, p in model.hf.named_parameters() if p.grad is not None}
    return found, source.metrics().means()


def reference(
    model: LanguageModel,
    groups: list[TraceGroup],
    kept: list[list[np.ndarray]],
    weights: list[list[np.ndarray]],
    aggregation: str,
    *,
    sequence_ratio: bool = False,
) -> dict[str, Tensor]:
    """Gradients of -sum w A r over the tokens that are there; r = pi / sg[pi]."""
    model.hf.zero_grad()
    sums, counts = [], []
    for group, masks, factors in zip(groups, kept, weights, strict=True):
        rewards = np.array([t.reward for t in group.traces])
        advantages = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
        for trace, mask, factor, advantage in zip(
            group.traces, masks, factors, advantages, strict=True
        ):
            if not mask.any():
                continue
            own = logprobs_of(model, group.prompt_ids, trace.sample.ids)[torch.tensor(mask)]
            difference = own - own.detach()
            if sequence_ratio:
                difference = difference.mean().expand(len(own))
            # Streams are float32.
            credit = torch.tensor((advantage * factor[mask]).astype(np.float32)).double()
            values = -difference.exp() * credit
            sums.append(values.sum())
            counts.append(len(own))
    if aggregation == "token_mean":
        loss = torch.stack(sums).sum() / sum(counts)
    elif aggregation == "sequence_mean":
        loss = torch.stack([s / n for s, n in zip(sums, counts, strict=True)]).mean()
    elif aggregation == "sequence_sum":
        loss = torch.stack(sums).mean()
    else:
        loss = torch.stack(sums).mean() / MAX_LENGTH
    loss.backward()
    return {n: p.grad.clone() for n, p in model.hf.named_parameters() if p.grad is not None}


def off_policy(
    model: LanguageModel, groups: list[TraceGroup], credit: CreditConfig
) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
    """Tokens that are kept and weights, computed from plain forwards."""
    old = [
        [logprobs_of(model, g.prompt_ids, t.sample.ids).detach().numpy() for t in g.traces]
        for g in groups
    ]
    engine = [[np.array(t.sample.engine_logprobs) for t in g.traces] for g in groups]
    every = [[np.ones(len(a), dtype=bool) for a in row] for row in old]
    kept = without_rejected(credit, {"logprobs": old}, engine, every, Averages())
    ones = [[np.ones(len(a)) for a in row] for row in old]
    if credit.importance_correction == "none":
        return kept, ones
    return kept, corrections(credit, old, engine, kept, Averages())


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    scale = max(float(x.abs().max()) for x in expected.values())
    for name, gradient in expected.items():
        # transformers' own attention takes its softmax in float32.
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=5e-7 * scale, msg=name)


REJECTIONS = {
    "token": CreditConfig(rejection="token_k1", rejection_max=0.8),
    "sequence": CreditConfig(rejection="sequence_mean_k3", rejection_max=0.35),
    "both": CreditConfig(
        rejection="token_k3",
        rejection_max=0.4,
        importance_correction="token_truncate",
        importance_clip_max=1.5,
        importance_normalize=True,
    ),
    "band": CreditConfig(
        importance_correction="token_mask", importance_clip_max=2.0, importance_clip_min=0.5
    ),
    "of sequences": CreditConfig(
        importance_correction="sequence_truncate", importance_normalize=True
    ),
}


@pytest.mark.parametrize("name", REJECTIONS)
@pytest.mark.parametrize(
    "aggregation", ["token_mean", "sequence_mean", "sequence_sum", "fixed_length"]
)
def test_rejected_tokens_are_as_if_deleted(name: str, aggregation: str) -> None:
    model, credit = model_of(), REJECTIONS[name]
    groups = groups_of(model)
    kept, weights = off_policy(model, groups, credit)
    total = sum(mask.size for row in kept for mask in row)
    num_kept = sum(int(mask.sum()) for row in kept for mask in row)
    found, metrics = gradients(model, groups, credit, aggregation)
    if credit.rejection != "none":
        assert 0 < num_kept < total
        assert metrics["sampling/rejected_tokens_ratio"] == pytest.approx(1 - num_kept / total)
        lost = sum(not mask.any() for row in kept for mask in row)
        assert metrics["sampling/rejected_completions_ratio"] == pytest.approx(lost / 6)
        assert lost > 0 or name != "sequence"
    assert_equal(found, reference(model, groups, kept, weights, aggregation))


def test_a_sequence_ratio_is_of_the_tokens_that_are_left() -> None:
    model, credit = model_of(), REJECTIONS["token"]
    groups = groups_of(model)
    kept, weights = off_policy(model, groups, credit)
    found, _ = gradients(model, groups, credit, "sequence_mean", level="sequence")
    expected = reference(model, groups, kept, weights, "sequence_mean", sequence_ratio=True)
    assert_equal(found, expected)


@pytest.mark.parametrize("name", REJECTIONS)
def test_micro_batches_padding_and_order_change_nothing(name: str) -> None:
    model, credit = model_of(), REJECTIONS[name]
    groups = groups_of(model)
    whole, metrics = gradients(model, groups, credit, "token_mean")
    cut, same = gradients(model, groups, credit, "token_mean", max_tokens=8)
    assert_equal(cut, whole)
    model.keep_unshared("a test of padded rows")
    padded, _ = gradients(model, groups[::-1], credit, "token_mean")
    assert_equal(padded, whole)
    assert same.keys() == metrics.keys()
    for key, value in metrics.items():
        assert same[key] == pytest.approx(value), key


def test_the_gradient_of_a_corrected_loss_by_finite_differences() -> None:
    """The weights are constants of the step: they are of its start, and carry no gradient."""
    model, credit = model_of(), REJECTIONS["both"]
    groups = groups_of(model)
    kept, weights = off_policy(model, groups, credit)
    found, _ = gradients(model, groups, credit, "token_mean")
    start = [
        [logprobs_of(model, g.prompt_ids, t.sample.ids).detach() for t in g.traces] for g in groups
    ]

    def loss() -> float:
        total, count = 0.0, 0
        for group, old, masks, factors in zip(groups, start, kept, weights, strict=True):
            rewards = np.array([t.reward for t in group.traces])
            advantages = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
            for g, trace in enumerate(group.traces):
                with torch.no_grad():
                    own = logprobs_of(model, group.prompt_ids, trace.sample.ids)
                ratio = (own - old[g]).exp().numpy()
                total += float(-(ratio * advantages[g] * factors[g])[masks[g]].sum())
                count += int(masks[g].sum())
        return total / count

    head, gradient = model.hf.lm_head.weight.detach(), found["lm_head.weight"]
    for index in gradient.abs().flatten().topk(5).indices.tolist():
        place = divmod(index, head.shape[1])
        step, before = 1e-4, float(head[place])
        head[place] = before + step
        above = loss()
        head[place] = before - step
        below = loss()
        head[place] = before
        assert (above - below) / (2 * step) == pytest.approx(float(gradient[place]), rel=1e-5)


def test_rejection_without_log_probs_of_the_engine_rejects_nothing() -> None:
    credit, averages = REJECTIONS["token"], Averages()
    counted = [[np.array([True, False])]]
    assert without_rejected(credit, {}, None, counted, averages) is counted
    nan = [[np.full(2, np.nan)]]
    old = [[np.array([-1.0, -2.0])]]
    kept = without_rejected(credit, {"logprobs": old}, nan, counted, averages)
    assert kept[0][0].tolist() == [True, False]


def test_a_step_of_which_all_is_rejected_has_no_gradient() -> None:
    model = model_of()
    credit = CreditConfig(rejection="sequence_max_k2", rejection_max=1e-9)
    found, metrics = gradients(model, groups_of(model), credit, "sequence_mean")
    assert metrics["sampling/rejected_tokens_ratio"] == 1
    assert all(not gradient.any() for gradient in found.values())
