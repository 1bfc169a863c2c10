r"""What stands around the number of an answer: a final period, money, per cent, units.

A mathematician reads `8\%` as 0.08, `5 cm` as a length and `\$18.90` as an amount of dollars.
math-verify drops all three. An answer is split here into an expression and a unit, and two units
are compared by dimension and factor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from posttrain.rewards.exact import join_thousands, parse_number

Dimension = tuple[tuple[str, int], ...]
"""Base dimensions with their powers, sorted: (("length", 1), ("time", -1)) of a speed."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as a factor times base units. implied: an answer may leave it out (all but %)."""

    dimension: Dimension
    factor: Fraction
    implied: bool = True
    letter: bool = False  # a lone letter outside \text, which may be a variable


PERCENT = Unit((), Fraction(1, 100), implied=False)

_BASE: dict[str, tuple[str, int, dict[str, str]]] = {
    # dimension: names, with the factor of each to the base unit
    "length": (
        "length",
        1,
        {
            "1/1000": "mm millimeter millimetre",
            "1/100": "cm centimeter centimetre",
            "1": "m meter metre",
            "1000": "km kilometer kilometre",
            "0.0254": "in inch inches",
            "0.3048": "ft foot feet",
            "0.9144": "yd yard",
            "1609.344": "mi mile",
        },
    ),
    "mass": (
        "mass",
        1,
        {
            "1/1000": "mg milligram",
            "1": "g gram gramme",
            "1000": "kg kilogram kilo",
            "1000000": "tonne",
            "453.59237": "lb lbs pound",
            "28.349523125": "oz ounce",
        },
    ),
    "time": (
        "time",
        1,
        {
            "1/1000": "ms millisecond",
            "1": "s sec second",
            "60": "min minute",
            "3600": "h hr hour",
            "86400": "day",
            "604800": "week",
        },
    ),
    "volume": ("length", 3, {"1/1000000": "ml milliliter millilitre", "1/1000": "l liter litre"}),
    "money": ("dollars", 1, {"1/100": "cent ¢", "1": "dollar usd"}),
    "euros": ("euros", 1, {"1": "€ euro eur"}),
    "angle": ("angle", 1, {"1": "degree deg °"}),
}


def _table() -> dict[str, tuple[Dimension, Fraction]]:
    units: dict[str, tuple[Dimension, Fraction]] = {}
    for dimension, power, factors in _BASE.values():
        for factor, names in factors.items():
            for name in names.split():
                units[name] = (((dimension, power),), Fraction(factor))
                if len(name) > 3 and name.isalpha() and name not in ("feet", "inches"):
                    units[f"{name}s"] = units[name]
    hour = {"length": 1, "time": -1}
    units["mph"] = (tuple(hour.items()), Fraction("1609.344") / 3600)
    units["kph"] = units["kmh"] = (tuple(hour.items()), Fraction(1000, 3600))
    for short in ("hr", "min", "sec", "day", "euro", "deg"):
        units[f"{short}s"] = units[short]
    return units


UNITS = _table()
_PERCENT_NAMES = frozenset({"%", "percent", "per cent", "pct"})
_WRAPPED = re.compile(
    r"\\(?:text|textrm|textbf|textit|mathrm|mathbf|mbox|operatorname|rm)\s*\{([^{}]*)\}"
    r"(\^\s*(?:\{\s*-?\d\s*\}|-?\d))?$"
)
_LETTER = re.compile(r"[A-Za-z°¢€%]")
_WHOLE_WRAPPED = re.compile(r"\\(?:text|textrm|textbf|mathrm|mathbf|mbox|boxed)\s*\{([^{}]*)\}")
_DEGREES = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\}|\{\s*°\s*\}|°)$|(?:\\degree)$")
_TOKEN = re.compile(r"(square|sq|cubic|cu)?\s*([a-z°¢€]+)(?:\^?(-?\d)| (squared|cubed))?")
_SPACE = re.compile(r"\\[,;:! ]|\\quad|~|[\u00a0\u202f]")
_END_SPACES = re.compile(r"(?:\\[,;:! ]|\\quad|~|[ \u00a0\u202f])+$")
_OPERATOR = re.compile(
    r"(?:[-+*/=^_<>,({\[|&]"
    r"|\\(?:cdot|times|div|in|leq?|geq?|neq?|lt|gt|pm|mp|cup|cap|to|frac|sqrt))$"
)
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:/\d+)?|[-+]?\.\d+")
_INNER_PERCENT = re.compile(r"(\d[\d,]*(?:\.\d+)?)\s*\\?%")
_LOOSE = re.compile(r"(?<![0-9A-Za-z])\s+|\s+(?![0-9A-Za-z])")


