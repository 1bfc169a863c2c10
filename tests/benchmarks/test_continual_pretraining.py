"""Claims about streams: the sign and the verdict of each, and the texts of a domain."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from posttrain.evaluation.streams import Stream, Streams

from .loading import load

SEEDS = 5


def stream(name: str, last: float) -> Stream:
    """Two domains: ZS 3, alone 2, CPT 1.5; the first is at `last` in the end."""
    noise = np.linspace(-0.01, 0.01, SEEDS)
    values = [[[3.0, 3.0], [1.5 + n, 2.5], [last + 2 * n, 1.5 - n]] for n in noise]
    alone = [[2.0 + n, 2.0 - n] for n in noise]
    return Stream(name, {}, [["a", "b"]] * SEEDS, {"nats": values}, {"nats": alone})


def test_a_claim_is_reproduced_refuted_or_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("continual_pretraining", monkeypatch)
    streams = [stream("random", 2.0), stream("similar", 1.75), stream("random, replay 25%", 1.6)]
    result = Streams("tiny", ["a", "b"], list(range(SEEDS)), streams, {})
    found = {c["claim"]: (c["verdict"], round(c["estimate"], 3)) for c in module.claims(result)}
    assert found == {
        "DAPT < ZS": ("reproduced", 1.0),
        "CPT < DAPT": ("reproduced", 0.5),
        "LC < ZS in random order": ("reproduced", 1.25),
        "random order has lower LC than similar": ("refuted", -0.125),
        "random order forgets less than similar": ("refuted", -0.25),
        "similar order has lower CPT than random": ("undecided", 0.0),
        "replay lowers FG": ("reproduced", 0.4),
        "replay lowers LC": ("reproduced", 0.2),
    }


def test_domains_are_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("continual_pretraining", monkeypatch)
    corpora = tmp_path / "text_corpora"
    corpora.mkdir()
    for file in module.CORPORA.values():
        if not file.endswith(".gz"):
            (corpora / file).write_text("a line of the book\n" * 60)
    pieces = list(module._paragraphs(corpora / "sherlock.txt"))
    assert all(500 <= len(piece) < 540 for piece in pieces) and len(pieces) == 2
    stories = corpora / "stories.txt"
    stories.write_text("One day.<|endoftext|>\nA dog.\n<|endoftext|>")
    assert list(module._paragraphs(stories)) == ["One day.", "A dog."]
    folder = tmp_path / "BoolQA"
    folder.mkdir()
    (folder / "train.json").write_text(json.dumps([{"sentence": "is it?\n", "label": "True"}]))
    assert module._labelled(folder) == [{"text": "is it?\nTrue"}]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "ask ", "completion": "answer<|endoftext|>"}\n')
    assert module._prompted(rows) == [{"text": "ask answer"}]
    assert module._worked("sorting", {"num_numbers": 3})[0]["text"].startswith("sort: ")


def test_an_unknown_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("continual_pretraining", monkeypatch)
    with pytest.raises(module.ConfigError):
        module.domains("no_such_run", tmp_path)
