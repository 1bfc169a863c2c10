"""Short trainings of tiny float64 models, which any number of processes must make alike."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import posttrain as pt

TIMED = ("step_time", "tokens_per_second", "memory/peak_mib")
STEPS = 2

ROWS = [
    {"prompt": f"Q: {a}+2\nA:", "completion": f" {a}+2={a + 2}" + " ok" * (a % 4)}
    for a in range(3, 16)
]
PAIRS = [
    {"prompt": f"Q: {a}+1\nA:", "chosen": f" {a + 1}", "rejected": f" {a}, I think" * (1 + a % 2)}
    for a in range(2, 13)
]
LABELLED = [
    {"prompt": f"Q: {a}+1\nA:", "completion": f" {a + a % 2}", "label": a % 2 == 1}
    for a in range(2, 13)
]
TASK = {"name": "arithmetic", "num_examples": 20, "num_steps": 1}
LETTERS = [{"name": "pattern", "regex": "[a-m]"}]
SHORT: dict[str, Any] = {"batch_size": 5, "learning_rate": 1e-3}
SAMPLED: dict[str, Any] = {"rewards": LETTERS, "sampling": {"max_tokens": 8}, **SHORT}


def spread_out(completions: list[str]) -> list[float]:
    """A reward that compares all completions of a step."""
    return [float(len(set(completions))) + len(text) for text in completions]


PLANS: dict[str, Callable[[Path], Any]] = {
    "sft": lambda folder: pt.sft(ROWS, eval_data=ROWS[:3], **SHORT),
    "dpo": lambda folder: pt.dpo(PAIRS, eval_data=PAIRS[:3], **SHORT),
    "kto": lambda folder: pt.kto(LABELLED, **SHORT),
    "transport": lambda folder: pt.dpo(PAIRS, losses=["aot_unpaired"], **SHORT),
    "reward_model": lambda folder: pt.reward_model(PAIRS, eval_data=PAIRS[:3], **SHORT),
    "grpo": lambda folder: pt.grpo(TASK, num_generations=4, **SAMPLED),
    "grpo_batches": lambda folder: pt.grpo(
        TASK,
        num_generations=3,
        num_minibatches=2,
        max_resamples=1,
        losses=["clipped", {"name": "kl", "weight": 0.1}],
        **{**SAMPLED, "rewards": [spread_out]},
    ),
    "one_prompt": lambda folder: pt.grpo(TASK, num_generations=9, **{**SAMPLED, "batch_size": 1}),
    "ppo": lambda folder: pt.ppo(TASK, num_iterations=2, num_generations=2, **SAMPLED),
    "online_dpo": lambda folder: pt.online_dpo(TASK, num_generations=4, **SAMPLED),
    "distill": lambda folder: pt.distill(
        task=TASK, teacher=str(folder / "teacher"), lmbda=0.5, sampling={"max_tokens": 8}, **SHORT
    ),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "sft": {"penalties": [{"name": "l2_to_start", "weight": 0.3}], "eval_every": 1},
    "grpo": {"evaluation": {**TASK, "num_examples": 4}, "eval_every": 1},
}
SEEDS = {"distill": 1}
CORE = ("sft", "dpo", "grpo", "ppo", "distill", "reward_model")
"""Those that are also trained by four processes."""


def write_models(source: Path, folder: Path) -> Path:
    """A copy of a model's folder, with a teacher of other weights in it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    shutil.copytree(source, folder)
    torch.manual_seed(5)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source)).save_pretrained(
        folder / "teacher"
    )
    AutoTokenizer.from_pretrained(source).save_pretrained(folder / "teacher")
    return folder


def trained(name: str, folder: Path, **options: Any) -> dict[str, Any]:
    """Metrics, gradients of every update and final weights of a case."""
    from rich.console import Console

    with in_float64(), recorded() as gradients:
        result = pt.fit(
            str(folder),
            PLANS[name](folder),
            steps=STEPS,
            seed=SEEDS.get(name, 0),
            console=Console(quiet=True),
            max_tokens_per_micro_batch=60,
            **{**OPTIONS.get(name, {}), **options},
        )
    model = result.model
    named = dict(model.hf.named_parameters())
    if getattr(model, "critic", None) is not None:
        named |= {f"critic.{n}": p for n, p in model.critic.hf.named_parameters()}
    return {
        "metrics": [untimed(row) for row in result.metrics],
        "rollouts": list(result.rollouts),
        "gradients": gradients,
        "weights": {n: p.detach().numpy().copy() for n, p in named.items()},
    }