def clean(text: str) -> str:
    r"""An answer without what surrounds it: spaces, $...$, \(...\), a final period or comma."""
    before = None
    text = text.replace("\u2212", "-").strip()
    while text and text != before:
        before = text
        if text[-1] in ".,;:" and not text.endswith(("..", "\\,", "\\;", "\\:")):
            text = text[:-1].rstrip()
        if text.endswith("\\\\"):
            text = text[:-2].rstrip()
        for start, end in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
            inner = text[len(start) : -len(end)]
            closed = len(text) > len(start + end) and text.startswith(start) and text.endswith(end)
            if closed and start not in inner and not inner.endswith("\\"):
                text = inner.strip()
        wrapped = _WHOLE_WRAPPED.fullmatch(text)
        if wrapped is not None and parse_number(wrapped[1]) is not None:
            text = wrapped[1].strip()
    return text


def compact(text: str) -> str:
    """Without the spaces that separate no letters or digits: equal texts are equal answers."""
    return _LOOSE.sub("", " ".join(text.split()))


def split_unit(text: str) -> tuple[str, Unit | None]:
    r"""An answer as an expression and a unit: `5\text{ cm}` gives ("5", centimetre).

    None where it has none that is listed here; the text is then as it was.
    """
    text = text.strip()
    money = next((m for m in ("\\$", "$", "€") if text.lstrip("-+").startswith(m)), None)
    if money is not None and (money != "$" or text.count("$") == 1):
        sign = text[: len(text) - len(text.lstrip("-+"))]
        head = sign + text.lstrip("-+")[len(money) :].strip()
        dimension, factor = UNITS["€" if money == "€" else "dollar"]
        return (head, Unit(dimension, factor)) if head else (text, None)
    if match := _DEGREES.search(text):
        return _with_head(text, match.start(), "deg")
    if text.endswith("\\%"):
        return _with_head(text, len(text) - 2, "%")
    if match := _WRAPPED.search(text):
        return _with_head(text, match.start(), match[1] + (match[2] or ""))
    start = _plain_start(text)
    if start is None:
        return text, None
    head, unit = _with_head(text, start, text[start:])
    number = _NUMBER.fullmatch(join_thousands(head)) is not None
    apart = start > 0 and text[start - 1] in " }~)"
    if unit is None or not (number or apart):
        return text, None
    letter = len(text) - start == 1 and text[start].isalpha()
    return head, Unit(unit.dimension, unit.factor, unit.implied, letter)


def _plain_start(text: str) -> int | None:
    """Where the longest unit begins that ends the text and is written without a command."""
    for start in range(max(0, len(text) - 40), len(text)):
        before = text[start - 1] if start else " "
        begins = _LETTER.match(text, start) and not (before.isalpha() or before in "\\_^")
        if begins and parse_unit(text[start:]) is not None:
            return start
    return None


def _with_head(text: str, place: int, name: str) -> tuple[str, Unit | None]:
    unit = parse_unit(name)
    head = _END_SPACES.sub("", text[:place])
    if unit is None or not head or _OPERATOR.search(head):
        return text, None
    return head, unit


def parse_unit(name: str) -> Unit | None:
    """A unit from its name or abbreviation, with powers and "/" or "per": None if not listed."""
    name = _SPACE.sub(" ", name).replace("{", "").replace("}", "").replace("\\", "")
    name = " ".join(name.lower().replace("^ ", "^").split()).rstrip(".")
    if name in _PERCENT_NAMES:
        return PERCENT
    if len(name) > 60:
        return None
    above, *below = re.split(r"/| per ", name)
    powers: dict[str, int] = {}
    factor = Fraction(1)
    for sign, part in ((1, above), *((-1, part) for part in below)):
        match = _TOKEN.fullmatch(part.strip().replace("sq.", "sq").replace("cu.", "cu"))
        if match is None or match[2] not in UNITS:
            return None
        dimension, size = UNITS[match[2]]
        power = sign * int(match[3] or 1)
        power *= {"squ": 2, "sq": 2, "cub": 3, "cu": 3, "": 1}[(match[1] or match[4] or "")[:3]]
        factor *= size**power
        for base, times in dimension:
            powers[base] = powers.get(base, 0) + times * power
    return Unit(tuple(sorted((b, n) for b, n in powers.items() if n)), factor)


def expand(text: str) -> str:
    r"""What math-verify misreads, in a form that it reads: 1\,000 as 1000, 8\% as \frac{8}{100}."""
    return _INNER_PERCENT.sub(r"\\frac{\1}{100}", join_thousands(text))


def scaled(expression: str, factor: Fraction) -> str:
    """factor * expression, in LaTeX."""
    if factor == 1:
        return expression
    above = f"({expression})"
    if factor.numerator != 1:
        above = rf"{factor.numerator} \cdot {above}"
    return above if factor.denominator == 1 else rf"\frac{{{above}}}{{{factor.denominator}}}"
