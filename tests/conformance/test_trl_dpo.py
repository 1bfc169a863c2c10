"""DPO's losses beside TRL's DPOTrainer: value, gradient of every parameter and metrics on the same batch.

Runs in the environment of `make conformance`, where TRL is installed; skipped elsewhere.
"""

from __future__ import annotations

from typing import Any

import pytest

trl = pytest.importorskip("trl", reason="TRL is not installed; run `make conformance`")

ROWS = [
    {"prompt": "Q: 3+4\nA:", "chosen": " 7", "rejected": " 12 or so"},
    {"prompt": "Q: 10*2\nA: well", "chosen": " that is 20", "rejected": " 2"},
    {"prompt": "Q: 1+1\nA:", "chosen": " 2, surely", "rejected": " 3, surely"},
    {"prompt": "x", "chosen": " y", "rejected": " zzz"},
]
# our losses, TRL's settings; and where they are not only of the loss, our objective's settings
CASES: dict[str, tuple[Any, ...]] = {
    "sigmoid": ([{"name": "dpo", "beta": 0.3}], {"loss_type": "sigmoid", "beta": 0.3}),
    "sigmoid forward_kl": ([{"name": "dpo", "divergence": "forward_kl"}], {"f_divergence_type": "forward_kl"}),
    "sigmoid js": ([{"name": "dpo", "divergence": "js"}], {"f_divergence_type": "js_divergence"}),
    "sigmoid alpha": (
        [{"name": "dpo", "divergence": "alpha", "alpha": 0.5}],
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5},
    ),
    "hinge": (["hinge_dpo"], {"loss_type": "hinge"}),
    "ipo": (["ipo"], {"loss_type": "ipo"}),
    "exo_pair": ([{"name": "exo", "label_smoothing": 0.01}], {"loss_type": "exo_pair", "label_smoothing": 0.01}),
    "nca_pair": (["nca"], {"loss_type": "nca_pair"}),
    "robust": ([{"name": "robust_dpo", "label_smoothing": 0.2}], {"loss_type": "robust", "label_smoothing": 0.2}),
    "bco_pair": (["bco_pair"], {"loss_type": "bco_pair"}),
    "sppo_hard": (["sppo"], {"loss_type": "sppo_hard"}),
    "apo_zero": (["apo_zero"], {"loss_type": "apo_zero"}),
    "apo_down": (["apo_down"], {"loss_type": "apo_down"}),
    "discopop": ([{"name": "discopop", "beta": 0.1}], {"loss_type": "discopop"}),
    "sigmoid_norm": ([{"name": "dpo_norm", "beta": 0.1}], {"loss_type": "sigmoid_norm"}),
    "aot": (["aot"], {"loss_type": "aot"}),
    "aot smoothed": ([{"name": "aot", "label_smoothing": 0.1}], {"loss_type": "aot", "label_smoothing": 0.1}),
    "aot_unpaired": (["aot_unpaired"], {"loss_type": "aot_unpaired"}),
    "ld_alpha": (["dpo"], {"ld_alpha": 0.5}, {"tail_weight": 0.5}),
    "ld_alpha ipo": (["ipo"], {"loss_type": "ipo", "ld_alpha": 0.0}, {"tail_weight": 0.0}),
    "weighting": (["dpo"], {"use_weighting": True}, {"on_policy_weight": True}),
    # not with hinge, whose weighting TRL applies in place, so that its own backward pass fails
    "weighting ipo": (["ipo"], {"loss_type": "ipo", "use_weighting": True}, {"on_policy_weight": True}),
    "bco_pair + hinge": (
        ["bco_pair", {"name": "hinge_dpo", "weight": 0.5}], {"loss_type": ["bco_pair", "hinge"], "loss_weights": [1.0, 0.5]},
    ),
}  # fmt: skip


def theirs(policy: Any, reference: Any, settings: dict[str, Any], base: dict[str, Any], tokenizer: Any) -> Any:
    from datasets import Dataset

    config = trl.DPOConfig(per_device_train_batch_size=4, **base, **{"beta": 0.1, **settings})
    trainer = trl.DPOTrainer(
        model=policy, ref_model=reference, args=config, processing_class=tokenizer, train_dataset=Dataset.from_list(ROWS)
    )
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(ROWS))])
    policy.eval()
    loss = trainer.compute_loss(policy, batch)
    loss.backward()
    told = {k: sum(v) / len(v) for k, v in trainer._metrics["eval"].items() if v}
    return float(loss), {name: p.grad for name, p in policy.named_parameters()}, told


@pytest.mark.parametrize("case", CASES)
def test_value_gradient_and_metrics(
    case: str, peer_model: Any, peer_settings: Any, our_side: Any, assert_agree: Any, tiny_tokenizer: Any
) -> None:
    from posttrain.data.encode import encode_pairs
    from posttrain.data.forest import Batch, Tree
    from posttrain.recipe import component
    from posttrain.training.objective import Objective

    losses, settings, *modifiers = CASES[case]
    sequences = encode_pairs(ROWS, tiny_tokenizer).sequences
    objective = Objective(
        [component(x, "losses") for x in losses], roles=("chosen", "rejected"), accuracy=True, **dict(*modifiers)
    )
    batch = Batch([Tree.build(sequences[i : i + 2]) for i in range(0, len(sequences), 2)], whole=objective.whole)
    other = theirs(peer_model(), peer_model(perturbed=False), settings, peer_settings, tiny_tokenizer)
    told = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected")
    told = (*told, "mean_token_accuracy") if case in ("sigmoid", "hinge", "nca_pair") else ()
    assert_agree(our_side(batch, objective), other, told)
