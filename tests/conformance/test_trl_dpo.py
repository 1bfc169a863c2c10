"""DPO's losses beside TRL's DPOTrainer: value, gradient of every parameter and metrics on the same
batch.

Runs in the environment of `make conformance`, where TRL is installed; skipped elsewhere. The grid
is TRL's 15 loss types under its 4 divergences. Different by intent:
- Seven loss types hold a single completion's log-ratio to a number (or sort the two sides apart),
where a divergence's unknown
  constant of the prompt would stay: both sides refuse a divergence there (`REFUSED`).
- ipo and sigmoid_norm compare means a token, and the rewards told here are those; TRL tells sums.
- sft is the mean over all chosen tokens in TRL and over pairs here (`chosen_nll`), which are the
same where the chosen
  completions are equally long, as in its rows; being no preference it tells no rewards.
- Label smoothing of sigmoid (conservative DPO) is here alone; TRL reads label_smoothing for
exo_pair, robust, aot, aot_unpaired.
- Weighting with hinge has no case: TRL multiplies the hinge in place, so that its own backward pass
fails.
- Not told here: logits/chosen, logits/rejected, means of raw numbers that a shift of all logits
changes.
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
EQUAL_ROWS = [row | {"chosen": row["chosen"][:2]} for row in ROWS]  # as long as each other, for sft

# TRL's loss type: our loss, and settings that both sides share under one name
LOSS_TYPES: dict[str, tuple[str, dict[str, Any]]] = {
    "sigmoid": ("dpo", {"beta": 0.3}),
    "sigmoid_norm": ("dpo_norm", {"beta": 1.5}),
    "hinge": ("hinge_dpo", {"beta": 0.1}),
    "ipo": ("ipo", {"beta": 0.1}),
    "exo_pair": ("exo", {"beta": 0.1, "label_smoothing": 0.01}),
    "robust": ("robust_dpo", {"beta": 0.1, "label_smoothing": 0.2}),
    "discopop": ("discopop", {"beta": 0.1}),
    "sft": ("chosen_nll", {}),
    "nca_pair": ("nca", {"beta": 0.1}),
    "bco_pair": ("bco_pair", {"beta": 0.1}),
    "sppo_hard": ("sppo", {"beta": 0.1}),
    "aot": ("aot", {"beta": 0.1, "label_smoothing": 0.1}),
    "aot_unpaired": ("aot_unpaired", {"beta": 0.1, "label_smoothing": 0.1}),
    "apo_zero": ("apo_zero", {"beta": 0.1}),
    "apo_down": ("apo_down", {"beta": 0.1}),
}
# ours, TRL's
DIVERGENCES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "reverse_kl": ({}, {}),
    "forward_kl": ({"divergence": "forward_kl"}, {"f_divergence_type": "forward_kl"}),
    "js": ({"divergence": "js"}, {"f_divergence_type": "js_divergence"}),
    "alpha": (
        {"divergence": "alpha", "alpha": 0.3},
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3},
    ),
}
REFUSING = ("nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down")
GRID = [(loss, divergence) for loss in LOSS_TYPES for divergence in DIVERGENCES]
REFUSED = [
    (loss, divergence)
    for loss, divergence in GRID
    if loss in REFUSING and divergence != "reverse_kl"
]
# our losses, TRL's settings; and where they are not only of the loss, our objective's settings
CASES: dict[str, tuple[Any, ...]] = {
    "alpha of one": (
        [{"name": "dpo", "divergence": "alpha", "alpha": 1.0}],
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.0},
    ),
    "aot": (["aot"], {"loss_type": "aot"}),
    "aot_unpaired": (["aot_unpaired"], {"loss_type": "aot_unpaired"}),
    "ld_alpha": (["dpo"], {"ld_alpha": 0.5}, {"tail_weight": 0.5}),
    "ld_alpha ipo": (["ipo"], {"loss_type": "ipo", "ld_alpha": 0.0}, {"tail_weight": 0.0}),
    "ld_alpha js": (
        [{"name": "dpo", "divergence": "js"}],
        {"f_divergence_type": "js_divergence", "ld_alpha": 0.5},
        {"tail_weight": 0.5},
    ),
    "weighting": (["dpo"], {"use_weighting": True}, {"on_policy_weight": True}),
    "weighting ipo": (
        ["ipo"],
        {"loss_type": "ipo", "use_weighting": True},
        {"on_policy_weight": True},
    ),
    "bco_pair + hinge": (
        ["bco_pair", {"name": "hinge_dpo", "weight": 0.5}],
        {"loss_type": ["bco_pair", "hinge"], "loss_weights": [1.0, 0.5]},
    ),
    "ipo + hinge under js": (
        [
            {"name": "ipo", "divergence": "js"},
            {"name": "hinge_dpo", "divergence": "js", "weight": 0.5},
        ],
        {
            "loss_type": ["ipo", "hinge"],
            "loss_weights": [1.0, 0.5],
            "f_divergence_type": "js_divergence",
        },
    ),
}
TOLD = ("logps/chosen", "logps/rejected", "mean_token_accuracy", "entropy")
REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")


@pytest.fixture(scope="module")
def models(peer_model: Any, our_policy: Any) -> tuple[Any, Any, Any]:
    """TRL's policy and reference, and ours."""
    return peer_model(), peer_model(perturbed=False), our_policy(reference=True)


