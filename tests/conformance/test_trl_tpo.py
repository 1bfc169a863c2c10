"""Triple preference optimisation beside TRL's TPOTrainer: value and gradient of every parameter on
the same triples.

Runs in the environment of `make conformance`, where TRL is installed; skipped elsewhere. TRL
averages the likelihood of the third text over all tokens of the micro-batch, `gold_nll` over the
triples; the rows have third texts of one length, where the two are the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("trl", reason="TRL is not installed; run `make conformance`")

TRIPLES = [  # prompt, chosen, rejected, reference
    ([0, 5, 6], [7, 8, 1], [9, 1], [10, 11, 12, 1]),
    ([0, 5], [13, 1], [14, 15, 16, 1], [17, 18, 19, 1]),
    ([0, 20, 21], [22, 23, 1], [22, 24, 1], [25, 26, 27, 1]),
]
# our contrast, weight of gold_nll, TRL's settings
CASES: dict[str, tuple[dict[str, Any], float, dict[str, Any]]] = {
    "sigmoid": ({"name": "tpo", "beta": 0.2}, 1.0, {"loss_type": "sigmoid", "beta": 0.2}),
    "hinge": (
        {"name": "tpo", "form": "hinge", "beta": 0.05},
        0.5,
        {"loss_type": "hinge", "beta": 0.05, "tpo_alpha": 0.5},
    ),
    "ipo": ({"name": "tpo", "form": "ipo", "beta": 0.3}, 1.0, {"loss_type": "ipo", "beta": 0.3}),
    "tpo-l": (
        {"name": "tpo", "form": "length", "beta": 1.2, "gamma": 0.5},
        1.0,
        {"loss_type": "tpo-l", "beta": 1.2, "tpo_l_gamma": 0.5},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient(
    case: str,
    peer_model: Any,
    peer_settings: Any,
    our_side: Any,
    assert_agree: Any,
    tiny_tokenizer: Any,
) -> None:
    from datasets import Dataset
    from trl.experimental import tpo

    from posttrain.data.forest import Batch, TokenSequence, Tree
    from posttrain.recipe import component
    from posttrain.training.objective import Objective

    loss, weight, settings = CASES[case]
    policy = peer_model()
    names = ("prompt_ids", "chosen_ids", "rejected_ids", "reference_ids")
    rows = [dict(zip(names, triple)) for triple in TRIPLES]
    texts = Dataset.from_list(
        [{"prompt": "a", "chosen": "b", "rejected": "c", "reference": "d"}] * 3
    )
    config = tpo.TPOConfig(per_device_train_batch_size=3, **peer_settings, **settings)
    trainer = tpo.TPOTrainer(
        model=policy, args=config, processing_class=tiny_tokenizer, train_dataset=texts
    )
    policy.eval()
    value = trainer.compute_loss(policy, trainer.data_collator(rows))
    value.backward()
    theirs = (float(value.detach()), {n: p.grad for n, p in policy.named_parameters()}, {})

    trees = []
    for prompt, *texts in TRIPLES:
        sequences = [
            TokenSequence(np.array(prompt + t), np.arange(len(prompt + t)) >= len(prompt))
            for t in texts
        ]
        trees.append(Tree.build(sequences))
    gold = component({"name": "gold_nll", "weight": weight}, "losses")
    objective = Objective([component(loss, "losses"), gold], roles=("chosen", "rejected", "gold"))
    assert_agree(our_side(Batch(trees, whole=objective.whole), objective), theirs)
