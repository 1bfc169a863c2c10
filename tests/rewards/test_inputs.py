"""Rewards get copies of their inputs."""

from __future__ import annotations

import sys

import numpy as np

from posttrain.rewards.inputs import CopiedExamples, copied
from posttrain.types import Example


def test_copies_share_nothing_mutable() -> None:
    value = {"a": [1, {"b": np.zeros(2)}], "c": ("x", [1])}
    other = copied(value)
    other["a"][1]["b"][0] = 5
    other["c"][1].append(2)
    assert value["a"][1]["b"][0] == 0 and value["c"][1] == [1]  # type: ignore[index]
    assert copied(sys.stdout) is sys.stdout  # what cannot be copied is passed on
    examples = CopiedExamples([Example("p", None, "1", {"x": [1]})])
    examples[0].columns["x"].append(2)
    next(iter(examples)).columns["x"].append(3)
    examples[:1][0].columns["x"].append(4)
    assert examples[0].columns["x"] == [1] and len(examples) == 1
