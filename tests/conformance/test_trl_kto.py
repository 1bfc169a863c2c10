"""Losses of single completions beside TRL's KTOTrainer: value, gradient of every parameter and
metrics on the same rows.

Runs in the environment of `make conformance`, where TRL is installed; skipped elsewhere. The
estimate of KL(pi || ref) is TRL's of its own mismatched completions, which both losses are given;
how it is made here is tested in tests/methods.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

trl = pytest.importorskip("trl", reason="TRL is not installed; run `make conformance`")

ROWS = [
    {"prompt": "Q: 3+4\nA:", "completion": " 7", "label": True},
    {"prompt": "Q: 10*2\nA: well", "completion": " that is 2", "label": False},
    {"prompt": "Q: 1+1\nA:", "completion": " 2, surely", "label": True},
    {"prompt": "x", "completion": " y", "label": False},
]
# our loss, TRL's settings
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "kto": ({"name": "kto", "beta": 0.3}, {"loss_type": "kto", "beta": 0.3}),
    "kto weighted": (
        {"name": "kto", "desirable_weight": 1.0, "undesirable_weight": 0.5},
        {"desirable_weight": 1.0, "undesirable_weight": 0.5},
    ),
    "apo_zero_unpaired": ({"name": "apo_zero_unpaired"}, {"loss_type": "apo_zero_unpaired"}),
}


@pytest.mark.parametrize("case", CASES)
def test_value_gradient_and_metrics(
    case: str,
    peer_model: Any,
    peer_settings: Any,
    our_side: Any,
    assert_agree: Any,
    tiny_tokenizer: Any,
) -> None:
    from datasets import Dataset

    from posttrain.data.forest import Batch, TokenSequence, Tree
    from posttrain.recipe import component
    from posttrain.training.objective import Objective

    loss, settings = CASES[case]
    policy = peer_model()
    config = trl.KTOConfig(per_device_train_batch_size=4, **peer_settings, **settings)
    trainer = trl.KTOTrainer(
        model=policy,
        ref_model=peer_model(perturbed=False),
        args=config,
        processing_class=tiny_tokenizer,
        train_dataset=Dataset.from_list(ROWS),
    )
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(len(ROWS))])
    policy.eval()
    value = trainer.compute_loss(policy, dict(inputs))
    value.backward()
    told = {k: sum(v) / len(v) for k, v in trainer._metrics["eval"].items() if v}
    theirs = (float(value.detach()), {n: p.grad for n, p in policy.named_parameters()}, told)

    sequences = []
    for ids, seen, trained, label in zip(
        *(inputs[k] for k in ("input_ids", "attention_mask", "completion_mask", "label"))
    ):
        keep = np.asarray(seen, dtype=bool)
        values = {"label": float(label), "kl": told["kl"]}
        sequences.append(
            TokenSequence(
                np.asarray(ids)[keep], np.asarray(trained, dtype=bool)[keep], values=values
            )
        )
    objective = Objective([component(loss, "losses")])
    ours = our_side(Batch([Tree.build([s]) for s in sequences], whole=objective.whole), objective)
    assert_agree(ours, theirs, ("rewards/chosen", "rewards/rejected"))
