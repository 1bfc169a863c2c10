"""Equality of a final answer, without any parser that could hang."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal

from posttrain.registry import rewards
from posttrain.rewards.reward import known_answers

Extractor = Literal["last_number", "hash", "boxed", "tag", "whole"]

_NUMBER = re.compile(
    "[-+\u2212]?"
    r"(?:\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?(?:[eE][-+]?\d{1,3})?|\$?\.\d+)%?"
)
_BRACE = re.compile(r"[{}]")
_OPEN, _CLOSE = "<answer>", "</answer>"
_MAX_DIGITS = 400
_MARKS = re.compile(r"\\\$|\$|\\%|%|(?<!\d) +| +(?!\d)")
"""What stands beside the digits of a number: money, per cent, spaces that separate no digits."""
_SEPARATOR = r"\{,\}|,\\!|\\,|\\ |\\!|~|\u00a0|\u202f"
_GROUPED = re.compile(rf"(?<![\d.\\A-Za-z])\d{{1,3}}(?:(?:{_SEPARATOR})\d{{3}})+(?!\d)")
_GROUPED_BY_SPACES = re.compile(r"(?<![\d.\\A-Za-z])\d{1,3}(?: \d{3})+(?!\d)")
_NO_DIGIT = re.compile(r"\D")


def join_thousands(text: str) -> str:
    r"""The text with 1{,}000, 1\,000 and the like as 1000."""
    return _GROUPED.sub(lambda match: _NO_DIGIT.sub("", match[0]), text)


def last_boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...} with balanced braces, or None."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for brace in _BRACE.finditer(text, start + 6):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start + 7 : brace.start()]
    return None


def last_tagged(text: str) -> str | None:
    """The content of the last <answer>...</answer>, in time linear in the text's length, or
    None.
    """
    content, place = None, 0
    while (start := text.find(_OPEN, place)) >= 0:
        start += len(_OPEN)
        end = text.find(_CLOSE, start)
        if end < 0:
            break
        content, place = text[start:end], end + len(_CLOSE)
    return content


def extract_answer(text: str, extractor: Extractor) -> str | None:
    r"""The final answer in a text: the last number, what follows the last "####", the last
    \boxed{}, the last <answer></answer>, or the whole text."""
    if extractor == "hash":
        _, mark, tail = text.rpartition("####")
        return tail.strip().split("\n")[0].strip() or None if mark else None
    if extractor == "boxed":
        return last_boxed(text)
    if extractor == "tag":
        content = last_tagged(text)
        return content.strip() if content is not None else None
    if extractor == "whole":
        return text.strip() or None
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


def parse_number(text: str) -> Fraction | None:
    r"""The exact value of a number as people write it, else None.

    1,000; 1{,}000; $5; \$5; 12%; 12\%; 3/4; 1e3; a Unicode minus; a final period. A per cent sign
    is dropped: 12% equals 12, as answers to word problems mean it. Reward `math` judges it as 0.12.
    """
    cleaned = " ".join(text.split()).rstrip(".")
    if len(cleaned) > _MAX_DIGITS:
        return None
    cleaned = join_thousands(cleaned).replace("\u2212", "-")
    cleaned = _GROUPED_BY_SPACES.sub(lambda match: match[0].replace(" ", ""), cleaned)
    cleaned = _MARKS.sub("", cleaned)
    if not _NUMBER.fullmatch(cleaned):
        return None
    try:
        return Fraction(cleaned.replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None


def canonical(text: str | None) -> str | None:
    """One spelling for equal answers: "1,000" and "1000.0" both give "1000".

    Other text is lower-cased, its spaces are single, and a final period is dropped.
    """
    if text is None:
        return None
    number = parse_number(text)
    if number is not None:
        return str(number)
    words = " ".join(text.lower().split())
    return words.rstrip(".").rstrip() or words


def same_answer(prediction: str | None, answer: str) -> bool:
    """Whether two answers are equal: as exact numbers if both are numbers, else as text."""
    return prediction is not None and canonical(prediction) == canonical(str(answer))


@rewards.register
@known_answers(("so it is 1,000.", "1000", 1.0), ("it is 7", "8", 0.0), ("", "8", 0.0))
def exact(
    completions,
    answer,
    *,
    extractor: Literal["last_number", "hash", "boxed", "tag", "whole"] = "last_number",
):
    r"""1 where the final answer equals the column `answer`, else 0; exact rational arithmetic on
    numbers.

    extractor: where the answer stands: last_number, hash ("#### x"), boxed (\boxed{x}), tag
    (<answer>x</answer>), whole.
    """
    return [
        float(same_answer(extract_answer(_text(c), extractor), str(a)))
        for c, a in zip(completions, answer, strict=True)
    ]


def _text(completion) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
