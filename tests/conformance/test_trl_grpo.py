"""Policy-gradient losses beside TRL's GRPOTrainer: value, gradient of every parameter and metrics
on the same rollouts.

Runs in the environment of `make conformance`, where TRL is installed; skipped elsewhere. The grid
is TRL's 8 loss types at both levels of the ratio, without KL, with KL, and with KL weighted by the
ratio. Different by intent:
- TRL's KL term is by default weighted by the ratio (use_bias_correction_kl), which is the loss
`kl_corrected` here.
- TRL's CISPO caps the weight at epsilon_high, which is `clip_max` here (TRL's default of 0.2 is no
sensible cap).
- clip_ratio/* of a ratio of sequences is the share of tokens here, as at the other levels, and of
sequences in TRL.
- Not told here: clip_ratio/low_min and high_max, extremes over sequences; vespo/phi_seq_mean;
policy_loss, which is loss/NAME.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

trl = pytest.importorskip("trl", reason="TRL is not installed; run `make conformance`")

PROMPTS = [[0, 7, 9, 4], [0, 12]]
COMPLETIONS = [[[5, 6, 7, 1], [8, 9], [5, 6, 3, 3, 4, 1]], [[20, 21, 1], [22, 1], [23, 24, 25, 26]]]
ADVANTAGES = [[0.9, -1.1, 0.2], [-0.7, 1.3, -0.6]]
MAX_LENGTH = 8
CLIP = {"name": "clipped"}
CLIPPED = ("clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean")
# our loss and settings by its bound (how far a ratio may leave 1), our aggregation, TRL's settings
# by the same bound
LOSS_TYPES: dict[
    str, tuple[Callable[[float], dict[str, Any]], str, Callable[[float], dict[str, Any]]]
] = {
    **{
        name: (lambda b: {**CLIP, "clip_low": b}, aggregation, lambda b: {"epsilon": b})
        for name, aggregation in (
            ("grpo", "sequence_mean"),
            ("bnpo", "token_mean"),
            ("dr_grpo", "fixed_length"),
            ("luspo", "sequence_sum"),
        )
    },
    "dapo": (
        lambda b: {**CLIP, "clip_low": b, "clip_high": 1.4 * b},
        "token_mean",
        lambda b: {"epsilon": b, "epsilon_high": 1.4 * b},
    ),
    "cispo": (
        lambda b: {"name": "cispo", "clip_max": 1 + b / 2},
        "token_mean",
        lambda b: {"epsilon_high": 1 + b / 2},
    ),
    "sapo": (lambda b: {"name": "sapo"}, "sequence_mean", lambda b: {}),
    "vespo": (
        lambda b: {"name": "vespo"},
        "token_mean",
        lambda b: {},
    ),  # always of the sequence's whole ratio
}
CLIPPING = ("grpo", "bnpo", "dr_grpo", "luspo", "dapo")
BOUNDS = {"token": 0.1, "sequence": 0.02}
KL: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "no kl": ([], {}),
    "kl": ([{"name": "kl", "weight": 0.4}], {"beta": 0.4, "use_bias_correction_kl": False}),
    "corrected kl": ([{"name": "kl_corrected", "weight": 0.4}], {"beta": 0.4}),
}
# our losses, our aggregation, TRL's settings
CASES: dict[str, tuple[list[Any], str, dict[str, Any]]] = {
    "two-sided": (
        [{**CLIP, "clip_low": 0.05, "clip_max": 1.1}],
        "sequence_mean",
        {"loss_type": "grpo", "epsilon": 0.05, "delta": 1.1},
    ),
    "gmpo": ([{"name": "gmpo"}], "sequence_mean", {"trainer": "GMPO"}),
    "rloo": ([{**CLIP, "level": "sequence_sum"}], "sequence_mean", {"trainer": "RLOO"}),
    "entropy": (
        [CLIP, {"name": "entropy_bonus", "weight": 0.3, "aggregation": "token_mean"}],
        "sequence_mean",
        {"loss_type": "grpo", "entropy_coef": 0.3},
    ),
}


def _flat() -> list[tuple[list[int], list[int], float]]:
    return [
        (p, c, a) for p, cs, row in zip(PROMPTS, COMPLETIONS, ADVANTAGES) for c, a in zip(cs, row)
    ]


def _logprobs(model: Any) -> list[np.ndarray]:
    found = []
    for prompt, completion, _ in _flat():
        ids = torch.tensor([prompt + completion])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        found.append(
            torch.log_softmax(logits, -1).gather(1, ids[0, len(prompt) :, None])[:, 0].numpy()
        )
    return found


def _old(policy: Any) -> list[np.ndarray]:
    """Log-probs under a policy some updates ago, far enough for every kind of clipping to
    happen.
    """
    draw = np.random.default_rng(3)
    return [x + draw.normal(0, 0.2, len(x)).astype(np.float32) for x in _logprobs(policy)]


def _classes(kind: str) -> tuple[Any, Any]:
    if kind == "GMPO":
        from trl.experimental import gmpo

        return gmpo.GMPOConfig, gmpo.GMPOTrainer
    return getattr(trl, f"{kind}Config"), getattr(trl, f"{kind}Trainer")


def theirs(
    policy: Any, reference: Any, settings: dict[str, Any], base: dict[str, Any], tokenizer: Any
) -> Any:
    from datasets import Dataset

    settings = dict(settings)
    policy.eval().zero_grad()
    config_class, trainer_class = _classes(settings.pop("trainer", "GRPO"))
    config = config_class(
        per_device_train_batch_size=6,
        num_generations=3,
        max_completion_length=MAX_LENGTH,
        **base,
        **settings,
    )
    trainer = trainer_class(
        model=policy,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 6),
    )
    rows = _flat()
    width, before = max(len(c) for _, c, _ in rows), max(len(p) for p, _, _ in rows)

    def right(lists: list[Any], dtype: Any) -> torch.Tensor:
        return torch.stack(
            [torch.tensor(list(x) + [0] * (width - len(x)), dtype=dtype) for x in lists]
        )

    completions = [c for _, c, _ in rows]
    inputs = {
        "prompt_ids": torch.tensor([[0] * (before - len(p)) + p for p, _, _ in rows]),
        "prompt_mask": torch.tensor([[0] * (before - len(p)) + [1] * len(p) for p, _, _ in rows]),
        "completion_ids": right(completions, torch.int64),
        "completion_mask": right([[1] * len(c) for c in completions], torch.int64),
        "advantages": torch.tensor([a for _, _, a in rows]),
        "old_per_token_logps": right(_old(policy), torch.float32),
        "ref_per_token_logps": right(_logprobs(reference), torch.float32),
        "old_logps": torch.tensor([float(x.sum()) for x in _old(policy)]),
        "num_items_in_batch": torch.tensor(float(sum(map(len, completions)))),
    }
    loss = trainer._compute_loss(policy, inputs)
    loss.backward()
    told = {k: v[-1] for k, v in trainer._metrics["eval"].items() if v}
    return float(loss.detach()), {name: p.grad for name, p in policy.named_parameters()}, told


def batch(policy: Any) -> Any:
    from posttrain.data.forest import Batch, TokenSequence, Tree

    sequences = []
    for (prompt, completion, advantage), old in zip(_flat(), _old(policy)):
        mask = np.arange(len(prompt) + len(completion)) >= len(prompt)
        streams = {
            "advantages": np.full(len(mask), advantage),
            "old_logprobs": np.concatenate([np.zeros(len(prompt)), old]),
        }
        sequences.append(TokenSequence(np.array(prompt + completion), mask, streams))
    return Batch([Tree.build(sequences[:3]), Tree.build(sequences[3:])])


@pytest.fixture(scope="module")
def compare(
    peer_model: Any,
    peer_settings: Any,
    our_policy: Any,
    our_side: Any,
    assert_agree: Any,
    tiny_tokenizer: Any,
) -> Any:
    """compare(our losses, aggregation, TRL's settings, metrics): both sides agree; returns our
    metrics.
    """
    from posttrain.recipe import component
    from posttrain.training.objective import Objective

    policy, reference, model = peer_model(), peer_model(perturbed=False), our_policy(reference=True)
    rollouts = batch(policy)

    def check(
        losses: list[Any], aggregation: Any, settings: dict[str, Any], metrics: tuple[str, ...] = ()
    ) -> dict[str, float]:
        objective = Objective(
            [component(x, "losses") for x in losses], aggregation=aggregation, max_length=MAX_LENGTH
        )
        ours = our_side(rollouts, objective, model=model)
        assert_agree(
            ours,
            theirs(policy, reference, settings, peer_settings, tiny_tokenizer),
            (*metrics, "entropy"),
        )
        return ours[2]

    return check


@pytest.mark.parametrize("kl", KL)
@pytest.mark.parametrize("level", BOUNDS)
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_grid(loss_type: str, level: str, kl: str, compare: Any) -> None:
    ours, aggregation, peers = LOSS_TYPES[loss_type]
    leveled = {} if loss_type == "vespo" else {"level": level}
    terms, peers_kl = KL[kl]
    terms = [term | {"level": level} if term["name"] == "kl_corrected" else term for term in terms]
    settings = {
        "loss_type": loss_type,
        "importance_sampling_level": level,
        **peers(BOUNDS[level]),
        **peers_kl,
    }
    metrics = (("kl",) if terms else ()) + (
        CLIPPED if loss_type in CLIPPING and level == "token" else ()
    )
    told = compare([ours(BOUNDS[level]) | leveled, *terms], aggregation, settings, metrics)
    for name in ("clip_ratio/low_mean", "clip_ratio/high_mean", "cispo_clip_ratio"):
        assert 0 < told.get(name, 0.5) < 1  # else the case would not tell a bound from none


@pytest.mark.parametrize("case", CASES)
def test_beyond_the_grid(case: str, compare: Any) -> None:
    compare(*CASES[case])
