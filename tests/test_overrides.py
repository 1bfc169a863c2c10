from __future__ import annotations

from typing import Any

import pytest

from posttrain.errors import ConfigError
from posttrain.overrides import apply_overrides
from posttrain.recipe import parse_recipe

GRPO: dict[str, Any] = {"method": "grpo", "model": "m", "task": "arithmetic"}
SFT: dict[str, Any] = {"method": "sft", "model": "m", "data": "d"}


@pytest.mark.parametrize(
    ("raw", "change", "place"),
    [
        (SFT, "lora_r=8", {"model": {"path": "m", "lora": {"r": 8}}}),
        (SFT, "max_length=9", {"data": {"path": "d", "max_length": 9}}),
        ({**SFT, "max_length": 5}, "max_length=9", {"data": {"path": "d", "max_length": 9}}),
        (GRPO, "advantage.scale=none", {"advantage": {"name": "group_mean", "scale": "none"}}),
        (GRPO, "rewards.task.weight=2", {"rewards": [{"name": "task", "weight": 2}]}),
        (GRPO, "task.num_steps=2", {"task": {"name": "arithmetic", "num_steps": 2}}),
        (GRPO, "max_completion_length=7", {"sampling": {"max_tokens": 7}}),
        ({"method": "evaluate"}, "top_k=7", {"evaluation": {"sampling": {"top_k": 7}}}),
        (
            {"method": "pipeline", "stages": [{"name": "a", "method": "sft", "model": "m"}]},
            "stages.a.lora_r=4",
            {"stages": [{"name": "a", "method": "sft", "model": {"path": "m", "lora": {"r": 4}}}]},
        ),
    ],
)
def test_changes_reach_their_place(raw: dict[str, Any], change: str, place: Any) -> None:
    changed = apply_overrides(raw, [change])
    assert {key: changed[key] for key in place} == place


def test_settings_of_the_main_loss() -> None:
    for change in (["clip_low=0.1", "clip_high=0.3"], ["epsilon=0.1", "epsilon_high=0.3"]):
        loss = parse_recipe(apply_overrides(GRPO, change)).losses[0]
        assert loss.settings == {"clip_low": 0.1, "clip_high": 0.3}
        assert loss.aggregation == "sequence_mean"
    with pytest.raises(ConfigError, match="'beta'.*name: kl"):
        parse_recipe(apply_overrides(GRPO, ["beta=0.1"]))
    with pytest.raises(ConfigError, match="'beta'.*'nll'"):
        parse_recipe(apply_overrides(SFT, ["beta=0.1"]))
    with pytest.raises(ConfigError, match="clip_low.*keep one"):
        parse_recipe({**GRPO, "clip_low": 0.1, "losses": [{"name": "clipped", "clip_low": 0.2}]})


@pytest.mark.parametrize("change", ["seed", "seed.x=1", "losses.clipp_low=1"])
def test_what_cannot_be_changed(change: str) -> None:
    with pytest.raises(ConfigError, match=change.partition("=")[0]):
        apply_overrides({**GRPO, "seed": 3}, [change])


def test_a_name_that_the_method_does_not_read() -> None:
    with pytest.raises(ConfigError, match="max_length.*sampling.max_tokens"):
        parse_recipe({**GRPO, "max_length": 5})
