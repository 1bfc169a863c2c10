"""How much a model writes after its first right answer.

With T the tokens of a completion and F those of its shortest beginning that is right (beginnings
end at line ends, and at the end of the completion), over N completions of a problem

    outcome efficiency = 1/N sum_i right_i F_i / T_i,    right_i: some beginning is right

(Chen et al., arXiv 2412.21187: the share of tokens that helped to the answer), and T - F are the
tokens after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from posttrain.types import Example, Sample, Task

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class Thought:
    """One completion.

    Attributes:
        num_tokens: T. first_right: F; None where no beginning is right. is_right: the verdict on
            the whole.
    """

    num_tokens: int
    first_right: int | None
    is_right: bool

    @property
    def tokens_after(self) -> int | None:
        """T - F: tokens after the first right answer; None without one."""
        return None if self.first_right is None else self.num_tokens - self.first_right

    @property
    def efficiency(self) -> float:
        """F / T; 0 without a right beginning."""
        return (self.first_right or 0) / max(self.num_tokens, 1)


def thought_of(
    ids: Sequence[int], text: str, decode: Decode, is_right: Callable[[str], bool]
) -> Thought:
    """Where a completion is right first.

    Args:
        ids: sampled tokens. text: the whole completion, as it is graded. decode: ids -> text.
        is_right: the verdict on a text.
    """
    whole = is_right(text)
    for end in line_ends(ids, decode):
        beginning = decode(ids[:end])
        if len(beginning) < len(text) and is_right(beginning):
            return Thought(len(ids), end, whole)
    return Thought(len(ids), len(ids) if whole else None, whole)


def line_ends(ids: Sequence[int], decode: Decode) -> list[int]:
    """Numbers of tokens after which a line has ended: those whose last token holds a line break."""
    breaks: dict[int, bool] = {}
    for token in ids:
        if token not in breaks:
            breaks[token] = "\n" in decode([token])
    return [place for place, token in enumerate(ids, 1) if breaks[token]]


def overthinking_notes(
    samples: Sequence[Sample], texts: Sequence[str], decode: Decode, task: Task, example: Example
) -> dict[str, float]:
    """Means over the completions of one problem, by name.

    outcome_efficiency: over all. tokens_after_right: over those with a right beginning, absent
    without one. undone: share of the completions that had it right and end wrong.
    """
    thoughts = [
        thought_of(sample.ids, text, decode, lambda t: task.score(t, example) >= 1)
        for sample, text in zip(samples, texts, strict=True)
    ]
    notes = {
        "outcome_efficiency": math.fsum(t.efficiency for t in thoughts) / len(thoughts),
        "undone": sum(t.first_right is not None and not t.is_right for t in thoughts)
        / len(thoughts),
    }
    after = [t.tokens_after for t in thoughts if t.tokens_after is not None]
    if after:
        notes["tokens_after_right"] = sum(after) / len(after)
    return notes
