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
    measured = ("step_time", "tokens_per_second", "memory/peak_mib")
    return [
        {k: v for k, v in row.items() if k not in measured}
        for row in lines(folder / "metrics.jsonl")
    ]


def weights(folder: Path) -> bytes:
    (file,) = (folder / "model").glob("*.safetensors")
    return file.read_bytes()


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
