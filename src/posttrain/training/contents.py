"""What a run is made from: rows, tokenizer, weights, users' files. A checkpoint holds its digests,
and a resume compares them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from posttrain import __version__
from posttrain.data.templates import template_fingerprint
from posttrain.models.loaded import LoadedModel, frozen_digest
from posttrain.models.loaded import weights_digest as loaded_digest
from posttrain.models.named import NamedModel
from posttrain.models.spec import ModelSpec
from posttrain.training import checkpoint
from posttrain.training.changes import Change
from posttrain.training.fingerprint import (
    rows_difference,
    rows_digest,
    tokenizer_digest,
    weights_digest,
)

IN_MEMORY = "memory "
"""What the digest of a model in memory begins with."""


def contents_of(saved: Mapping[str, Any]) -> dict[str, Any]:
    """What the run of a checkpoint was made from, as `contents` gave it. saved: its state."""
    return {"weights": {}, "frozen": {}, **saved.get("contents", {})}


def contents(
    models: Mapping[str, ModelSpec],
    tokenizer: Any,
    plugins: Sequence[Path],
    source: Any,
    *,
    begun: Mapping[str, Any],
    scores: Any = None,
) -> dict[str, Any]:
    """Digests of what a run is made from, and the versions that it runs with.

    Args:
        models: the one that is trained ("model") and those that help ("teacher", "critic").
        plugins: files of the user's functions. source: a fresh source of batches.
        begun: the digests of weights of the run that is gone on with. Files and models in memory
            have digests of different kinds; those of now are of its kinds. scores: of the plan.
    """
    digests = {name: _weights(name, spec, begun.get(name), scores) for name, spec in models.items()}
    return {
        "rows": rows_digest(source),
        "tokenizer": tokenizer_digest(tokenizer),
        "template": template_fingerprint(tokenizer),
        "weights": {name: whole for name, (whole, _) in digests.items()},
        "frozen": {name: frozen for name, (_, frozen) in digests.items() if frozen is not None},
        "plugins": {
            _plugin_name(i, path): checkpoint.file_digest(path) for i, path in enumerate(plugins)
        },
        "versions": {
            "posttrain": __version__,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        },
    }


def _weights(
    name: str, spec: ModelSpec, begun: str | None, scores: Any
) -> tuple[str | None, str | None]:
    """Digests of the weights that a run starts from: of all, and of those that training leaves
    alone, which files have none of.
    """
    in_memory = begun is not None and begun.startswith(IN_MEMORY)
    if isinstance(spec, LoadedModel):
        if begun is None or in_memory or spec.origin is None:
            return f"{IN_MEMORY}{spec.digest}", spec.frozen
        spec = NamedModel(spec.origin)
    if in_memory and name in ("model", "teacher"):
        model_scores = scores if name == "model" else None
        fresh = spec.load() if model_scores is None else spec.load_scores(per=model_scores)
        return f"{IN_MEMORY}{loaded_digest(fresh)}", frozen_digest(fresh)
    files = weights_digest(
        spec.place,
        revision=spec.config.revision,
        trust_remote_code=spec.config.trust_remote_code,
    )
    return files, None


def _plugin_name(index: int, path: Path) -> str:
    """The file's name; of later plugins with their place, as two folders may hold files of one
    name.
    """
    return f"{path.name} ({index + 1})" if index else path.name


def content_changes(
    saved: Mapping[str, Any], now: Mapping[str, Any], folder: Path, *, free: Collection[str] = ()
) -> list[Change]:
    """What differs of that a run is made from.

    Args:
        free: models of which the checkpoint holds all that training moves, and nothing needs the
            start.
    """
    changes = []
    rows = rows_difference(saved["rows"], now["rows"])
    if rows is not None:
        changes.append(Change("data", "accept", f"data: {rows}"))
    if saved["template"] != now["template"]:
        text = (
            f"{folder} was trained with the chat template {saved['template']}, this recipe's is "
            f"{now['template']}"
        )
        changes.append(Change("tokenizer", "refused", text))
    if saved["tokenizer"] != now["tokenizer"]:
        changes.append(
            Change(
                "tokenizer", "refused", "tokenizer: it gives other ids, or reads them as other text"
            )
        )
    for name in sorted(saved["weights"].keys() | now["weights"].keys()):
        frozen = [of.get("frozen", {}).get(name) for of in (saved, now)]
        if name in free and frozen[0] is not None and frozen[0] == frozen[1]:
            continue
        if saved["weights"].get(name) != now["weights"].get(name):
            changes.append(
                Change(
                    "weights",
                    "accept",
                    f"weights: those of {name} are others than at the start",
                    _why_needed(saved["weights"].get(name), name),
                )
            )
    for name in sorted(saved["plugins"].keys() | now["plugins"].keys()):
        if saved["plugins"].get(name) != now["plugins"].get(name):
            changes.append(Change("plugins", "accept", f"plugins: {name} has changed"))
    for name, value in now["versions"].items():
        if saved["versions"].get(name) != value:
            changes.append(
                Change(name, "rounding", f"{name}: {saved['versions'].get(name)} -> {value}")
            )
    return changes


def _why_needed(begun: str | None, name: str) -> str:
    """Why other weights matter, where the checkpoint itself holds those that were trained."""
    if begun is None or not begun.startswith(IN_MEMORY):
        return ""
    if name == "model":
        return (
            "the run began from a model in memory, with whose weights it compares; they are in its "
            "folder, and a loaded model takes them over: pt.fit(pt.load(...), ..., resume=True)"
        )
    return "it was given as a model in memory"
