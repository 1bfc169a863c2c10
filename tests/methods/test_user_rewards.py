"""GRPO with users' rewards that change their arguments, raise, exit or hang."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import lines, told, weights

from posttrain import registry
from posttrain.errors import RewardError

GRPO: dict[str, Any] = {
    "method": "grpo",
    "task": {"name": "arithmetic", "num_examples": 8, "num_steps": 1},
    "batch_size": 2,
    "num_generations": 4,
    "sampling": {"max_tokens": 8},
    "learning_rate": 1e-3,
    "max_steps": 3,
}


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in registry.rewards.names():
        registry.rewards.get(name)
    monkeypatch.setattr(registry.rewards, "_functions", dict(registry.rewards._functions))
    return registry.rewards.register


def vowels(texts: list[str]) -> list[float]:
    return [sum(letter in "aeiou" for letter in text) / 4 for text in texts]


def test_what_a_reward_does_to_its_arguments_changes_no_weight(
    register: Any, run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    @register
    def innocent(completions):
        """Counts vowels."""
        return vowels(completions)

    @register
    def vandal(completions, prompts, completion_ids, answer, examples, task, question):
        """Counts vowels and changes all it gets."""
        values = vowels(completions)
        for ids in completion_ids:
            if len(ids) % 2:
                ids.clear()
            else:
                ids.pop()
        for example in [*examples, *task.examples]:
            example.columns.clear()
        for inputs in (completions, prompts, completion_ids, answer, examples, question):
            inputs.clear()
        return values

    runs = [
        run_recipe(**GRPO, rewards=[{"name": name}, "task"], output=str(tmp_path / name))
        for name in ("innocent", "vandal")
    ]
    assert weights(runs[0]) == weights(runs[1])
    metrics = [
        [{k.replace("vandal", "innocent"): v for k, v in row.items()} for row in told(run)]
        for run in runs
    ]
    assert metrics[0] == metrics[1] and metrics[0][0]["reward_std"] > 0


def test_failures_are_left_out_and_counted(register: Any, run_recipe: Callable[..., Path]) -> None:
    @register
    def shaky(completions):
        """Fails on the second completion of a step."""
        values: list[Any] = list(vowels(completions))
        if len(values) == 8:  # not in the self-test
            values[1] = TimeoutError("no answer")
        return values

    run = run_recipe(**GRPO, rewards=["shaky"])
    assert [row["rewards/errors"] for row in told(run)] == [1.0] * 3
    for group in lines(run / "rollouts.jsonl")[::2]:
        first, failed, *others = group["completions"]
        assert (
            failed["error"] == "shaky: TimeoutError: no answer"
            and failed["reward"] is None
            and failed["advantage"] == 0
        )
        # The baseline is the mean of the three that have a reward.
        rewards = [c["reward"] for c in (first, *others)]
        for completion, reward in zip((first, *others), rewards, strict=True):
            above = reward - sum(rewards) / 3
            assert (completion["advantage"] > 1e-6) == (above > 1e-6)
            assert (completion["advantage"] < -1e-6) == (above < -1e-6)


def test_a_reward_that_exits_stops_the_run_with_an_error(
    register: Any, run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    calls: list[int] = []

    @register
    def leaves(completions):
        """Exits in the third step."""
        calls.append(len(completions))
        if len(calls) > 3:
            raise SystemExit(0)
        return vowels(completions)

    with pytest.raises(RewardError, match=r"'leaves' failed on 8 of 8 .*SystemExit: 0"):
        run_recipe(**GRPO, rewards=["leaves"], save_every=1, output=str(tmp_path / "run"))
    assert (
        not (tmp_path / "run" / "model").exists() and (tmp_path / "run" / "checkpoint-2").is_dir()
    )


def test_a_reward_that_hangs_stops_the_run_within_its_limit(
    register: Any, run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    calls: list[int] = []

    @register
    def hangs(completions):
        """Never returns in the second step."""
        calls.append(len(completions))
        if len(calls) > 2:
            time.sleep(300)
        return vowels(completions)

    with pytest.raises(RewardError, match="'hangs' took longer than 1 s for 8 completions"):
        run_recipe(
            **GRPO,
            rewards=["hangs"],
            save_every=1,
            reward_timeout_seconds=1,
            output=str(tmp_path / "run"),
        )
    assert (tmp_path / "run" / "checkpoint-1").is_dir()


PLUGIN = '''
import sys
from posttrain.registry import rewards

@rewards.register
def exits(completions):
    """Ends the process."""
    sys.exit(0)
'''


def test_the_command_line_never_exits_with_0_without_a_model(
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from posttrain.cli import main

    monkeypatch.setattr(registry.rewards, "_plugins", list(registry.rewards._plugins))
    plugin = tmp_path / "exits.py"
    plugin.write_text(PLUGIN)
    status = main(
        [
            "grpo",
            "--model",
            str(tiny_folder),
            "--task",
            "arithmetic",
            "--output",
            str(tmp_path / "run"),
            f"plugins=[{plugin}]",
            "rewards=[exits]",
            "max_steps=1",
        ]
    )
    err = capsys.readouterr().err
    assert status == 1 and "RewardError: self-test of reward 'exits': SystemExit: 0" in err
    assert not (tmp_path / "run").exists()
