"""Right and wrong rewritings of answers, made from data and by sympy; no wrong verdict may be
ours alone.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("math_verify")
import sympy

from posttrain.rewards.math import math
from posttrain.rewards.math_worker import judge

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
X, Y = sympy.symbols("x y")


class Case(NamedTuple):
    """A gold answer, a prediction, and whether they are equal by construction."""

    kind: str
    gold: str
    prediction: str
    equal: bool


Draw = random.Random


# -- numbers of data sets


def numbers_of_data() -> list[str]:
    found: list[str] = []
    if not DATA.is_dir():
        return found
    for line in (DATA / "gsm8k" / "test.jsonl").read_text().splitlines():
        found.append(json.loads(line)["answer"].rpartition("####")[2].strip())
    with gzip.open(DATA / "gsm8k" / "train.jsonl.gz", "rt") as lines:
        found += [json.loads(line)["answer"].rpartition("####")[2].strip() for line in lines]
    for path in sorted((DATA / "mawps").glob("*.jsonl")):
        found += [str(json.loads(line)["target"]) for line in path.read_text().splitlines()]
    return found


def choices_of_data() -> list[tuple[str, str, list[str]]]:
    """Letter, text of the right option, texts of the others."""
    rows = []
    for path in sorted((DATA / "aqua").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            options = {o[0]: o.partition(")")[2].strip() for o in row["options"]}
            if row["correct"] in options:
                right = options.pop(row["correct"])
                rows.append((row["correct"], right, list(options.values())))
    return rows


def written(value: Fraction, draw: Draw) -> str:
    """A number in one of the ways in which people write it."""
    whole = value.denominator == 1
    decimal = str(float(value)) if not whole else str(value.numerator)
    sign, size = ("-" if value < 0 else ""), abs(value)
    k = draw.randint(2, 9)
    ways = [
        decimal,
        f"{decimal}." if whole else decimal,
        f"\\frac{{{value.numerator * k}}}{{{value.denominator * k}}}",
        f"{sign}\\dfrac{{{size.numerator * k}}}{{{size.denominator * k}}}",
        f"{value.numerator * k}/{value.denominator * k}",
        f"\\text{{{decimal}}}",
        f"x = {decimal}",
        f"${decimal}$",
        f"{decimal}\\,\\text{{{draw.choice(['apples', 'eggs', 'hours', 'cm', 'dollars'])}}}",
        f"{decimal} {draw.choice(['dollars', 'minutes', 'cm', 'pounds', 'miles per hour'])}",
        f"{float(value * 100):g}\\%"
        if float(f"{float(value * 100):g}") == float(value * 100)
        else decimal,
        f"{decimal.replace('-', chr(0x2212))}",
    ]
    if whole:
        ways += [
            f"{value.numerator:,}",
            f"{value.numerator:,}".replace(",", "{,}"),
            f"{value.numerator:,}".replace(",", "\\,"),
            f"{decimal}.00",
            f"{sign}\\${size.numerator:,}",
            f"\\${size.numerator}.00" if value >= 0 else decimal,
            f"{value.numerator - k} + {k}",
            f"{decimal}.00 dollars",
            f"{decimal}e0",
        ]
    return draw.choice(ways)


def other_number(value: Fraction, draw: Draw) -> Fraction:
    """A number that is not the value, as mistakes make it."""
    changes: list[Callable[[Fraction], Fraction]] = [
        lambda v: v + 1,
        lambda v: v - 1,
        lambda v: v * 10,
        lambda v: -v,
        lambda v: v / 100,
        lambda v: v * 2,
        lambda v: v + draw.randint(2, 50),
        lambda v: v / 2,
        lambda v: v * 100,
    ]
    while (changed := draw.choice(changes)(value)) == value:
        pass
    return changed


def number_case(value: Fraction, gold: str, equal: bool, draw: Draw) -> Case:
    return Case("number", gold, written(value if equal else other_number(value, draw), draw), equal)


# -- forms made by sympy


def polynomial(draw: Draw, equal: bool) -> tuple[str, str]:
    factors = [
        draw.randint(1, 3) * X + draw.choice([-1, 1]) * draw.randint(1, 6) * draw.choice([1, Y])
        for _ in range(draw.randint(2, 3))
    ]
    product = sympy.Mul(*factors, evaluate=False)
    expanded = sympy.expand(product)
    shown = expanded if equal else expanded + draw.choice([1, -1, X, 2 * X**2, Y])
    gold, prediction = sympy.latex(expanded), sympy.latex(product if equal else shown)
    return (prediction, gold) if draw.random() < 0.3 else (gold, prediction)


def powers(draw: Draw, equal: bool) -> tuple[str, str]:
    parts = [(p, draw.randint(2, 5)) for p in draw.sample([2, 3, 5, 7], draw.randint(2, 3))]
    value = 1
    for base, exponent in parts:
        value *= base**exponent
    gold = draw.choice([" \\cdot ", " \\times "]).join(
        f"{b}^{draw.choice([f'{e}', f'{{{e}}}'])}" for b, e in parts
    )
    return gold, str(value if equal else value + draw.choice([1, -1, value]))


def equation(draw: Draw, equal: bool) -> tuple[str, str]:
    a, b, c = (draw.randint(1, 9) for _ in range(3))
    gold = f"{a}x^2+{b}y^2={c}"
    if not equal:
        return gold, f"{a}x^2 + {b}y^2 = {c + draw.choice([1, 2, -1])}"
    return gold, draw.choice(
        [f"{a}x^2 + {b}y^2 = {c}", f"{b}y^2 + {a}x^2 = {c}", f"{a} x^{{2}} + {b} y^{{2}} = {c}."]
    )


def root(draw: Draw, equal: bool) -> tuple[str, str]:
    k, m = draw.randint(2, 9), draw.choice([2, 3, 5, 6, 7])
    return (
        f"\\sqrt{{{k * k * m}}}",
        f"{k if equal else k + draw.choice([-1, 1, 2])}\\sqrt{{{m}}}" + draw.choice(["", "."]),
    )


def fraction(draw: Draw, equal: bool) -> tuple[str, str]:
    value = Fraction(draw.randint(-30, 30) or 1, draw.randint(2, 12))
    other = value if equal else value + Fraction(draw.choice([1, -1]), draw.randint(1, 12))
    part = Fraction(draw.randint(1, 9), draw.randint(2, 9))
    rest, k = other - part, draw.randint(1, 5)
    ways = [
        f"\\frac{{{other.numerator * k}}}{{{other.denominator * k}}}",
        f"\\frac{{{part.numerator}}}{{{part.denominator}}} + "
        f"\\frac{{{rest.numerator}}}{{{rest.denominator}}}",
        f"{other.numerator}/{other.denominator}.",
    ]
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}", draw.choice(ways)


def finite_set(draw: Draw, equal: bool) -> tuple[str, str]:
    members = draw.sample(range(-20, 20), draw.randint(2, 5))
    others = draw.sample(members, len(members))
    if not equal:
        others[draw.randrange(len(others))] = 40 + draw.randint(0, 9)
    return (
        f"\\{{{','.join(map(str, members))}\\}}",
        f"\\{{{', '.join(map(str, others))}\\}}" + draw.choice(["", "."]),
    )


def interval(draw: Draw, equal: bool) -> tuple[str, str]:
    low = draw.randint(-9, 9)
    high = low + draw.randint(1, 9)
    left, right = draw.choice("(["), draw.choice(")]")
    gold = f"{left}{low},{high}{right}"
    if equal:
        return gold, draw.choice(
            [
                f"{left}{low}, {high}{right}",
                f"\\left{left}{low},{high}\\right{right}",
                f"{left} {low}, {high} {right}.",
            ]
        )
    changed = draw.choice(
        [
            f"{left}{low}, {high + 1}{right}",
            f"{left}{low - 1},{high}{right}",
            f"{left}{low},{high}{')' if right == ']' else ']'}",
            f"{'(' if left == '[' else '['}{low}, {high}{right}",
        ]
    )
    return gold, changed


def percentage(draw: Draw, equal: bool) -> tuple[str, str]:
    n = draw.randint(1, 99)
    shown = n if equal else n + draw.choice([1, -1, 10])
    same = [
        f"{shown}%",
        f"{shown} percent",
        f"{shown}\\text{{ percent}}",
        f"{shown / 100:g}",
        f"\\frac{{{shown}}}{{100}}",
        f"{shown}\\%.",
    ]
    gold = draw.choice([f"{n}\\%", f"{n}%", f"{n / 100:g}"])
    if not equal and draw.random() < 0.5:
        return gold, str(n)  # a number of the same digits without the sign
    return gold, draw.choice(same)


UNITS = [
    ("cm", "mm", 10),
    ("m", "cm", 100),
    ("kg", "g", 1000),
    ("hours", "minutes", 60),
    ("km", "m", 1000),
    ("feet", "inches", 12),
    ("dollars", "cents", 100),
    ("square meters", "cm^2", 10_000),
    ("liters", "ml", 1000),
    ("km/h", "m/h", 1000),
]


def unit(draw: Draw, equal: bool) -> tuple[str, str]:
    n = draw.randint(2, 300)
    large, small, factor = draw.choice(UNITS)
    wrap = draw.choice(["{} {}", "{}\\text{{ {}}}", "{}\\ \\mathrm{{{}}}"])
    gold = wrap.format(n, large)
    ways = [
        f"{n} {large}",
        f"{n}\\text{{ {large}}}",
        f"{n}\\,\\text{{{large}}}.",
        f"{n * factor} {small}",
        f"{n}",
    ]
    if equal:
        return gold, draw.choice(ways)
    return gold, draw.choice(
        [
            f"{n} {small}",
            f"{n}\\text{{ {small}}}",
            f"{n + 1}\\text{{ {large}}}",
            f"{n * factor} {large}",
            f"{n + 2}",
        ]
    )


def surd(draw: Draw, equal: bool) -> tuple[str, str]:
    a, b, c = draw.randint(1, 9), draw.choice([2, 3, 5, 7]), draw.randint(2, 6)
    gold = f"\\frac{{{a}+\\sqrt{{{b}}}}}{{{c}}}"
    shown = a if equal else a + draw.choice([1, 2])
    return gold, draw.choice(
        [
            f"\\frac{{\\sqrt{{{b}}}+{shown}}}{{{c}}}",
            f"\\frac{{{shown}}}{{{c}}}+\\frac{{\\sqrt{{{b}}}}}{{{c}}}",
            f"({shown}+\\sqrt{{{b}}})/{c}",
        ]
    )


def pair(draw: Draw, equal: bool) -> tuple[str, str]:
    a, b = draw.sample(range(-9, 10), 2)
    gold = f"({a},{b})"
    return gold, draw.choice(
        [f"({a}, {b})", f"\\left({a}, {b}\\right)", f"({a},{b})."]
        if equal
        else [f"({b}, {a})", f"({a}, {b + 1})"]
    )


FORMS: list[Callable[[Draw, bool], tuple[str, str]]] = [
    polynomial,
    powers,
    equation,
    root,
    fraction,
    finite_set,
    interval,
    percentage,
    unit,
    surd,
    pair,
]


def cases(count: int, seed: int) -> Iterator[Case]:
    """`count` right and `count` wrong rewritings: a third of numbers of data, a tenth of
    choices, the rest of forms.
    """
    draw = Draw(f"rewritings {seed}")
    numbers = numbers_of_data() or ["18", "1,450", "3.5", "-7", "0.25"]
    choices = choices_of_data() if DATA.is_dir() else [("C", "12 km", ["13 km"])]
    for i in range(2 * count):
        equal = i % 2 == 0
        share = draw.random()
        if share < 0.3:
            gold = draw.choice(numbers)
            yield number_case(Fraction(gold.replace(",", "")), gold, equal, draw)
        elif share < 0.4:
            letter, text, _ = draw.choice(choices)
            if equal:
                ways = [
                    f"{letter}.",
                    f"({letter})",
                    f"\\text{{{letter}}}",
                    f"\\textbf{{({letter})}}",
                    f"{letter})",
                    f" {letter} ",
                ]
                yield Case("choice", letter, draw.choice(ways), True)
            else:
                wrong = draw.choice([x for x in "ABCDE" if x != letter])
                yield Case(
                    "choice",
                    letter,
                    draw.choice(
                        [
                            wrong,
                            f"{wrong}.",
                            f"({wrong})",
                            f"{wrong}) {text}",
                            f"({letter}) or ({wrong})",
                        ]
                    ),
                    False,
                )
        else:
            form = draw.choice(FORMS)
            gold, prediction = form(draw, equal)
            yield Case(form.__name__, gold, prediction, equal)


def wrong_verdicts(made: list[Case]) -> list[tuple[Case, bool]]:
    """Cases that are judged wrongly, with the verdict of math-verify alone."""
    texts = [f"So the answer is \\boxed{{{c.prediction}}}." for c in made]
    verdicts = math(texts, [c.gold for c in made])
    wrong = [c for c, verdict in zip(made, verdicts, strict=True) if (verdict == 1.0) != c.equal]
    return [(c, judge(c.gold, c.prediction)) for c in wrong]


def report(wrong: list[tuple[Case, bool]]) -> str:
    return "\n".join(
        f"{c.kind}: gold {c.gold!r}, prediction {c.prediction!r}, equal {c.equal}, math-verify "
        f"{alone}"
        for c, alone in wrong
    )


def test_rewritings_are_judged_as_a_mathematician_would() -> None:
    made = list(cases(150, seed=1))
    assert sum(c.equal for c in made) == 150 and len({c.kind for c in made}) == len(FORMS) + 2
    wrong = wrong_verdicts(made)
    assert not wrong, report(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_four_thousand_rewritings(seed: int) -> None:
    made = list(cases(2000, seed=seed))
    wrong = wrong_verdicts(made)
    ours_alone = [(c, alone) for c, alone in wrong if alone == c.equal]
    assert not ours_alone, report(ours_alone)
    assert len(wrong) <= len(made) // 200, report(wrong)
