"""The loss of reward models beside TRL's RewardTrainer: value, gradient of every parameter and
metrics on the same pairs.

Runs in the environment of `make conformance`, where TRL is installed; skipped elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

trl = pytest.importorskip("trl", reason="TRL is not installed; run `make conformance`")

CHOSEN = [[0, 5, 6, 7, 1], [0, 8, 9, 1], [0, 5, 6, 20, 21, 22, 1]]
REJECTED = [[0, 5, 6, 8, 9, 4, 1], [0, 8, 7, 1], [0, 5, 6, 20, 3, 1]]
MARGINS = [0.3, 0.0, 1.2]


@pytest.fixture
def scored_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A sequence classification model with weights that are not zero anywhere."""
    from posttrain.models.load import load_score_model

    model = load_score_model(tiny_folder)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        model.score_head.weight.normal_(std=0.3, generator=generator)  # type: ignore[operator]
    model.save(tmp_path / "scored")
    return tmp_path / "scored"


@pytest.mark.parametrize(
    ("centring", "margins"), [(0.0, False), (0.01, False), (0.0, True), (0.2, True)]
)
def test_value_gradient_and_metrics(
    centring: float,
    margins: bool,
    scored_folder: Path,
    peer_settings: Any,
    our_side: Any,
    assert_agree: Any,
    tiny_tokenizer: Any,
) -> None:
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification

    from posttrain.config import Component
    from posttrain.data.forest import Batch, TokenSequence, Tree
    from posttrain.models.load import load_score_model
    from posttrain.training.objective import Objective

    policy = AutoModelForSequenceClassification.from_pretrained(
        scored_folder, dtype="float32"
    ).eval()
    config = trl.RewardConfig(center_rewards_coefficient=centring or None, **peer_settings)
    rows = Dataset.from_list([{"chosen": "a b", "rejected": "a c"}] * 3)
    trainer = trl.RewardTrainer(
        model=policy, args=config, processing_class=tiny_tokenizer, train_dataset=rows
    )
    policy.eval()
    sides = [*CHOSEN, *REJECTED]
    width = max(map(len, sides))
    pad = policy.config.pad_token_id
    inputs: dict[str, Any] = {
        "input_ids": torch.tensor([x + [pad] * (width - len(x)) for x in sides]),
        "attention_mask": torch.tensor([[1] * len(x) + [0] * (width - len(x)) for x in sides]),
    }
    if margins:
        inputs["margin"] = torch.tensor(MARGINS)
    loss = trainer.compute_loss(policy, inputs)
    loss.backward()
    told = {k: sum(v) / len(v) for k, v in trainer._metrics["eval"].items() if v}
    theirs = (float(loss.detach()), {n: p.grad for n, p in policy.named_parameters()}, told)

    trees = []
    for pair in zip(CHOSEN, REJECTED, MARGINS):
        both = [
            TokenSequence(
                np.array(x),
                np.arange(len(x)) == len(x) - 1,
                values={"margin": pair[2] if margins else 0.0},
            )
            for x in pair[:2]
        ]
        trees.append(Tree.build(both, min_shared=1))
    objective = Objective(
        [Component("bradley_terry", {"centring_weight": centring})], roles=("chosen", "rejected")
    )
    ours = our_side(
        Batch(trees, whole=objective.whole),
        objective,
        max_tokens=9,
        model=load_score_model(scored_folder),
    )
    assert_agree(ours, theirs, ("mean_reward", "accuracy", "margin"))
