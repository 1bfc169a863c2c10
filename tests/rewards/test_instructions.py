"""Each verifiable instruction on texts that follow it and texts that do not."""

from __future__ import annotations

import time
from typing import Any

import pytest

from posttrain.errors import DataError
from posttrain.rewards.instructions import CHECKS, count_sentences, follows

Case = tuple[str, dict[str, Any], list[str], list[str]]
CASES: list[Case] = [
    ("keywords:existence", {"keywords": ["sun", "sea"]}, ["The Sun, the sea"], ["sun", ""]),
    (
        "keywords:frequency",
        {"keyword": "war", "frequency": 2, "relation": "at least"},
        ["war and War"],
        ["war"],
    ),
    ("keywords:forbidden_words", {"forbidden_words": ["rock"]}, ["rocky"], ["a Rock!"]),
    (
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 3, "let_relation": "less than"},
        ["##"],
        ["# ##"],
    ),
    (
        "language:response_language",
        {"language": "de"},
        ["Das ist nicht gut"],
        ["This is not good"],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "at least"},
        ["One. Two! Three?", "Dr. A. came. He saw. He won"],
        ["One. Two!", "Mr. B. has 3.5 of it."],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 3, "relation": "less than"},
        ["two words"],
        ["there are three"],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n\n***\n\nb", "***\na\n***\nb"],
        ["a\n\nb", "a\n***\n***\nb"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        ["a\n\nthen, b", 'a\n\n"Then" b'],
        ["then\n\nb", "a\n\nb\n\nthen", "a"],
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[a] [b]"], ["[a] [\n]"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["a\nP.S. b"], ["a PS b"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["P.P.S b"], ["P.S. b"]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", "- a\n  - b"],
        ["* a", "**a**\n* b"],
    ),
    ("detectable_format:constrained_response", {}, ["My answer is no."], ["No."]),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* and *b c*"],
        ["*a* and * *", "a"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION 2\nb"],
        ["SECTION 1"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": 1}', '```json\n{"a": [1]}\n```'],
        ["a: 1", "[" * 100_000],
    ),
    ("detectable_format:title", {}, ["<<A day>>\nIt was"], ["<A day>", "<< >>", "<<a\n>>"]),
    (
        "combination:two_responses",
        {},
        ["yes\n******\nno"],
        ["yes", "yes******yes", "a******b******c"],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Say it."},
        ["say it. I do."],
        ["I say it."],
    ),
    ("startend:end_checker", {"end_phrase": "Bye."}, ['He said "bye."'], ["Bye. Yes"]),
    ("startend:quotation", {}, ['"a"'], ['"a', '"']),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["GO AWAY now"],
        ["GO away"],
    ),
    ("change_case:english_capital", {}, ["THIS IS IT."], ["This is it.", "DAS IST NICHT DER HUND"]),
    ("change_case:english_lowercase", {}, ["this is it."], ["This is it."]),
    ("punctuation:no_comma", {}, ["a b"], ["a, b"]),
]


@pytest.mark.parametrize(("name", "settings", "right", "wrong"), CASES)
def test_each(name: str, settings: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    assert all(follows(text, name, settings) for text in right)
    assert not any(follows(text, name, settings) for text in wrong)
    assert not follows(" \n", name, settings)


def test_all_are_tried() -> None:
    assert {name for name, *_ in CASES} == set(CHECKS) and len(CHECKS) == 25


def test_loose_leaves_out_what_a_model_adds() -> None:
    text = "Sure, here it is:\n* this is it *\nBye, now"
    assert not follows(text, "punctuation:no_comma", {})
    assert follows(text, "punctuation:no_comma", {}, loose=True)
    assert follows('**"quoted"**', "startend:quotation", {}, loose=True)
    assert not follows("", "punctuation:no_comma", {}, loose=True)


def test_sentences() -> None:
    assert count_sentences("He said: 'Go!' Then, at 3.30 p.m., he went... Yes?") == 3
    assert count_sentences("") == 0 and count_sentences("no end") == 1


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("keywords:nothing", {}),
        ("keywords:existence", {}),
        ("keywords:existence", {"keywords": ["a"], "more": 1}),
        ("keywords:frequency", {"keyword": "a", "frequency": 1, "relation": "about"}),
    ],
)
def test_wrong_rows_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        follows("a", name, settings)


def test_none_is_no_setting() -> None:
    assert follows("a", "punctuation:no_comma", {"keywords": None})


@pytest.mark.parametrize(
    "piece", ["[", "*", "<<", "\n", " \n", "``", "A.", "***", '"', "(", "P.", "[a\n", "- "]
)
def test_time_grows_linearly_with_the_text(piece: str) -> None:
    """A quadratic search of this text would take minutes; the guard is 30 s."""
    text = piece * (300_000 // len(piece))
    started = time.process_time()
    for name, settings, *_ in CASES:
        follows(text, name, settings)
    assert time.process_time() - started < 30
