"""Training in shares: gradients, weights and metrics of one process, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from process_groups import results
from world_cases import trained, write_models

import posttrain as pt
from posttrain.config import LoraConfig
from posttrain.errors import ConfigError
from posttrain.training.settings import TrainingSettings
from posttrain.training.sharded import check_shard, group_size, zero_loss
from posttrain.world import World

CASES = ("sft", "lora", "dpo", "grpo", "ppo", "distill", "reward_model")
ROWS = [{"prompt": "Q: 1+2\nA:", "completion": " 3"}] * 3


def all_in_shares(names: list[str], folder: Path, shard: Any) -> dict[str, dict[str, Any]]:
    """What a process leaves of each case; with LoRA where the name says so."""
    found = {}
    for name in names:
        options: dict[str, Any] = {"penalties": ()} | ({"shard": shard} if shard else {})
        if name == "lora":
            options["model"] = pt.load(str(folder), lora=LoraConfig(r=4))
            options["model"].hf.double()  # PEFT's adapters are in float32
        found[name] = trained("sft" if name == "lora" else name, folder, **options)
    return found


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tiny_folder, tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("size", "shard", "names"), [(2, "full", CASES), (4, 2, ("sft", "ppo"))])
def test_shares_train_as_one_process_does(
    size: int, shard: Any, names: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    """Every parameter group gets the sum over the processes: embeddings, layers, norms, heads, and
    those of a critic and of a reward model."""
    cases = list(names)
    (one,) = results(1, all_in_shares, cases, folder, None, folder=tmp_path / "one", seconds=500)
    several = results(
        size, all_in_shares, cases, folder, shard, folder=tmp_path / "several", seconds=500
    )
    for name in names:
        for rank in several:
            mine, theirs = one[name], rank[name]
            for a, b in zip(mine["gradients"], theirs["gradients"], strict=True):
                assert max(abs(x).max() for x in a if x is not None) > 1e-4
                for x, y in zip(a, b, strict=True):
                    assert (x is None) == (y is None)
                    assert x is None or abs(x - y).max() < 1e-9, name
            for key, weight in mine["weights"].items():
                assert abs(weight - theirs["weights"][key]).max() < 1e-9, (name, key)
            for a, b in zip(mine["metrics"], theirs["metrics"], strict=True):
                kept = a.keys() - {"memory/optimizer_mib"}  # of this process's share
                for key in kept:
                    assert np.isclose(a[key], b[key], rtol=1e-9, atol=1e-9, equal_nan=True), key


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"shard": 1}, "shard"),
        ({"compute_dtype": "bfloat16"}, "compute_dtype"),
        ({"shard": "full", "ema_decay": 0.9}, "ema_decay"),
        ({"shard": "full", "optimizer": "muon"}, "optimizer"),
        ({"shard": "full", "penalties": ({"name": "l2_to_start"},)}, "penalties"),
    ],
)
def test_what_needs_whole_weights_is_refused(settings: dict[str, Any], key: str) -> None:
    plan = pt.sft(ROWS)
    with pytest.raises(ConfigError, match=key):
        check_shard(TrainingSettings(**settings), plan)
    check_shard(TrainingSettings(shard="full", compute_dtype="bfloat16"), plan)


def test_a_fit_that_goes_on_is_refused() -> None:
    with pytest.raises(ConfigError, match="goes on"):
        check_shard(TrainingSettings(shard="full"), pt.sft(ROWS), goes_on=True)


def test_the_size_of_a_group() -> None:
    four = SimpleNamespace(size=4)
    assert group_size(TrainingSettings(), four) == 0  # type: ignore[arg-type]
    assert group_size(TrainingSettings(shard="full"), four) == 4  # type: ignore[arg-type]
    assert group_size(TrainingSettings(shard=2), four) == 2  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="3 does not divide"):
        group_size(TrainingSettings(shard=3), four)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="torchrun"):
        group_size(TrainingSettings(shard="full"), World.alone())


def test_a_loss_of_zero_reaches_every_parameter() -> None:
    x, y = torch.ones(3, requires_grad=True), torch.full((2,), torch.inf, requires_grad=True)
    loss = zero_loss({"logprobs": x * 2, "values": y * 3, "correct": torch.ones(2)})
    loss.backward()
    assert float(loss) == 0 and x.grad is not None and y.grad is not None
    assert not x.grad.any() and not y.grad.any()
