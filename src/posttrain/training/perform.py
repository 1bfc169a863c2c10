"""`perform` does a job: sampling, labelling or measuring with a model that is not trained."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from posttrain.config import ModelConfig
from posttrain.errors import ConfigError
from posttrain.models.forest_model import ForestModel
from posttrain.models.spec import ModelSpec, model_spec
from posttrain.training.folder import RunFolder
from posttrain.training.plan import Job


def perform(
    model: ModelSpec | ForestModel | ModelConfig | str | Path | None,
    job: Job,
    *,
    output: str | Path | None = None,
    seed: int = 0,
    console: Console | None = None,
    resume: bool = False,
) -> Any:
    """Do a job with a model and return its result.

    Args:
        model: a loaded model, a folder, a hub id, "embedded"; None where the job brings its own.
        output: the folder of its files; None keeps the result in memory alone.
        seed: of what is sampled.
        resume: go on with the job that `output` holds.

    Raises:
        CheckpointError: the job was begun with other settings.
        ConfigError, DataError: found before any weights are loaded.
    """
    if resume and (output is None or not job.resumes):
        why = "it needs output, the folder of the job" if job.resumes else f"{job.method} cannot"
        raise ConfigError(f"resume: {why}; leave it out")
    console = console or Console()
    spec = None if model is None else model_spec(model, seed=seed)
    prepared = job.prepare(spec, seed)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(output) if output is not None else Path(scratch) / "job"
        folder = RunFolder(
            place,
            {"method": job.method, "in_python": True, **_recorded(job, seed)},
            resume=resume,
            console=console,
            seed=seed,
            temporary=output is None,
        )
        folder.refuse_existing()
        if resume and folder.holds_run:
            folder.refuse_other_recipe()
        try:
            return prepared.run(folder)
        finally:
            prepared.close()


def _recorded(job: Job, seed: int) -> dict[str, Any]:
    """What a resume compares. Rows in memory are compared by the job itself."""
    if not job.resumes:
        return {}
    settings = {name: value for name, value in job.settings.items() if name != "data"}
    return {"settings": {"seed": seed, **settings}}
