"""Which language the rows are in (`data.languages`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from posttrain.data.languages import LANGUAGES, language_shares
from posttrain.errors import ConfigError
from posttrain.registry import qualities

Array = np.ndarray


@qualities.register
def language(texts: Sequence[str], *, code: str = "en") -> Array:
    """Share of the letters that are in one language, from 0 to 1. [R] -> [R].

    Languages are told by script, and within a script by their commonest words: a light heuristic,
    no match for a trained classifier on texts of a few words. NaN where no language is known, as in
    a formula.

    code: of the language (ISO 639-1), such as en, de, fr, es, ru, zh, ja, ar.
    """
    if code not in LANGUAGES:
        raise ConfigError(f"language: code {code!r} is none of {', '.join(LANGUAGES)}")
    values = []
    for text in texts:
        shares = language_shares(text)
        is_known = any(shares) if shares else False
        values.append(shares.get(code, 0.0) if is_known else np.nan)
    return np.array(values, dtype=np.float64)
