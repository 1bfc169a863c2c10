"""Units, money and per cent around the number of an answer."""

from __future__ import annotations

from fractions import Fraction

import pytest

from posttrain.rewards.quantity import (
    PERCENT,
    clean,
    compact,
    expand,
    parse_unit,
    scaled,
    split_unit,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" 5. ", "5"),
        ("$5$", "5"),
        ("$$5$$.", "5"),
        (r"\(x + 1\)", "x + 1"),
        (r"\[5\],", "5"),
        (r"\text{5}", "5"),
        (r"\text{five}", r"\text{five}"),
        ("\u22125", "-5"),
        ("1, 2, ...", "1, 2, ..."),
        ("$5$ and $6$", "$5$ and $6$"),
        (r"\$18", r"\$18"),
        ("", ""),
    ],
)
def test_what_surrounds_an_answer_goes(text: str, expected: str) -> None:
    assert clean(text) == expected
    assert clean(expected) == expected


def test_spaces_that_separate_nothing_go() -> None:
    assert compact("( 1 ,  2 )") == compact("(1,2)") == "(1,2)"
    assert compact("a b") == "a b" and compact("1 2") == "1 2"


@pytest.mark.parametrize(
    ("text", "head", "dimension", "factor"),
    [
        ("5 cm", "5", (("length", 1),), Fraction(1, 100)),
        (r"5\text{ cm}", "5", (("length", 1),), Fraction(1, 100)),
        (r"12\text{ m}^2", "12", (("length", 2),), Fraction(1)),
        ("3 square feet", "3", (("length", 2),), Fraction("0.3048") ** 2),
        ("60 km/h", "60", (("length", 1), ("time", -1)), Fraction(1000, 3600)),
        ("10 miles per hour", "10", (("length", 1), ("time", -1)), Fraction("1609.344") / 3600),
        (r"\$18.90", "18.90", (("dollars", 1),), Fraction(1)),
        ("-$4", "-4", (("dollars", 1),), Fraction(1)),
        ("50 cents", "50", (("dollars", 1),), Fraction(1, 100)),
        (r"90^\circ", "90", (("angle", 1),), Fraction(1)),
        ("2 liters", "2", (("length", 3),), Fraction(1, 1000)),
        ("1,000 kg", "1,000", (("mass", 1),), Fraction(1000)),
    ],
)
def test_an_answer_is_an_expression_and_a_unit(
    text: str, head: str, dimension: tuple[tuple[str, int], ...], factor: Fraction
) -> None:
    expression, unit = split_unit(text)
    assert unit is not None and expression == head
    assert (unit.dimension, unit.factor, unit.implied) == (dimension, factor, True)


@pytest.mark.parametrize("text", [r"8\%", "8%", "8 percent", r"8\text{ per cent}"])
def test_per_cent_is_a_hundredth_that_may_not_be_left_out(text: str) -> None:
    assert split_unit(text) == ("8", PERCENT)
    assert PERCENT.factor == Fraction(1, 100) and not PERCENT.implied


@pytest.mark.parametrize("text", ["x + m", "am", r"\frac{1}{2}", "5 apples", "km", "3 =  m", "$"])
def test_what_is_no_quantity_stays_whole(text: str) -> None:
    assert split_unit(text) == (text.strip(), None)


def test_a_lone_letter_may_be_a_variable() -> None:
    unit = split_unit("5 m")[1]
    assert unit is not None and unit.letter
    unit = split_unit(r"5\text{ m}")[1]
    assert unit is not None and not unit.letter


def test_names_of_one_unit() -> None:
    assert parse_unit("meters") == parse_unit("metre") == parse_unit("m")
    assert parse_unit("sq. cm") == parse_unit("cm^2") == parse_unit("cm squared")
    assert parse_unit("m/m") == parse_unit("s per s")  # no dimension is left
    for name in ("", "furlong", "m/furlong", "a" * 100):
        assert parse_unit(name) is None


def test_expressions_that_are_easily_misread() -> None:
    assert expand(r"1\,000") == "1000"
    assert expand(r"8\%") == r"\frac{8}{100}"
    assert scaled("x", Fraction(1)) == "x"
    assert scaled("x", Fraction(3)) == r"3 \cdot (x)"
    assert scaled("x", Fraction(1, 100)) == r"\frac{(x)}{100}"
    assert scaled("x", Fraction(3, 5)) == r"\frac{3 \cdot (x)}{5}"
