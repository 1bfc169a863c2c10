"""Which expressions cost more than a parser should spend: towers of powers, huge factorials."""

from __future__ import annotations

import math
import re

MAX_LENGTH = 1000
MAX_NESTING = 40
MAX_DIGITS = 100_000
"""Of a power of whole numbers. One with more decimal digits is not computed."""

_FACTORIAL = re.compile(r"\d{6,}\s*[)}]*\s*!|!\s*!\s*!")
_BASE = re.compile(r"(\d+)[\s)}]*$")
_WHOLE = re.compile(r"\d+")
_CLOSING = {"{": "}", "(": ")"}


def too_heavy(text: str) -> bool:
    """Whether an expression is too long, too deep or too large to be worth parsing.

    Powers count by their size: x^2 + y^2 and 3^4 5^2 are light, 10^{10^{10}} and 2^{9999999} are
    not. What is light here can still be slow; the judging process has a deadline for that.
    """
    depth = deepest = 0
    for letter in text:
        depth += (letter in "{([") - (letter in "})]")
        deepest = max(deepest, depth)
    if len(text) > MAX_LENGTH or deepest > MAX_NESTING:
        return True
    if _FACTORIAL.search(text):
        return True
    return any(_digits(text, place) > MAX_DIGITS for place, c in enumerate(text) if c == "^")


def _digits(text: str, place: int) -> float:
    """Decimal digits of the power whose "^" stands at a place; 0 where it is not of numbers."""
    base = _BASE.search(text[max(0, place - 20) : place])
    if base is None or int(base[1]) < 2:
        return 0.0
    exponent = _exponent(text, place + 1)
    return 0.0 if exponent is None else exponent * math.log10(int(base[1]))


def _exponent(text: str, place: int) -> float | None:
    """The value of what follows a "^": a whole number or a power of them; None for anything
    else.
    """
    while place < len(text) and text[place] in " {(":
        place += 1
    base = _WHOLE.match(text, place)
    if base is None:
        return None
    value = float(base[0]) if len(base[0]) < 300 else math.inf
    place = base.end()
    while place < len(text) and text[place] == " ":
        place += 1
    if place < len(text) and text[place] == "^":
        power = _exponent(text, place + 1)
        if power is None or value < 2:
            return None if power is None else value
        return value**power if power * math.log10(value) < 300 else math.inf
    return value
