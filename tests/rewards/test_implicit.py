"""The reward that a trained policy implies."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.models.load import load_model, load_score_model
from posttrain.rewards.implicit import implicit_reward, implicit_step_rewards

PROMPTS = ["Q: 3+4\nA:", "Q: 3+4\nA:", "Q: 9-2\nA:"]
COMPLETIONS = [" 3+4=7\n#### 7", " 8", ""]


@pytest.fixture(scope="module")
def folders(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Score models with random heads, and a policy that differs from the tiny model."""
    made = {}
    for number, per in enumerate(("sequence", "token", "other")):
        model = load_score_model(tiny_folder, per="token" if per == "token" else "sequence")
        with torch.no_grad():
            model.score_head.weight.normal_(generator=torch.Generator().manual_seed(number))
        made[per] = tmp_path_factory.mktemp(per)
        model.save(made[per])
    policy = load_model(tiny_folder)
    with torch.no_grad():
        for p in policy.hf.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    made["policy"] = tmp_path_factory.mktemp("policy")
    policy.save(made["policy"])
    return made


def ids_of(tokenizer: Any, prompt: str, completion: str) -> list[int]:
    return [
        *tokenizer(prompt)["input_ids"],
        *tokenizer(completion, add_special_tokens=False)["input_ids"],
        tokenizer.eos_token_id,
    ]


def test_the_reward_a_policy_implies(
    folders: dict[str, Path], tiny_folder: Path, tiny_tokenizer: Any
) -> None:
    policy, ref = load_model(folders["policy"]), load_model(tiny_folder)
    expected = []
    for p, c in zip(PROMPTS, COMPLETIONS, strict=True):
        row, before = ids_of(tiny_tokenizer, p, c), len(tiny_tokenizer(p)["input_ids"])
        with torch.no_grad():
            a, b = (
                m.hf(input_ids=torch.tensor([row])).logits[0].double().log_softmax(-1)
                for m in (policy, ref)
            )
        expected.append(
            [0.1 * float(a[i - 1, row[i]] - b[i - 1, row[i]]) for i in range(before, len(row))]
        )
    settings: dict[str, Any] = {
        "path": str(folders["policy"]),
        "ref_path": str(tiny_folder),
        "device": "cpu",
    }
    assert implicit_reward(PROMPTS, COMPLETIONS, **settings) == pytest.approx(
        [sum(x) for x in expected], abs=1e-5
    )
    steps = implicit_step_rewards(policy, ref, PROMPTS, COMPLETIONS, beta=0.1, separator="\n")
    assert [len(x) for x in steps] == [2, 1, 1]
    assert steps[0].tolist() == pytest.approx(
        [sum(expected[0][:7]), sum(expected[0][7:])], abs=1e-5
    )
    last = implicit_reward(PROMPTS, COMPLETIONS, aggregation="last", **settings)
    assert last == pytest.approx([x[-1] for x in steps], abs=1e-6)
    long, short = implicit_reward(["p", "p"], ["x" * 600, "y"], **settings)
    assert math.isnan(long) and math.isfinite(short)
    assert math.isnan(implicit_reward(["p"], ["x" * 600], **settings)[0])
    same = implicit_reward(
        PROMPTS, COMPLETIONS, path=str(tiny_folder), ref_path=str(tiny_folder), device="cpu"
    )
    assert same == [0.0, 0.0, 0.0]
