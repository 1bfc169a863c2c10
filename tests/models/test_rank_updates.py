"""AdaLoRA's own updates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from posttrain.config import AdapterConfig, LoraConfig
from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.models.load import load_model
from posttrain.models.rank_updates import updates_of
from posttrain.training.optim import Optimizer


@pytest.fixture
def forest(groups: list[list[TokenSequence]]) -> Forest:
    """Branching trees over the 50 words of the folder's tokenizer."""
    for sequence in (s for g in groups for s in g):
        sequence.ids %= 50
    return Forest.pack([Tree.build(g, min_shared=1) for g in groups])


def test_adalora_prunes_to_its_budget_and_keeps_near_orthogonal(
    folder: Path, forest: Forest
) -> None:
    model = load_model(folder, adapter=AdapterConfig("adalora", r=2))
    updates = updates_of(model.hf, 30)
    assert (
        updates is not None and updates_of(load_model(folder, lora=LoraConfig(r=4)).hf, 30) is None
    )
    optimizer = Optimizer(
        model.trainable_parameters(),
        steps=30,
        learning_rate=1e-2,
        schedule="constant",
        updates=updates,
    )

    def ranks() -> int:
        return sum(int((p != 0).sum()) for n, p in model.hf.named_parameters() if "lora_E" in n)

    model.train()
    counts = []
    for step in range(30):
        (-model.forward(forest)["logprobs"].mean()).backward()
        optimizer.clip_gradients()
        optimizer.step(step)
        counts.append(ranks())
    layers = sum("lora_E" in n for n, _ in model.hf.named_parameters())
    assert counts[0] == 3 * layers and counts[-1] == 2 * layers and counts[20] == counts[-1]
    # The penalty's gradient: of the mean over matrices of the norm of P P^T - I, by finite
    # differences.
    name, matrix = next((n, p) for n, p in model.hf.named_parameters() if "lora_A" in n)
    others = [p for n, p in model.hf.named_parameters() if "lora_A" in n or "lora_B" in n]
    for p in others:
        p.grad = torch.zeros_like(p)
    updates.before()

    def penalty() -> float:
        rows = matrix.detach().double()
        distance = torch.linalg.matrix_norm(rows @ rows.T - torch.eye(len(rows)).double())
        return float(distance) / len(others)

    with torch.no_grad():
        ends = []
        for sign in (1, -1):
            matrix[1, 3] += sign * 1e-3
            ends.append(penalty())
            matrix[1, 3] -= sign * 1e-3
    assert matrix.grad is not None and name
    assert float(matrix.grad[1, 3]) == pytest.approx(
        0.5 * (ends[0] - ends[1]) / 2e-3, rel=2e-2, abs=1e-5
    )
