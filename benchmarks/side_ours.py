"""posttrain's side. side_ours.py WORKLOAD FOLDER SETTING -> one line of JSON."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from workloads import Clock, Workload, arguments, score


def recipe(workload: Workload, folder: Path, setting: str) -> dict[str, Any]:
    """The recipe of a training workload. setting: fp32 or bf16."""
    raw: dict[str, Any] = {
        "model": {
            "path": str(folder / "model"),
            "dtype": "bfloat16" if setting == "bf16" else "float32",
            "device": workload.device,
        },
        "output": tempfile.mkdtemp() + "/run",
        "max_steps": workload.steps + workload.warm,
        "batch_size": workload.rows,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "save_every": 0,
    }
    if workload.kind in ("sft", "dpo", "reward"):
        method = "reward_model" if workload.kind == "reward" else workload.kind
        return {**raw, "method": method, "data": str(folder / "rows.jsonl")}
    return {
        **raw,
        "method": "grpo",
        "task": {"name": "jsonl", "path": str(folder / "rows.jsonl")},
        "rewards": ["number"],
        "num_generations": workload.group,
        "sampling": {"max_tokens": workload.new_tokens},
    }


def train(workload: Workload, folder: Path, setting: str) -> None:
    """The whole run, as `posttrain run` makes it; the time of a step includes its hooks."""
    from rich.console import Console

    from posttrain.methods.run import Run
    from posttrain.recipe import parse_recipe
    from posttrain.registry import rewards
    from posttrain.training import hooks

    def number(completions):  # type: ignore[no-untyped-def]
        """A number from the words written."""
        return [score(c) for c in completions]

    rewards.register(number)
    run = Run(parse_recipe(recipe(workload, folder, setting)), console=Console(stderr=True))
    clock = Clock(workload)
    shown: dict[str, float] = {}
    write = hooks.MetricsWriter.__call__

    def ticking(self: Any, step: int, metrics: dict[str, float]) -> None:
        write(self, step, metrics)
        shown.update(metrics)
        clock.tick()

    hooks.MetricsWriter.__call__ = ticking  # type: ignore[method-assign]
    run.execute()
    clock.tell(mean_length=shown.get("completions/mean_length", 0.0))


def sample(workload: Workload, folder: Path, setting: str) -> None:
    """The embedded engine."""
    from posttrain.engines.torch import TorchEngine
    from posttrain.models.load import load_model
    from posttrain.types import Request, Sampling

    model = load_model(str(folder / "model"), dtype="bfloat16" if setting == "bf16" else "float32", device=workload.device)
    model.hf.generation_config.eos_token_id = None
    model.tokenizer.eos_token = None
    row = json.loads((folder / "rows.jsonl").read_text().splitlines()[0])
    ids = tuple(model.tokenizer(row["prompt"])["input_ids"])
    engine = TorchEngine(model)
    clock = Clock(workload)
    for seed in range(workload.steps + workload.warm):
        (group,) = engine.generate([Request(ids, Sampling(max_tokens=workload.new_tokens), n=workload.group, seed=seed)])
        assert all(len(s.ids) == workload.new_tokens for s in group)
        clock.tick()
    clock.tell()


def tokenise(workload: Workload, folder: Path, setting: str) -> None:
    """From the file of rows to training sequences, as method sft does it."""
    from posttrain.data.encode import encode_rows
    from posttrain.data.rows import load_rows
    from posttrain.models.load import load_tokenizer

    tokenizer = load_tokenizer(str(folder / "model"))
    clock = Clock(workload)
    clock.tick()
    assert len(encode_rows(load_rows(str(folder / "rows.jsonl")), tokenizer).sequences) == workload.rows
    clock.tick()
    clock.tell()


if __name__ == "__main__":
    chosen, place, how = arguments()
    {"sample": sample, "tokenise": tokenise}.get(chosen.kind, train)(chosen, place, how)
