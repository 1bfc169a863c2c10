"""Fine-tuning losses beside TRL's SFTTrainer: tokens, mask, value, gradient of every parameter and
metrics.

Runs in the environment of `make conformance`, where TRL is installed; skipped elsewhere.
"""

from __future__ import annotations

from typing import Any

import pytest

trl = pytest.importorskip("trl", reason="TRL is not installed; run `make conformance`")

ROWS = [
    {"prompt": "Q: 3+4\nA:", "completion": " 7"},
    {"prompt": "Q: 10*2\nA: well", "completion": " that is 20"},
    {"prompt": "x", "completion": " y and z"},
]


@pytest.mark.parametrize("name", ["nll", "dft"])
def test_value_gradient_and_metrics(
    name: str,
    peer_model: Any,
    peer_settings: Any,
    our_side: Any,
    assert_agree: Any,
    tiny_tokenizer: Any,
) -> None:
    from datasets import Dataset

    from posttrain.config import Component
    from posttrain.data.encode import encode_rows
    from posttrain.data.forest import Batch, Tree
    from posttrain.training.objective import Objective

    policy = peer_model()
    trainer = trl.SFTTrainer(
        model=policy,
        args=trl.SFTConfig(loss_type=name, **peer_settings),
        processing_class=tiny_tokenizer,
        train_dataset=Dataset.from_list(ROWS),
    )
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(len(ROWS))])
    sequences = encode_rows(ROWS, tiny_tokenizer, max_length=64).sequences
    for sequence, ids, labels in zip(sequences, inputs["input_ids"], inputs["labels"]):
        assert sequence.ids.tolist() == ids[: len(sequence.ids)].tolist()
        assert sequence.loss_mask.tolist() == (labels[: len(sequence.ids)] != -100).tolist()
    policy.eval()
    loss = trainer.compute_loss(policy, inputs)
    loss.backward()
    told = {k: sum(v) / len(v) for k, v in trainer._metrics["eval"].items() if v}
    theirs = (float(loss), {n: p.grad for n, p in policy.named_parameters()}, told)
    objective = Objective([Component(name)], accuracy=True)
    ours = our_side(Batch([Tree.build([s]) for s in sequences]), objective)
    assert_agree(ours, theirs, ("mean_token_accuracy", "entropy"))
