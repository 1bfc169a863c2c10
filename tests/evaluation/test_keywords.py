"""Probes: what stands before a keyword of the domain, and the keyword."""

from __future__ import annotations

from posttrain.evaluation.keywords import keyword_rows

TRAIN = {
    "sea": ["the whale saw the whale and the whale"],
    "law": ["the court and the court and the court"],
}


def test_a_probe_ends_with_the_keyword() -> None:
    held_out = {"sea": ["and a long while after a Whale came, the whale"], "law": ["no such word"]}
    rows = keyword_rows(TRAIN, held_out, 3)
    assert rows["law"] == []
    assert [row["completion"] for row in rows["sea"]] == [" Whale", " whale"]
    assert rows["sea"][0]["prompt"] == "and a long while after a"


def test_a_probe_needs_something_before_the_keyword() -> None:
    held_out = {"sea": ["a whale"], "law": ["whales are not courts; 20 characters"]}
    assert keyword_rows(TRAIN, held_out, 3) == {"sea": [], "law": []}


def test_no_keywords_are_asked_for() -> None:
    held_out = {"sea": ["and a long while after a whale"], "law": []}
    assert keyword_rows(TRAIN, held_out, 0) == {"sea": [], "law": []}


def test_probes_are_bounded() -> None:
    text = "a long text of the sea with a whale " * 100
    rows = keyword_rows(TRAIN, {"sea": [text], "law": []}, 3)["sea"]
    assert len(rows) == 32
    assert max(len(row["prompt"]) for row in rows) <= 160
