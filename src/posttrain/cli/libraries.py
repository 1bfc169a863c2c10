"""Settings of libraries that must be made before they are imported."""

from __future__ import annotations

import dataclasses
import os
import socket
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from posttrain.config import DataConfig, ModelConfig, Recipe
from posttrain.model_config import EMBEDDED_MODELS
from posttrain.recipe_paths import STAGE

HUB_SECONDS = 3.0
"""How long the hub may take to answer before it counts as unreachable."""


def prepare_libraries(recipe: Recipe | None = None, *, names: Iterable[str] = ()) -> None:
    """Make the libraries quiet, and tell them if the Hugging Face hub cannot be reached.

    An offline hub library repeats each request for 25 seconds; with HF_HUB_OFFLINE it reads its
    cache at once. The hub is tried only if a name of the recipe, or of `names`, is no local path.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    hub_names = [*names, *(() if recipe is None else _names(recipe))]
    if "HF_HUB_OFFLINE" in os.environ or not any(is_hub_id(name) for name in hub_names):
        return
    if not hub_is_reachable():
        os.environ["HF_HUB_OFFLINE"] = "1"


def is_hub_id(name: str) -> bool:
    """Whether a name is no file, no folder and no name of ours, so that the hub is asked for it."""
    if name in EMBEDDED_MODELS or name.startswith((STAGE, "/", ".", "~")):
        return False
    return name.count("/") <= 1 and not Path(name).exists()


def hub_is_reachable(seconds: float = HUB_SECONDS) -> bool:
    """Whether the hub's address accepts a connection within some seconds.

    Behind a proxy it is not tried, and counts as reachable.
    """
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True
    address = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    port = address.port or (80 if address.scheme == "http" else 443)
    connected = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((address.hostname or "", port), timeout=seconds).close()
            connected.set()
        except OSError:
            pass

    # The look-up of a name has no time limit of its own, so a thread does it.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return connected.is_set()


def _names(value: Any) -> list[str]:
    """The paths of models and data in a recipe, its settings included."""
    if isinstance(value, ModelConfig):
        return [value.path, *([value.tokenizer] if value.tokenizer else [])]
    if isinstance(value, DataConfig):
        return [name for name in (value.path, *(s.path for s in value.sources)) if name]
    if isinstance(value, Recipe):
        parts = [getattr(value, f.name) for f in dataclasses.fields(value)]
        return [name for part in parts for name in _names(part)]
    if isinstance(value, dict):
        stage = [v for k, v in value.items() if k in ("model", "data") and isinstance(v, str)]
        return stage + [name for part in value.values() for name in _names(part)]
    if isinstance(value, list):
        return [name for part in value for name in _names(part)]
    return []
