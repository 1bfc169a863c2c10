"""Which language a text is in, by its script and its commonest words: a light heuristic.

It tells apart the scripts, and of Latin and Cyrillic script those languages whose commonest words
are listed. It is no match for a trained classifier on texts of a few words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from posttrain.errors import ConfigError
from posttrain.registry import qualities

Array = np.ndarray

_COMMON = {
    "en": "the of and to in is that it was for on are with as at be this have from you not an by",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch",
    "fr": "le la les de des et à en un une du est que pour dans qui il sur pas au par ce plus ne",
    "es": "el la de que y en los se del las un por con una su para es al lo como más pero sus",
    "it": "il di che e la in un è per una sono con non del si le da nel gli alla dei come più",
    "pt": "o de que e a do da em um para é com não uma os no se na por mais as dos como mas ao",
    "nl": "de het een en van in is dat op te zijn met voor niet aan er om ook als dan maar bij",
    "sv": "och i att det som en på är av för med den till inte har de ett om så från var vi",
    "pl": "w i na z się nie do to że jest o jak po za od ale przez co tak czy dla tym są",
    "tr": "bir ve bu için de da ile ne olarak daha çok gibi var ama o en sonra kadar olan",
    "ru": "и в не на что с по это как но за из для от так же у все он она они было бы к",
    "uk": "і в не на що з та як до за це від але для у по є про він вона вони його й",
}
_WORDS = {code: frozenset(words.split()) for code, words in _COMMON.items()}
_SCRIPTS = (
    ("ja", re.compile(r"[\u3040-\u30ff]")),
    ("ko", re.compile(r"[\uac00-\ud7af]")),
    ("zh", re.compile(r"[\u4e00-\u9fff]")),
    ("ar", re.compile(r"[\u0600-\u06ff]")),
    ("he", re.compile(r"[\u0590-\u05ff]")),
    ("hi", re.compile(r"[\u0900-\u097f]")),
    ("th", re.compile(r"[\u0e00-\u0e7f]")),
    ("el", re.compile(r"[\u0370-\u03ff]")),
)
_LETTERS = re.compile(r"[^\W\d_]+", re.UNICODE)
_CYRILLIC = re.compile(r"[\u0400-\u04ff]")
_READ = 4000  # characters of a text
LANGUAGES = (*_WORDS, *(code for code, _ in _SCRIPTS))
"""Codes of the languages that are told apart."""


@qualities.register
def language(texts: Sequence[str], *, code: str = "en") -> Array:
    """Share of the evidence for one language, from 0 to 1. [R] -> [R].

    Evidence is the letters of scripts that one language alone is written in, and the words that
    are among a language's commonest. NaN without any, as in a formula.

    code: of the language: en, de, fr, es, it, pt, nl, sv, pl, tr, ru, uk, ja, ko, zh, ar, he, hi,
    th, el.
    """
    if code not in LANGUAGES:
        raise ConfigError(f"language: code {code!r} is none of {', '.join(LANGUAGES)}")
    values = []
    for text in texts:
        shares = evidence(text)
        values.append(shares.get(code, 0.0) if shares else np.nan)
    return np.array(values, dtype=np.float64)


def evidence(text: str) -> dict[str, float]:
    """Shares of the evidence for each language; empty without any.

    >>> evidence("Das ist nicht der Hund")["de"]
    1.0
    """
    text = text[:_READ]
    words = [word.lower() for word in _LETTERS.findall(text)]
    letters = sum(map(len, words))
    if not letters:
        return {}
    scripts = {code: len(pattern.findall(text)) for code, pattern in _SCRIPTS}
    if scripts["ja"]:  # Japanese is written with Han characters too
        scripts["ja"] += scripts.pop("zh")
    of_scripts = {code: number / letters for code, number in scripts.items() if number}
    rest = 1 - sum(of_scripts.values())
    cyrillic = bool(_CYRILLIC.search(text))
    codes = ("ru", "uk") if cyrillic else tuple(c for c in _WORDS if c not in ("ru", "uk"))
    counts = {code: sum(word in _WORDS[code] for word in words) ** 2 for code in codes}
    total = sum(counts.values())
    if not total:
        return {code: share / (1 - rest) for code, share in of_scripts.items()} if rest < 1 else {}
    return of_scripts | {code: rest * n / total for code, n in counts.items() if n}


def detect(text: str) -> str:
    """The language with most evidence; "" without any."""
    shares = evidence(text)
    return max(shares, key=lambda code: shares[code]) if shares else ""
