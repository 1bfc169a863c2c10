"""Divergences between student and teacher beside TRL's generalised JSD: value and gradient of every
student parameter.

Runs in the environment of `make conformance`, where TRL is installed; skipped elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("trl", reason="TRL is not installed; run `make conformance`")

ROWS = [([0, 5, 6, 7], [8, 9, 1]), ([0, 8], [9, 10, 11, 12, 1]), ([0, 5, 6, 3], [4, 1])]
# our loss, TRL's beta
CASES: dict[str, tuple[dict[str, Any], float]] = {
    "forward KL": ({"name": "teacher_kl", "direction": "forward"}, 0.0),
    "reverse KL": ({"name": "teacher_kl", "direction": "reverse"}, 1.0),
    "JSD 0": ({"name": "jsd", "beta": 0.0}, 0.0),
    "JSD 1": ({"name": "jsd", "beta": 1.0}, 1.0),
    "JSD 0.5": ({"name": "jsd", "beta": 0.5}, 0.5),
    "JSD 0.1": ({"name": "jsd", "beta": 0.1}, 0.1),
}


@pytest.mark.parametrize("temperature", [1.0, 0.9])
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient(
    case: str,
    temperature: float,
    peer_model: Any,
    our_policy: Any,
    our_side: Any,
    assert_agree: Any,
    tiny_folder: Path,
) -> None:
    from trl.experimental.gkd import GKDTrainer

    from posttrain.data.forest import Batch, TokenSequence, Tree
    from posttrain.models.load import load_model
    from posttrain.recipe import component
    from posttrain.training.objective import Objective

    loss, beta = CASES[case]
    student, teacher = peer_model(), peer_model(perturbed=False)
    parts, count = [], 0
    for prompt, completion in ROWS:
        ids = torch.tensor([prompt + completion])
        keep = slice(len(prompt) - 1, -1)
        with torch.no_grad():
            wanted = teacher(input_ids=ids).logits[:, keep]
        given = student(input_ids=ids).logits[:, keep]
        parts.append(
            GKDTrainer.generalized_jsd_loss(
                given, wanted, beta=beta, temperature=temperature, reduction="sum"
            )
        )
        count += len(completion)
    value = torch.stack(parts).sum() / count
    value.backward()
    theirs = (float(value.detach()), {n: p.grad for n, p in student.named_parameters()}, {})

    model = our_policy()
    model.teacher = load_model(str(tiny_folder), dtype="float32")
    sequences = [TokenSequence(np.array(p + c), np.arange(len(p + c)) >= len(p)) for p, c in ROWS]
    objective = Objective([component({**loss, "temperature": temperature}, "losses")])
    ours = our_side(
        Batch([Tree.build([s]) for s in sequences]), objective, max_tokens=9, model=model
    )
    assert_agree(ours, theirs)
