"""Rewards for likeness to a reference text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from posttrain.errors import ConfigError
from posttrain.registry import rewards
from posttrain.rewards.reward import known_answers

_WORD = re.compile(r"\w+")
_MAX_WORDS = 20_000
_MAX_CHARACTERS = 10_000


def _text(completion) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def longest_common_subsequence(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Length of the longest common subsequence, in whole rows: O(len(left) len(right)) time.

    The rows of the table are bits of one integer (Hyyro 2004), so 10,000 words against 10,000 take
    tenths of a second.
    """
    places: dict[Any, int] = {}
    for i, item in enumerate(left):
        places[item] = places.get(item, 0) | 1 << i
    full = (1 << len(left)) - 1
    row = full
    for item in right:
        matches = row & places.get(item, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(left) - row.bit_count()


def rouge_l_score(text: str, reference: str, *, beta: float = 1.0) -> float:
    """ROUGE-L of two texts as words in lower case (Lin 2004).

    F = (1 + beta^2) P R / (R + beta^2 P),  P = LCS / words of text,  R = LCS / of reference
    """
    words = _WORD.findall(text.lower())[:_MAX_WORDS]
    gold = _WORD.findall(reference.lower())[:_MAX_WORDS]
    common = longest_common_subsequence(words, gold) if words and gold else 0
    if not common:
        return float(not words and not gold)
    precision, recall = common / len(words), common / len(gold)
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)


def edit_distance(left: str, right: str) -> int:
    """Levenshtein's distance: insertions, deletions and replacements from one text to the other.

    A column of the table is held as the signs of its differences, bits of two integers (Myers 1999,
    in the form of Hyyro 2001).
    """
    if not left:
        return len(right)
    places: dict[str, int] = {}
    for i, character in enumerate(left):
        places[character] = places.get(character, 0) | 1 << i
    full, last = (1 << len(left)) - 1, 1 << (len(left) - 1)
    rises, falls, distance = full, 0, len(left)
    for character in right:
        matches = places.get(character, 0)
        vertical = matches | falls
        horizontal = (((matches & rises) + rises) ^ rises) | matches
        up = falls | ~(horizontal | rises)
        down = rises & horizontal
        distance += bool(up & last) - bool(down & last)
        up, down = up << 1 | 1, down << 1
        rises = (down | ~(vertical | up)) & full
        falls = up & vertical & full
    return distance


@rewards.register
@known_answers(("the cat sat", "the cat sat", 1.0), ("a b", "c d", 0.0))
def rouge_l(completions, answer, *, beta: float = 1.0) -> list[float]:
    """ROUGE-L of the completion and the column `answer`: the F-measure of their longest common
    subsequence of words (Lin 2004).

    beta: weight of recall against precision.
    """
    if not beta > 0:
        raise ConfigError(f"rewards: rouge_l: beta {beta} must be above 0")
    return [
        rouge_l_score(_text(c), str(a), beta=beta) for c, a in zip(completions, answer, strict=True)
    ]


@rewards.register
@known_answers(("abcd", "abcd", 1.0), ("abcd", "wxyz", 0.0), ("abcd", "abcx", 0.75))
def edit_similarity(completions, answer) -> list[float]:
    """Likeness of the completion and the column `answer` by characters, as in rewards for patches:

        1 - edit distance / length of the longer

    Both are stripped, and read up to 10,000 characters.
    """
    values = []
    for completion, gold in zip(completions, answer, strict=True):
        left = _text(completion).strip()[:_MAX_CHARACTERS]
        right = str(gold).strip()[:_MAX_CHARACTERS]
        longer = max(len(left), len(right))
        values.append(1 - edit_distance(left, right) / longer if longer else 1.0)
    return values
