"""posttrain's side. side_ours.py WORKLOAD FOLDER SETTING [WEIGHTS] -> one line of JSON, the
last.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from workloads import Clock, Workload, arguments, score


def recipe(workload: Workload, folder: Path, setting: dict[str, Any]) -> dict[str, Any]:
    """The recipe of a training workload. setting: `precision` fp32 or bf16; `micro_tokens`, the
    micro-batch's budget.
    """
    raw: dict[str, Any] = {
        "model": {
            "path": str(folder / "model"),
            "dtype": dtype_of(setting),
            "device": workload.device,
        },
        "output": tempfile.mkdtemp() + "/run",
        "max_steps": workload.steps + workload.warm,
        "batch_size": workload.rows,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "save_every": 0,
    }
    if "micro_tokens" in setting:
        raw["max_tokens_per_micro_batch"] = setting["micro_tokens"]
    if workload.kind in ("sft", "dpo", "reward"):
        method = "reward_model" if workload.kind == "reward" else workload.kind
        data = {"path": str(folder / "rows.jsonl"), "max_length": 2048}
        return {**raw, "method": method, "data": data}
    return {
        **raw,
        "method": "grpo",
        "task": {"name": "jsonl", "path": str(folder / "rows.jsonl")},
        "rewards": ["number"],
        "num_generations": workload.group,
        "sampling": {"max_tokens": workload.new_tokens},
    }


def dtype_of(setting: dict[str, Any]) -> str:
    """The model's precision."""
    return "bfloat16" if setting["precision"] == "bf16" else "float32"


def train(workload: Workload, folder: Path, setting: dict[str, Any], weights: Path | None) -> None:
    """The whole run, as `posttrain run` makes it; the time of a step includes its hooks."""
    from rich.console import Console

    from posttrain.engines.torch import TorchEngine
    from posttrain.recipe import parse_recipe
    from posttrain.registry import rewards
    from posttrain.runs import run_of
    from posttrain.training import hooks, session

    def number(completions):  # type: ignore[no-untyped-def]
        """A number from the words written."""
        return [score(c) for c in completions]

    rewards.register(number)
    run = run_of(parse_recipe(recipe(workload, folder, setting)), console=Console(stderr=True))
    clock = Clock(workload)
    shown: dict[str, float] = {}
    write, loop = hooks.MetricsWriter.__call__, session.train

    def ticking(self: Any, step: int, metrics: dict[str, float]) -> None:
        write(self, step, metrics)
        shown.update(metrics)
        clock.tokens = metrics.get("num_tokens", 0.0)
        clock.tick()

    def beginning(*args: Any, **kwargs: Any) -> Any:
        clock.begin()
        return loop(*args, **kwargs)

    hooks.MetricsWriter.__call__ = ticking  # type: ignore[method-assign]
    session.train = beginning  # type: ignore[assignment]
    TorchEngine.generate = clock.sampled(TorchEngine.generate)  # type: ignore[method-assign]
    output = run.execute()
    result = clock.result()
    if weights is not None:
        shutil.copy(output / "model" / "model.safetensors", weights)
    print("\n" + json.dumps({**result, "mean_length": shown.get("completions/mean_length", 0.0)}))


def sample(workload: Workload, folder: Path, setting: dict[str, Any]) -> None:
    """The embedded engine."""
    from posttrain.engines.torch import TorchEngine
    from posttrain.models.load import load_model
    from posttrain.types import Request, Sampling

    model = load_model(str(folder / "model"), dtype=dtype_of(setting), device=workload.device)
    model.hf.generation_config.eos_token_id = None
    model.tokenizer.eos_token = None
    row = json.loads((folder / "rows.jsonl").read_text().splitlines()[0])
    ids = tuple(model.tokenizer(row["prompt"])["input_ids"])
    engine = TorchEngine(model)
    clock = Clock(workload)
    clock.begin()
    for seed in range(workload.steps + workload.warm):
        (group,) = engine.generate(
            [Request(ids, Sampling(max_tokens=workload.new_tokens), n=workload.group, seed=seed)]
        )
        assert all(len(s.ids) == workload.new_tokens for s in group)
        clock.tick()
    clock.print()


def tokenise(workload: Workload, folder: Path) -> None:
    """From the file of rows to training sequences, as method sft does it."""
    from posttrain.data.encode import encode_rows
    from posttrain.data.rows import load_rows
    from posttrain.models.load import load_tokenizer

    tokenizer = load_tokenizer(str(folder / "model"))
    clock = Clock(workload)
    clock.begin()
    assert (
        len(encode_rows(load_rows(str(folder / "rows.jsonl")), tokenizer).sequences)
        == workload.rows
    )
    clock.tick()
    clock.print()


if __name__ == "__main__":
    from posttrain import kernels

    kernels.setup()  # as the command line does
    chosen, place, how, kept = arguments()
    if chosen.kind == "sample":
        sample(chosen, place, how)
    elif chosen.kind == "tokenise":
        tokenise(chosen, place)
    else:
        train(chosen, place, how, kept)
