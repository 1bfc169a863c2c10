"""The turns of an episode in a cell of a notebook."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from posttrain.report.browse import MAX_TURNS
from posttrain.report.dialogue import dialogue
from posttrain.report.records import Call, Said, TurnRecord

EVIL = '</pre><script>alert(1)</script>"'


def test_messages_completions_and_calls_in_order() -> None:
    turns = [
        TurnRecord(
            (Said("user", EVIL), Said("policy trained", "b")),
            EVIL,
            (Call(EVIL, "{}", EVIL), Call("add", "{}", None, "no")),
            0.5,
            7,
        ),
        TurnRecord((Said("tool", "3"),), "", is_trained=False, starts_branch=True),
    ]
    root = ElementTree.fromstring(dialogue(turns))
    kinds = [child.get("class") for child in root]
    assert kinds == ["said user", "said other", "said policy trained", "said tool", "said policy"]
    heads = [str(child.find("small").text) for child in root]  # type: ignore[union-attr]
    assert heads[2] == "turn 1 · 7 tokens · step reward 0.5"
    assert heads[4] == "turn 2 · not trained on · history rewritten"
    calls = [node.get("class") for node in root.iter("div") if "call" in str(node.get("class"))]
    assert calls == ["call", "call failed"]
    assert "".join(root.itertext()).count(EVIL) == 4


def test_of_many_turns_the_first_and_the_last() -> None:
    turns = [TurnRecord((), f"completion {i}") for i in range(1, MAX_TURNS + 11)]
    text = "".join(ElementTree.fromstring(dialogue(turns)).itertext())
    assert "10 turns left out" in text and f"turn {MAX_TURNS + 10}" in text
    assert text.count("completion") == MAX_TURNS
    assert dialogue([]) == ""