@pytest.fixture(scope="module")
def compare(
    models: Any, peer_settings: Any, our_side: Any, assert_agree: Any, tiny_tokenizer: Any
) -> Any:
    """compare(our losses, TRL's settings, metrics, rows, objective's settings): both sides
    agree.
    """
    from posttrain.data.comparisons import encode_pairs
    from posttrain.data.forest import Batch, Tree
    from posttrain.recipe import component
    from posttrain.training.objective import Objective

    def check(
        losses: list[Any], settings: Any, told: tuple[str, ...], rows: Any = ROWS, **modifiers: Any
    ) -> None:
        roles = ("chosen", "rejected")
        objective = Objective(
            [component(x, "losses") for x in losses], roles=roles, accuracy=True, **modifiers
        )
        sequences = encode_pairs(rows, tiny_tokenizer).sequences
        batch = Batch(
            [Tree.build(sequences[i : i + 2]) for i in range(0, len(sequences), 2)],
            whole=objective.whole,
        )
        trainer = peer_trainer(*models[:2], settings, peer_settings, tiny_tokenizer, rows)
        assert_agree(our_side(batch, objective, model=models[2]), theirs(trainer, len(rows)), told)

    return check


def peer_trainer(
    policy: Any, reference: Any, settings: Any, base: Any, tokenizer: Any, rows: Any = ROWS
) -> Any:
    from datasets import Dataset

    config = trl.DPOConfig(per_device_train_batch_size=4, **base, **{"beta": 0.1, **settings})
    return trl.DPOTrainer(
        model=policy,
        ref_model=reference,
        args=config,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
    )


def theirs(trainer: Any, num_rows: int) -> Any:
    policy = trainer.model.eval()
    policy.zero_grad()
    loss = trainer.compute_loss(
        policy, trainer.data_collator([trainer.train_dataset[i] for i in range(num_rows)])
    )
    loss.backward()
    told = {k: sum(v) / len(v) for k, v in trainer._metrics["eval"].items() if v}
    return float(loss.detach()), {name: p.grad for name, p in policy.named_parameters()}, told


@pytest.mark.parametrize(
    ("loss_type", "divergence"), [cell for cell in GRID if cell not in REFUSED]
)
def test_grid(loss_type: str, divergence: str, compare: Any) -> None:
    name, shared = LOSS_TYPES[loss_type]
    ours, peers = DIVERGENCES[divergence]
    if loss_type == "sft":
        compare([name], {"loss_type": "sft", **peers}, TOLD, EQUAL_ROWS)
        return
    told = TOLD if loss_type in ("ipo", "sigmoid_norm") else TOLD + REWARDS
    compare([{"name": name, **shared, **ours}], {"loss_type": loss_type, **shared, **peers}, told)


@pytest.mark.parametrize(("loss_type", "divergence"), REFUSED)
def test_both_refuse(
    loss_type: str, divergence: str, models: Any, peer_settings: Any, tiny_tokenizer: Any
) -> None:
    from posttrain.errors import ConfigError
    from posttrain.recipe import component
    from posttrain.training.objective import Objective

    ours, peers = DIVERGENCES[divergence]
    with pytest.raises(ConfigError, match="has no setting 'divergence'"):
        Objective(
            [component({"name": LOSS_TYPES[loss_type][0], **ours}, "losses")],
            roles=("chosen", "rejected"),
        )
    with pytest.raises(ValueError, match="is only supported for the following loss types"):
        peer_trainer(*models[:2], {"loss_type": loss_type, **peers}, peer_settings, tiny_tokenizer)


@pytest.mark.parametrize("case", CASES)
def test_beyond_the_grid(case: str, compare: Any) -> None:
    losses, settings, *modifiers = CASES[case]
    told = TOLD if "ipo" in case else TOLD + REWARDS
    compare(losses, settings, told, **dict(*modifiers))
