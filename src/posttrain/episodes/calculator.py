"""The calculator as an environment that recipes name."""

from __future__ import annotations

from posttrain.registry import environments
from posttrain.tasks.calculator import Calculator


@environments.register
def calculator() -> Calculator:
    """The tool `calculate(a, operator, b)`: one operation on two whole numbers.

    It fits the task `calculator`, whose grade is the reward: it gives none itself.
    """
    return Calculator()
