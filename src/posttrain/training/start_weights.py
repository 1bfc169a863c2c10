"""The weights that a run with a model in memory began from, where a resume needs them.

A model in memory may have learnt since. A checkpoint holds its trained weights; three things need
those of the start besides: a reference that is a copy of the model, a filter of the rows by the
model, and the rounds of a loop. Such a run keeps them in its folder, once.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from posttrain.errors import CheckpointError
from posttrain.files import flush
from posttrain.models.forest_model import ForestModel
from posttrain.models.loaded import LoadedModel, frozen_digest, trained_weights
from posttrain.models.named import NamedModel
from posttrain.models.spec import ModelSpec
from posttrain.training.contents import IN_MEMORY, contents_of
from posttrain.training.plan import Plan
from posttrain.training.resume import Start
from posttrain.world import World

_ALONE = World.alone()

START = "start.safetensors"
"""The file of a run's folder that holds them."""


def are_needed(spec: ModelSpec, plan: Plan, objective: Any, model: Any, *, filtered: bool) -> bool:
    """Whether a resume needs the trained weights of the start.

    Args:
        filtered: whether the model chose the rows.
    """
    if not isinstance(spec, LoadedModel):
        return False  # it can be loaded again
    compares = plan.reference.in_memory(objective) or plan.reference.cached
    return filtered or (compares and not getattr(model, "base_is_reference", True))


def keep(folder: Path, model: ForestModel, world: World = _ALONE) -> None:
    """Write the weights of a model that has not been trained yet: the main process does, and where
    the model is in shares the others take part.
    """
    shares = model.sharding
    with contextlib.nullcontext() if shares is None else shares.gathered():
        if world.is_main:
            _write(folder, model)


def _write(folder: Path, model: ForestModel) -> None:
    target = folder / START
    partial = folder / f".{START}.partial-{os.getpid()}"
    tensors = {name: t.contiguous() for name, t in trained_weights(model).items()}
    save_file(tensors, partial)
    flush(partial)
    partial.replace(target)
    flush(folder)


def bring(spec: ModelSpec, start: Start, *, seed: int, scores: Any) -> None:
    """Bring a model in memory to where the run began, as far as a resume needs it.

    Args:
        seed: of the run. scores: of the plan.

    Raises:
        CheckpointError: what is needed is not at hand; the model is left as it was.
    """
    if not isinstance(spec, LoadedModel) or not start.saved:
        return
    if "fresh_adapters" in start.saved:
        spec.begin_as(fresh_adapters=start.saved["fresh_adapters"])
    saved = contents_of(start.saved)
    begun = str(saved["weights"].get("model"))
    if not begun.startswith(IN_MEMORY):
        _bring_named(spec, start, seed, scores)
        return
    if saved["frozen"].get("model") != spec.frozen:
        raise CheckpointError(
            f"{start.folder} is not resumed: the weights that it does not train are others in this "
            "model than at the start, and checkpoints do not hold them. Load the model as it was "
            "loaded then"
        )
    file = start.folder / START
    if begun == f"{IN_MEMORY}{spec.digest}" or not file.is_file():
        return
    try:
        spec.begin_at(load_file(file), file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read ({error})") from error
    if begun != f"{IN_MEMORY}{spec.digest}":
        raise CheckpointError(
            f"{file} is damaged: it does not hold the weights that {start.folder} began from. "
            f"Start a new run: {start.caller.start_from(start.checkpoint or start.folder)}"
        )


def _bring_named(spec: LoadedModel, start: Start, seed: int, scores: Any) -> None:
    """As `bring`, for a run that began from a folder or hub id."""
    if spec.origin is None:
        raise CheckpointError(
            f"{start.folder} began from a folder or hub id, and where this model comes from is "
            f"not known. Resume it with that name: "
            f"{start.caller.resume(start.folder)} with model={_named(start)!r}"
        )
    named = NamedModel(spec.origin, seed=seed)
    fresh = named.load_scores(per=scores) if scores is not None else named.load()
    if frozen_digest(fresh) != spec.frozen:
        raise CheckpointError(
            f"{start.folder} is not resumed: the weights that it does not train are others in this "
            f"model than in {named.name}. Give the name: pt.fit({named.name!r}, ...)"
        )
    spec.begin_at(trained_weights(fresh), named.name)


def _named(start: Start) -> str:
    """The model of the run's recipe."""
    model = start.saved.get("recipe", {}).get("model", "")
    return str(model.get("path", "")) if isinstance(model, dict) else str(model)
