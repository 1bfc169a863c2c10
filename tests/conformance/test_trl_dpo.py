"""DPO's losses beside TRL's DPOTrainer: value, gradient of every parameter and metrics on the same batch.

Runs in the environment of `make conformance`, where TRL is installed; skipped elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

trl = pytest.importorskip("trl", reason="TRL is not installed; run `make conformance`")

ROWS = [
    {"prompt": "Q: 3+4\nA:", "chosen": " 7", "rejected": " 12 or so"},
    {"prompt": "Q: 10*2\nA: well", "chosen": " that is 20", "rejected": " 2"},
    {"prompt": "Q: 1+1\nA:", "chosen": " 2, surely", "rejected": " 3, surely"},
    {"prompt": "x", "chosen": " y", "rejected": " zzz"},
]
# our losses, TRL's settings
CASES: dict[str, tuple[list[Any], dict[str, Any]]] = {
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
    "bco_pair + hinge": (
        ["bco_pair", {"name": "hinge_dpo", "weight": 0.5}], {"loss_type": ["bco_pair", "hinge"], "loss_weights": [1.0, 0.5]},
    ),
}  # fmt: skip


def perturb(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator))


def theirs(folder: Path, settings: dict[str, Any], output: Path) -> tuple[float, dict[str, torch.Tensor], dict[str, Any]]:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy, ref = (AutoModelForCausalLM.from_pretrained(folder, dtype="float32") for _ in range(2))
    perturb(policy)
    config = trl.DPOConfig(
        output_dir=str(output), use_cpu=True, bf16=False, report_to=[], per_device_train_batch_size=4,
        activation_checkpointing=False, disable_tqdm=True, **{"beta": 0.1, **settings},
    )  # fmt: skip
    trainer = trl.DPOTrainer(
        model=policy, ref_model=ref, args=config, processing_class=AutoTokenizer.from_pretrained(folder),
        train_dataset=Dataset.from_list(ROWS),
    )  # fmt: skip
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(ROWS))])
    policy.eval()
    loss = trainer.compute_loss(policy, batch)
    loss.backward()
    grads = {name: p.grad for name, p in policy.named_parameters()}
    told = {k: sum(v) / len(v) for k, v in trainer._metrics["eval"].items() if v}
    return float(loss), grads, told


def ours(folder: Path, losses: list[Any]) -> tuple[float, dict[str, torch.Tensor], dict[str, float]]:
    from posttrain.averages import Averages
    from posttrain.data.encode import encode_pairs
    from posttrain.data.forest import Batch, Tree
    from posttrain.models.load import load_model
    from posttrain.recipe import parse_recipe
    from posttrain.training.objective import Objective

    model = load_model(str(folder), dtype="float32", reference=True)
    perturb(model.hf)
    model.eval()
    sequences = encode_pairs(ROWS, model.tokenizer).sequences
    batch = Batch([Tree.build(sequences[i : i + 2]) for i in range(0, len(sequences), 2)], whole="tree")
    recipe = parse_recipe({"method": "dpo", "model": str(folder), "data": "pairs.jsonl", "losses": losses})
    objective = Objective(recipe.losses, roles=("chosen", "rejected"), accuracy=True)
    totals, value, metrics = objective.denominators(batch), 0.0, Averages()
    for micro in batch.split(40):  # several micro-batches, of which TRL knows nothing
        loss, told = objective(model.forward(micro, objective.needs), micro, totals)
        loss.backward()
        value += float(loss.detach())
        metrics.merge(told)
    return value, {name: p.grad for name, p in model.hf.named_parameters()}, metrics.means()


@pytest.mark.parametrize("case", CASES)
def test_value_gradient_and_metrics(case: str, tiny_folder: Path, tmp_path: Path) -> None:
    losses, settings = CASES[case]
    their_loss, their_grads, their_metrics = theirs(tiny_folder, settings, tmp_path)
    our_loss, our_grads, our_metrics = ours(tiny_folder, losses)
    assert our_loss == pytest.approx(their_loss, rel=1e-5, abs=1e-5)
    assert our_grads.keys() == their_grads.keys()
    largest = max(float(g.abs().max()) for g in their_grads.values())
    for name, gradient in their_grads.items():
        torch.testing.assert_close(our_grads[name], gradient, rtol=1e-4, atol=1e-5 * max(largest, 1.0), msg=name)
    if case in ("sigmoid", "hinge", "nca_pair"):
        told = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected")
        for name in (*told, "mean_token_accuracy"):
            assert our_metrics[name] == pytest.approx(their_metrics[name], rel=1e-5, abs=1e-5), name
