"""Losses of pairs without a reference beside TRL's CPOTrainer and ORPOTrainer: value and gradient
of every parameter.

Runs in the environment of `make conformance`, where TRL is installed; skipped elsewhere.
Differences by intent: TRL adds the likelihood of the chosen side as a mean over all tokens of the
micro-batch (CPO) or over prompt and completion (ORPO); here it is `chosen_nll`, the mean over pairs
of each completion's own mean, so the contrasts are compared without it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("trl", reason="TRL is not installed; run `make conformance`")

ROWS = [
    {"prompt": "Q: 3+4\nA:", "chosen": " 7", "rejected": " 12 or so"},
    {"prompt": "Q: 10*2\nA: well", "chosen": " that is 20", "rejected": " 2"},
    {"prompt": "Q: 1+1\nA:", "chosen": " 2, surely", "rejected": " 3, surely"},
]
# our losses, TRL's trainer, TRL's settings
CASES: dict[str, tuple[list[Any], str, dict[str, Any]]] = {
    "cpo": ([{"name": "cpo", "beta": 0.2}], "CPO", {"loss_type": "sigmoid", "beta": 0.2}),
    "cpo smoothed": ([{"name": "cpo", "label_smoothing": 0.1}], "CPO", {"label_smoothing": 0.1}),
    "simpo": (
        [{"name": "simpo", "beta": 1.5, "gamma": 0.5}],
        "CPO",
        {"loss_type": "simpo", "beta": 1.5, "simpo_gamma": 0.5},
    ),
    "alphapo": (
        [{"name": "alphapo", "beta": 1.5, "gamma": 0.5, "alpha": 0.25}],
        "CPO",
        {"loss_type": "simpo", "beta": 1.5, "simpo_gamma": 0.5, "alpha": 0.25},
    ),
    "orpo": ([{"name": "orpo", "beta": 0.3}], "ORPO", {"beta": 0.3}),
}


def _padded(sequences: list[Any], side: str) -> dict[str, torch.Tensor]:
    width = max(len(s.ids) for s in sequences)
    pad = [(0, width - len(s.ids)) for s in sequences]
    return {
        f"{side}_input_ids": torch.tensor(
            np.stack([np.pad(s.ids, p) for s, p in zip(sequences, pad)])
        ),
        f"{side}_attention_mask": torch.tensor(
            np.stack([np.pad(np.ones_like(s.ids), p) for s, p in zip(sequences, pad)])
        ),
        f"{side}_labels": torch.tensor(
            np.stack(
                [
                    np.pad(np.where(s.loss_mask, s.ids, -100), p, constant_values=-100)
                    for s, p in zip(sequences, pad)
                ]
            )
        ),
    }


def theirs(
    policy: Any,
    sequences: list[Any],
    kind: str,
    settings: dict[str, Any],
    base: dict[str, Any],
    tokenizer: Any,
) -> Any:
    from datasets import Dataset
    from trl.experimental import cpo, orpo

    config_class, trainer_class = {
        "CPO": (cpo.CPOConfig, cpo.CPOTrainer),
        "ORPO": (orpo.ORPOConfig, orpo.ORPOTrainer),
    }[kind]
    base = {k: v for k, v in base.items() if k != "activation_checkpointing"}
    config = config_class(
        per_device_train_batch_size=3,
        max_length=64,
        gradient_checkpointing=False,
        **base,
        **settings,
    )
    trainer = trainer_class(
        model=policy, args=config, processing_class=tokenizer, train_dataset=Dataset.from_list(ROWS)
    )
    policy.eval()
    batch = {**_padded(sequences[::2], "chosen"), **_padded(sequences[1::2], "rejected")}
    chosen, rejected = trainer.concatenated_forward(policy, batch)[:2]
    loss = (
        trainer.cpo_loss(chosen, rejected)[0].mean()
        if kind == "CPO"
        else -trainer.odds_ratio_loss(chosen, rejected)[0].mean()
    )
    loss.backward()
    return float(loss.detach()), {name: p.grad for name, p in policy.named_parameters()}, {}


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient(
    case: str,
    peer_model: Any,
    peer_settings: Any,
    our_side: Any,
    assert_agree: Any,
    tiny_tokenizer: Any,
) -> None:
    from posttrain.data.comparisons import encode_pairs
    from posttrain.data.forest import Batch, Tree
    from posttrain.recipe import component
    from posttrain.training.objective import Objective

    losses, kind, settings = CASES[case]
    sequences = encode_pairs(ROWS, tiny_tokenizer).sequences
    objective = Objective([component(x, "losses") for x in losses], roles=("chosen", "rejected"))
    batch = Batch(
        [Tree.build(sequences[i : i + 2]) for i in range(0, len(sequences), 2)],
        whole=objective.whole,
    )
    other = theirs(peer_model(), sequences, kind, settings, peer_settings, tiny_tokenizer)
    assert_agree(our_side(batch, objective), other)
