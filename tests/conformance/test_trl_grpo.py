"""Policy-gradient losses beside TRL's GRPOTrainer: value, gradient of every parameter and metrics on the same rollouts.

Runs in the environment of `make conformance`, where TRL is installed; skipped elsewhere. Where TRL's defaults differ by intent,
the case says so: its KL term is weighted by the ratio (use_bias_correction_kl), which is the loss `kl_corrected` here; its CISPO
caps the weight at epsilon_high, which is `clip_max` here (TRL's default of 0.2 is no sensible cap).
"""

from __future__ import annotations

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
# our losses, our aggregation, TRL's settings, metrics compared
CASES: dict[str, tuple[list[Any], str, dict[str, Any], tuple[str, ...]]] = {
    "grpo": ([CLIP], "sequence_mean", {"loss_type": "grpo"}, CLIPPED),
    "bnpo": ([CLIP], "token_mean", {"loss_type": "bnpo"}, CLIPPED),
    "dapo": ([{**CLIP, "clip_high": 0.28}], "token_mean", {"loss_type": "dapo", "epsilon_high": 0.28}, CLIPPED),
    "dr_grpo": ([CLIP], "fixed_length", {"loss_type": "dr_grpo"}, CLIPPED),
    "gspo": (
        [{**CLIP, "level": "sequence", "clip_low": 0.03}], "sequence_mean",
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.03}, (),
    ),
    "two-sided": ([{**CLIP, "clip_max": 1.25}], "sequence_mean", {"loss_type": "grpo", "delta": 1.25}, ()),
    "cispo": ([{"name": "cispo", "clip_max": 1.1}], "token_mean", {"loss_type": "cispo", "epsilon_high": 1.1}, ()),
    "kl": (
        [CLIP, {"name": "kl", "weight": 0.4}], "sequence_mean",
        {"loss_type": "grpo", "beta": 0.4, "use_bias_correction_kl": False}, ("kl",),
    ),
    "corrected kl": (
        [CLIP, {"name": "kl_corrected", "weight": 0.4}], "sequence_mean", {"loss_type": "grpo", "beta": 0.4}, ("kl",),
    ),
    "sapo": ([{"name": "sapo"}], "sequence_mean", {"loss_type": "sapo"}, ()),
    "vespo": ([{"name": "vespo"}], "token_mean", {"loss_type": "vespo"}, ()),
    "luspo": (
        [{**CLIP, "level": "sequence"}], "sequence_sum",
        {"loss_type": "luspo", "importance_sampling_level": "sequence"}, (),
    ),
    "gmpo": ([{"name": "gmpo"}], "sequence_mean", {"trainer": "GMPO"}, ()),
    "rloo": (
        [{**CLIP, "level": "sequence_sum"}], "sequence_mean", {"trainer": "RLOO"}, (),
    ),
    "entropy": ([CLIP, {"name": "entropy_bonus", "weight": 0.3, "aggregation": "token_mean"}], "sequence_mean",
                {"loss_type": "grpo", "entropy_coef": 0.3}, ()),
}  # fmt: skip


def _flat() -> list[tuple[list[int], list[int], float]]:
    return [(p, c, a) for p, cs, row in zip(PROMPTS, COMPLETIONS, ADVANTAGES) for c, a in zip(cs, row)]


def _logprobs(model: Any) -> list[np.ndarray]:
    found = []
    for prompt, completion, _ in _flat():
        ids = torch.tensor([prompt + completion])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        found.append(torch.log_softmax(logits, -1).gather(1, ids[0, len(prompt) :, None])[:, 0].numpy())
    return found


def _old(policy: Any) -> list[np.ndarray]:
    """Log-probs under a policy some updates ago, far enough for every kind of clipping to happen."""
    draw = np.random.default_rng(3)
    return [x + draw.normal(0, 0.2, len(x)).astype(np.float32) for x in _logprobs(policy)]


def _classes(kind: str) -> tuple[Any, Any]:
    if kind == "GMPO":
        from trl.experimental import gmpo

        return gmpo.GMPOConfig, gmpo.GMPOTrainer
    return getattr(trl, f"{kind}Config"), getattr(trl, f"{kind}Trainer")


def theirs(policy: Any, reference: Any, settings: dict[str, Any], base: dict[str, Any], tokenizer: Any) -> Any:
    from datasets import Dataset

    settings = dict(settings)
    config_class, trainer_class = _classes(settings.pop("trainer", "GRPO"))
    config = config_class(
        per_device_train_batch_size=6, num_generations=3, max_completion_length=MAX_LENGTH, **base, **settings
    )
    trainer = trainer_class(
        model=policy, reward_funcs=lambda completions, **_: [0.0] * len(completions), args=config,
        processing_class=tokenizer, train_dataset=Dataset.from_list([{"prompt": "a"}] * 6),
    )  # fmt: skip
    rows = _flat()
    width, before = max(len(c) for _, c, _ in rows), max(len(p) for p, _, _ in rows)

    def right(lists: list[Any], dtype: Any) -> torch.Tensor:
        return torch.stack([torch.tensor(list(x) + [0] * (width - len(x)), dtype=dtype) for x in lists])

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
    policy.eval()
    loss = trainer._compute_loss(policy, inputs)
    loss.backward()
    told = {k: v[-1] for k, v in trainer._metrics["eval"].items() if v}
    return float(loss), {name: p.grad for name, p in policy.named_parameters()}, told


def batch(policy: Any) -> Any:
    from posttrain.data.forest import Batch, TokenSequence, Tree

    sequences = []
    for (prompt, completion, advantage), old in zip(_flat(), _old(policy)):
        mask = np.arange(len(prompt) + len(completion)) >= len(prompt)
        streams = {"advantages": np.full(len(mask), advantage), "old_logprobs": np.concatenate([np.zeros(len(prompt)), old])}
        sequences.append(TokenSequence(np.array(prompt + completion), mask, streams))
    return Batch([Tree.build(sequences[:3]), Tree.build(sequences[3:])])


@pytest.mark.parametrize("case", CASES)
def test_value_gradient_and_metrics(
    case: str, peer_model: Any, peer_settings: Any, our_side: Any, assert_agree: Any, tiny_tokenizer: Any
) -> None:
    from posttrain.recipe import component
    from posttrain.training.objective import Objective

    losses, aggregation, settings, metrics = CASES[case]
    objective = Objective([component(x, "losses") for x in losses], aggregation=aggregation, max_length=MAX_LENGTH)  # type: ignore[arg-type]
    ours = our_side(batch(peer_model()), objective)
    other = theirs(peer_model(), peer_model(perturbed=False), settings, peer_settings, tiny_tokenizer)
    assert_agree(ours, other, (*metrics, "entropy"))
