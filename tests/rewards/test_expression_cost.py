"""Expressions that are too heavy for a parser are recognised by their text."""

from __future__ import annotations

from posttrain.rewards.math import math, too_heavy


def test_heavy_expressions_are_settled_without_a_parser() -> None:
    for text in (
        "10^{10^{10}}",
        "9^{9^{9^9}}",
        "999999999!",
        "3!!!",
        "2^{1234567}",
        "x^{10^{10^{10}}}",
    ):
        assert too_heavy(text), text
    assert too_heavy("{" * 50) and too_heavy("x" * 1200)
    assert math([r"\boxed{10^{10^{10}}}"], ["3"]) == [0.0]


def test_ordinary_mathematics_is_light() -> None:
    for text in (
        r"\frac{1}{2}",
        "2^{10}",
        "5!",
        r"\sqrt{\frac{x^2}{y^3}}",
        "x^2+y^2=4",
        "a^2-b^2",
        r"3^4\cdot 5^2",
        r"2^{10} \cdot 3^{12} \cdot 5^{7}",
        "(x^2+1)^3(y^4-2)^5",
        "x^{n^2}",
        "e^{-x^2}",
        "2^{2^{3}}",
        "10^{-12}",
        "(2^3)^4",
        "+".join(f"{i}x^{{{i}}}" for i in range(30)),
    ):
        assert not too_heavy(text), text
