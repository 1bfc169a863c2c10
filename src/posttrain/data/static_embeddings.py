"""Static sentence embeddings: the mean of a sentence's token vectors, without a forward pass.

The package wordllama holds its weights, so nothing is fetched.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.errors import ConfigError

_PACKAGE = "wordllama"


def sentence_vectors(texts: Sequence[str]) -> np.ndarray:
    """Vectors of length 1. texts [B] -> float64 [B, 256].

    Raises:
        ConfigError: the extra is not installed.
    """
    vectors = np.asarray(_model().embed(list(texts)), dtype=np.float64)
    # A text without a token has the vector 0, which has no direction.
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


@functools.cache
def _model() -> Any:
    try:
        from wordllama import WordLlama
    except ImportError as error:
        raise ConfigError(
            "similarity: embeddings need the package wordllama; pip install "
            "'posttrain[embeddings]', or set similarity=words"
        ) from error
    # Version 0.4.0 looks for its own tokenizer in a cache folder alone: the package is that folder.
    package = Path(inspect.getfile(WordLlama)).parent
    return WordLlama.load(cache_dir=package, disable_download=True)


def check_installed() -> None:
    """Refuse a missing package before weights are loaded.

    Raises:
        ConfigError: the extra is not installed.
    """
    if importlib.util.find_spec(_PACKAGE) is None:
        _model()
