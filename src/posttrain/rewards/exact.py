"""Equality of a final answer, without any parser that could hang."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal

from posttrain.registry import rewards

Extractor = Literal["last_number", "hash", "boxed", "tag", "whole"]

_NUMBER = re.compile(r"[-+]?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?(?:[eE][-+]?\d{1,3})?%?|[-+]?\$?\.\d+%?")
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_MAX_DIGITS = 400


def last_boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...} with balanced braces, or None."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for place in range(start + 6, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start + 7 : place]
    return None


def extract_answer(text: str, extractor: Extractor) -> str | None:
    r"""The final answer in a text: the last number, what follows the last "####", the last \boxed{}, the last
    <answer></answer>, or the whole text."""
    if extractor == "hash":
        _, mark, tail = text.rpartition("####")
        return tail.strip().split("\n")[0].strip() or None if mark else None
    if extractor == "boxed":
        return last_boxed(text)
    if extractor == "tag":
        found = _TAG.findall(text)
        return found[-1].strip() if found else None
    if extractor == "whole":
        return text.strip() or None
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


def parse_number(text: str) -> Fraction | None:
    """The exact value of a number as people write it: 1,000; $5; 12%; 3/4; 1e3; a trailing period. None otherwise.

    A percent sign is dropped: 12% equals 12, as answers to word problems mean it.
    """
    cleaned = text.strip().rstrip(".").replace("$", "").replace("%", "").replace(" ", "").replace("\u2212", "-")
    if not _NUMBER.fullmatch(cleaned) or len(cleaned) > _MAX_DIGITS:
        return None
    try:
        return Fraction(cleaned.replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None


def canonical(text: str | None) -> str | None:
    """One spelling for equal answers: "1,000" and "1000.0" both give "1000"; text is stripped and lower-cased."""
    if text is None:
        return None
    number = parse_number(text)
    return str(number) if number is not None else " ".join(text.lower().split())


def same_answer(prediction: str | None, answer: str) -> bool:
    """Whether two answers are equal: as exact numbers if both are numbers, else as text."""
    return prediction is not None and canonical(prediction) == canonical(str(answer))


@rewards.register
def exact(completions, answer, *, extractor: Literal["last_number", "hash", "boxed", "tag", "whole"] = "last_number"):
    r"""1 where the final answer equals the column `answer`, else 0; exact rational arithmetic on numbers.

    extractor: where the answer stands: last_number, hash ("#### x"), boxed (\boxed{x}), tag (<answer>x</answer>), whole.
    """
    return [float(same_answer(extract_answer(_text(c), extractor), str(a))) for c, a in zip(completions, answer, strict=True)]


exact.known_answers = [("so it is 1,000.", "1000", 1.0), ("it is 7", "8", 0.0), ("", "8", 0.0)]  # type: ignore[attr-defined]


def _text(completion) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
