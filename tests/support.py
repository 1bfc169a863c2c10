"""What tests of whole runs share: rows to files and back, runs that are stopped with Ctrl-C and
resumed.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def told(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, without those that depend on the machine."""
    measured = (
        "step_time",
        "tokens_per_second",
        "memory/peak_mib",
        "episodes/tool_seconds",
        "sampling/trainer_wait_seconds",
        "sampling/engine_wait_seconds",
    )
    return [
        {k: v for k, v in row.items() if k not in measured}
        for row in lines(folder / "metrics.jsonl")
    ]


def weights(folder: Path) -> bytes:
    (file,) = (folder / "model").glob("*.safetensors")
    return file.read_bytes()


def tiny_model(folder: Path, lora: dict[str, Any] | None = None) -> dict[str, Any]:
    """A recipe's model in float32, with adapters where there are settings of such."""
    return {"path": str(folder), "dtype": "float32", **({"lora": lora} if lora else {})}


def interrupted(
    run_recipe: Callable[..., Path], after: int, *, message: str | None = None, **raw: Any
) -> None:
    """Run until Ctrl-C after a step, which leaves a checkpoint."""
    from posttrain.training import hooks
    from posttrain.training.ending import Interrupted

    real = hooks.MetricsWriter.__call__

    def stop(self: Any, step: int, metrics: dict[str, float]) -> None:
        real(self, step, metrics)
        if step == after:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hooks.MetricsWriter, "__call__", stop)
        with pytest.raises(
            Interrupted, match=message or f"stopped after step {after} .*posttrain resume"
        ):
            run_recipe(**raw)


def stopped_and_resumed(
    run_recipe: Callable[..., Path], folder: Path, after: int, **raw: Any
) -> tuple[Path, Path]:
    """The same run in one go, and in two."""
    whole = run_recipe(**raw, output=str(folder / "whole"))
    interrupted(run_recipe, after, **raw, output=str(folder / "half"))
    return whole, run_recipe(**raw, output=str(folder / "half"), resume=True)


def resolved(arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The recipe that a dry run of a command shows."""
    import yaml

    from posttrain.cli import main

    assert main([*arguments.split(), "--dry-run"]) == 0
    text = capsys.readouterr().out.partition("with this recipe:\n")[2]
    recipe = yaml.safe_load(text)
    assert not Path(recipe["output"]).exists()
    return dict(recipe)


def weights_of(model: Any) -> str:
    """Digest of all weights of a model in memory."""
    content = hashlib.sha256()
    for name, parameter in model.hf.named_parameters():
        content.update(name.encode() + parameter.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()


def without_weights(patch: pytest.MonkeyPatch) -> None:
    """Let every load of weights fail, for tests of what is checked before."""
    from posttrain.models import named

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("weights were loaded")

    patch.setattr(named, "load_model", refuse)
    patch.setattr(named, "load_score_model", refuse)


def checked(tmp_path: Path, tiny_folder: Path, **raw: Any) -> str:
    """What `posttrain check` prints of a recipe."""
    import io

    from rich.console import Console

    from posttrain.recipe import parse_recipe
    from posttrain.runs import run_of

    out = io.StringIO()
    recipe = parse_recipe(
        {
            "model": {"path": str(tiny_folder), "dtype": "float32"},
            "output": str(tmp_path / "run"),
            **raw,
        },
        tmp_path,
    )
    run_of(recipe, console=Console(file=out, width=500)).check()
    return out.getvalue()


def prompts_task(tmp_path: Path, num_long: int, num: int = 20) -> dict[str, Any]:
    """A task of short prompts, of which the first `num_long` exceed the tiny model's context."""
    rows = [
        {"prompt": "a" * (600 if i < num_long else 5), "answer": "1", "id": f"p{i}"}
        for i in range(num)
    ]
    return {"name": "jsonl", "path": write(tmp_path / "prompts.jsonl", rows)}
