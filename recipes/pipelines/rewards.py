"""Rewards of recipes/pipelines/r1.yaml: one language, and a rule for reasoning prompts alone."""

from __future__ import annotations

import re
from typing import Any

from posttrain.registry import rewards

ENGLISH = {"so", "and", "check", "think", "answer"}


@rewards.register
def english(completions: list[Any]) -> list[float]:
    """Share of the words of a completion that are English; 1 where it has no words."""
    shares = []
    for text in completions:
        words = re.findall(r"[a-z]+", str(text).lower())
        shares.append(sum(word in ENGLISH for word in words) / len(words) if words else 1.0)
    return shares


@rewards.register
def rule(completions: list[Any], examples: list[Any], task: Any) -> list[float | None]:
    """The verdict on reasoning prompts; no reward (None) for general prompts of a mixture."""
    return [
        task.score(text, example) if example.columns["task"] == "reasoning" else None
        for text, example in zip(completions, examples, strict=True)
    ]