def all_trained(names: list[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Several cases one after the other."""
    return {name: trained(name, folder) for name in names}


def untimed(row: dict[str, Any]) -> dict[str, Any]:
    """Metrics without those that depend on the machine."""
    return {k: v for k, v in row.items() if k not in TIMED}


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Within it every model is loaded in float64."""
    import torch

    from posttrain.models import load

    real = load.resolved_dtype
    load.resolved_dtype = lambda name, device: torch.float64  # type: ignore[attr-defined]
    try:
        yield
    finally:
        load.resolved_dtype = real  # type: ignore[attr-defined]


@contextlib.contextmanager
def recorded() -> Iterator[list[list[Any]]]:
    """Within it the gradients of every update are kept, in the order of the parameters."""
    from posttrain.training.optim import Optimizer

    real, gradients = Optimizer.clip_gradients, []

    def whole(grad: Any) -> Any:
        full = grad.full_tensor() if hasattr(grad, "full_tensor") else grad
        return full.numpy().copy()

    def clip(self: Any) -> float:
        gradients.append([None if p.grad is None else whole(p.grad) for p in self.parameters])
        return real(self)

    Optimizer.clip_gradients = clip  # type: ignore[method-assign]
    try:
        yield gradients
    finally:
        Optimizer.clip_gradients = real  # type: ignore[method-assign]


def long_run(
    folder: Path, output: Path, *, resume: bool = False, die_at: int | None = None
) -> dict[str, Any]:
    """PPO of four steps with checkpoints, a critic, and a weight of KL that moves.

    Args:
        die_at: the step after which the process of rank 1 kills itself.
    """
    from rich.console import Console

    def kill(step: int, metrics: dict[str, float]) -> None:
        if step == die_at and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)

    plan = pt.ppo(TASK, credit={"kl_weight": 0.05, "kl_target": 0.001}, **SAMPLED)
    with in_float64():
        result = pt.fit(
            str(folder),
            plan,
            steps=4,
            output=output,
            resume=resume,
            hooks=[kill],
            save_every=2,
            console=Console(quiet=True),
        )
        model = result.model
    parts = {"": model.hf, "critic.": model.critic.hf}
    return {
        "folder": result.folder,
        "metrics": [untimed(row) for row in result.metrics],
        "weights": {
            f"{prefix}{n}": p.detach().numpy().copy()
            for prefix, part in parts.items()
            for n, p in part.named_parameters()
        },
    }


def failing_run(folder: Path, output: Path, kind: str) -> None:
    """A run that fails: by a reward, in a hook of rank 1, or by a loss that is not finite."""
    from rich.console import Console

    from posttrain.training.objective import Objective

    done = 0

    def broken(completions: list[str]) -> list[float]:
        if done:
            raise ValueError("the grader has gone")
        return [float(len(text)) for text in completions]

    def hook(step: int, metrics: dict[str, float]) -> None:
        nonlocal done
        done = step
        if kind == "hook" and step == 2 and os.environ["RANK"] == "1":
            raise OSError("this rank's disk is full")

    if kind == "reward":
        plan = pt.grpo(TASK, num_generations=2, **{**SAMPLED, "rewards": [broken]})
    else:
        plan = pt.sft(ROWS, **SHORT)
    if kind == "loss" and os.environ["RANK"] == "1":
        real = Objective.__call__

        def infinite(self: Any, *inputs: Any) -> Any:
            loss, metrics = real(self, *inputs)
            return loss * float("inf"), metrics

        Objective.__call__ = infinite  # type: ignore[method-assign]
    pt.fit(
        str(folder),
        plan,
        steps=3,
        output=output,
        hooks=[hook],
        save_every=1,
        console=Console(quiet=True),
    )
