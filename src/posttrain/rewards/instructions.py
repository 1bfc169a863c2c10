"""The verifiable instructions of IFEval (Zhou et al., arXiv 2311.07911), each as a function.

A function has the completion and the instruction's own settings, by their names in the data. Each
takes time linear in the text: completions come from a model that may write anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from posttrain.data.languages import language_of
from posttrain.errors import DataError, nearest

Check = Callable[..., bool]
CHECKS: dict[str, Check] = {}
"""Instruction id -> whether a text follows it."""

_WORDS = re.compile(r"\w+")
_TOKENS = re.compile(r"[^\W_]+(?:['’.&-][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?…。！？।]+[\"'”’)\]]*(?=\s|$)")
_TITLES = re.compile(
    r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|Inc|Ltd|Co|vs|e\.g|i\.e|[A-Z])\.(?=\s)", re.IGNORECASE
)
_STARS = re.compile(r"\s?\*\*\*\s?")
_HIGHLIGHT = re.compile(r"\*[^\n*]*\*")
_BOLD = re.compile(r"\*\*[^\n*]*\*\*")
_CHOICES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def _check(identifier: str) -> Callable[[Check], Check]:
    def add(function: Check) -> Check:
        CHECKS[identifier] = function
        return function

    return add


def _holds(count: int, relation: str, bound: int) -> bool:
    """Whether a count is "at least" or "less than" a bound."""
    if relation not in ("at least", "less than"):
        raise DataError(
            f"instructions: relation {relation!r} is neither 'at least' nor 'less than'"
        )
    return count >= bound if relation == "at least" else count < bound


@_check("keywords:existence")
def _existence(text: str, *, keywords: Sequence[str]) -> bool:
    lowered = text.lower()
    return all(word.lower() in lowered for word in keywords)


@_check("keywords:frequency")
def _frequency(text: str, *, keyword: str, frequency: int, relation: str) -> bool:
    return _holds(text.lower().count(keyword.strip().lower()), relation, frequency)


@_check("keywords:forbidden_words")
def _forbidden(text: str, *, forbidden_words: Sequence[str]) -> bool:
    return not any(
        re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)
        for word in forbidden_words
    )


@_check("keywords:letter_frequency")
def _letters(text: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _holds(text.lower().count(letter.lower()), let_relation, let_frequency)


@_check("language:response_language")
def _language(text: str, *, language: str) -> bool:
    return language_of(text) == language


@_check("length_constraints:number_sentences")
def _sentences(text: str, *, num_sentences: int, relation: str) -> bool:
    return _holds(count_sentences(text), relation, num_sentences)


@_check("length_constraints:number_words")
def _number_of_words(text: str, *, num_words: int, relation: str) -> bool:
    return _holds(len(_WORDS.findall(text)), relation, num_words)


@_check("length_constraints:number_paragraphs")
def _paragraphs(text: str, *, num_paragraphs: int) -> bool:
    parts = [part.strip() for part in _STARS.split(text)]
    return _without_blank_ends(parts) == num_paragraphs


def _without_blank_ends(parts: Sequence[str]) -> int | None:
    """Number of parts, blank ones at either end aside; None where one between them is blank."""
    inner = list(parts)
    if inner and not inner[0]:
        inner = inner[1:]
    if inner and not inner[-1]:
        inner = inner[:-1]
    return len(inner) if all(inner) else None


@_check("length_constraints:nth_paragraph_first_word")
def _first_word(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts = [part.strip() for part in text.split("\n\n")]
    number = sum(bool(part) for part in parts)
    if number != num_paragraphs or not 1 <= nth_paragraph <= len(parts):
        return False
    words = parts[nth_paragraph - 1].split()
    if not words:
        return False
    word = words[0].lstrip("'\"“‘*_#")
    return re.split(r"[.,?!'\"”’:;*_]", word)[0].lower() == first_word.lower()


@_check("detectable_content:number_placeholders")
def _placeholders(text: str, *, num_placeholders: int) -> bool:
    count = 0
    for line in text.split("\n"):
        place = 0
        while (start := line.find("[", place)) >= 0 and (end := line.find("]", start)) >= 0:
            count, place = count + 1, end + 1
    return count >= num_placeholders


@_check("detectable_content:postscript")
def _postscript(text: str, *, postscript_marker: str) -> bool:
    marks = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    pattern = marks.get(postscript_marker, re.escape(postscript_marker.lower()))
    return re.search(pattern, text.lower()) is not None


@_check("detectable_format:number_bullet_lists")
def _bullets(text: str, *, num_bullets: int) -> bool:
    lines = [line.strip() for line in text.split("\n")]
    starred = sum(len(n) > 1 and n[0] == "*" and n[1] != "*" for n in lines)
    return starred + sum(n.startswith("-") for n in lines) == num_bullets


@_check("detectable_format:constrained_response")
def _choice(text: str) -> bool:
    return any(choice in text for choice in _CHOICES)


@_check("detectable_format:number_highlighted_sections")
def _highlights(text: str, *, num_highlights: int) -> bool:
    single = sum(bool(part.strip("*").strip()) for part in _HIGHLIGHT.findall(text))
    double = sum(bool(part.strip("*").strip()) for part in _BOLD.findall(text))
    return single + double >= num_highlights


@_check("detectable_format:multiple_sections")
def _sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter)}\s?\d+", text)) >= num_sections


@_check("detectable_format:json_format")
def _json(text: str) -> bool:
    body = text.strip()
    for mark in ("```json", "```Json", "```JSON", "```"):
        body = body.removeprefix(mark)
    try:
        json.loads(body.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


@_check("detectable_format:title")
def _title(text: str) -> bool:
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start < end and line[start:end].strip("<> \t"):
            return True
    return False


@_check("combination:two_responses")
def _two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    if _without_blank_ends(parts) != 2:
        return False
    first, second = [part for part in parts if part]
    return first != second


@_check("combination:repeat_prompt")
def _repeats(text: str, *, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


@_check("startend:end_checker")
def _ends(text: str, *, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


@_check("startend:quotation")
def _quoted(text: str) -> bool:
    body = text.strip()
    return len(body) > 1 and body[0] == '"' and body[-1] == '"'


@_check("change_case:capital_word_frequency")
def _capitals(text: str, *, capital_frequency: int, capital_relation: str) -> bool:
    count = sum(word.isupper() for word in _TOKENS.findall(text))
    return _holds(count, capital_relation, capital_frequency)


@_check("change_case:english_capital")
def _upper(text: str) -> bool:
    return text.isupper() and language_of(text.lower()) in ("en", "")


@_check("change_case:english_lowercase")
def _lower(text: str) -> bool:
    return text.islower() and language_of(text) in ("en", "")


@_check("punctuation:no_comma")
def _no_comma(text: str) -> bool:
    return "," not in text


def count_sentences(text: str) -> int:
    """Number of sentences: parts that end in a full stop, a question or exclamation mark, or with
    the text. Stops of titles, initials and numbers end none.
    """
    plain = _TITLES.sub(lambda match: match[0].replace(".", " "), text)
    parts = _SENTENCE_END.split(plain)
    return sum(_WORDS.search(part) is not None for part in parts)


def follows(
    text: str, identifier: str, settings: Mapping[str, Any], *, loose: bool = False
) -> bool:
    """Whether a text follows an instruction.

    Args:
        identifier: such as "length_constraints:number_words".
        settings: of the instruction; None values are left out.
        loose: accept a text that follows it without its first or last line, or without its
            asterisks: introductions and marks that a model adds.
    Raises:
        DataError: there is no such instruction, or its settings are wrong.
    """
    check = CHECKS.get(identifier)
    if check is None:
        raise DataError(f"instructions: there is no {identifier!r}: {nearest(identifier, CHECKS)}")
    given = {name: value for name, value in settings.items() if value is not None}
    try:
        return any(bool(t.strip()) and check(t, **given) for t in _variants(text, loose))
    except TypeError as error:
        raise DataError(f"instructions: {identifier} with {given}: {error}") from error


def _variants(text: str, loose: bool) -> list[str]:
    if not loose:
        return [text]
    lines = text.split("\n")
    parts = [lines, lines[1:], lines[:-1], lines[1:-1]]
    texts = ["\n".join(part).strip() for part in parts]
    return [text, *texts, *(t.replace("*", "") for t in texts)]
