"""Retrieval, reading as an episode, and rows that teach it."""

from __future__ import annotations

from typing import Any

import pytest

import posttrain as pt
from posttrain.errors import ConfigError, DataError
from posttrain.incontext.retrieval import (
    ABSTAIN,
    Reading,
    Retriever,
    raft_rows,
    reading,
    reading_prompt,
    recall_at,
)

DOCUMENTS = [
    "Bern is the capital of Switzerland.",
    "Lima is the capital of Peru.",
    "Whales are mammals that live in the sea.",
    "Bread is made of flour and water.",
]
ROWS = [
    {"question": f"What is word {n}?", "answer": f"a{n}", "document": f"word {n} is a{n}"}
    for n in range(60)
]


@pytest.mark.parametrize("kind", ["bm25", "dense", "hybrid"])
def test_the_right_document_comes_first(kind: Any) -> None:
    if kind != "dense":
        pytest.importorskip("bm25s")
    retriever = Retriever(DOCUMENTS, kind=kind, features="words")
    hits = retriever("What is the capital of Peru?", 2)
    assert hits[0].place == 1 and hits[0].text == DOCUMENTS[1] and hits[0].score > hits[1].score
    assert len(retriever("bread", 10)) == 4
    queries = ["capital of Switzerland", "bread and water", "where do whales live"]
    assert recall_at(retriever, queries, [0, 3, 2], 1) == 1.0
    assert recall_at(retriever, queries, [1, 3, 2], 1) == pytest.approx(2 / 3)


def test_fusion_by_hand() -> None:
    pytest.importorskip("bm25s")
    scores = Retriever(DOCUMENTS, kind="hybrid", features="words").scores("Peru")
    assert scores[1] == pytest.approx(2 / 61) == scores.max()


def read(answer: str | None, text: str, **columns: Any) -> Any:
    retriever = Retriever(DOCUMENTS, kind="dense", features="words")
    environment = reading(retriever, num_documents=1)()
    prompt = environment.reset(prompt="capital of Peru?", answer=answer, **columns)
    assert prompt == reading_prompt([DOCUMENTS[1]], "capital of Peru?")
    return environment.step(text)


def test_answers_and_abstentions_are_graded() -> None:
    right = read("Lima", " lima.\nmore", document=DOCUMENTS[1])
    assert right.done and right.reward == 1.0
    assert right.metrics == {"retrieved": 1.0, "abstained": 0.0, "f1": 1.0}
    assert read("Lima", ABSTAIN).reward == 0.0
    left = read("", f" {ABSTAIN}", document=DOCUMENTS[0])
    assert left.reward == 1.0 and left.metrics["retrieved"] == 0.0
    assert left.metrics["abstained"] == 1.0
    assert read(None, "Lima").reward == 0.0


def test_reading_is_an_environment_of_evaluations() -> None:
    retriever = Retriever(DOCUMENTS, kind="dense", features="words")
    rows = [{"prompt": "capital of Peru?", "answer": "Lima"}, {"prompt": "x?", "answer": "y"}]
    found = pt.evaluate(
        "embedded",
        pt.make_task(rows, extractor="whole"),
        environment=reading(retriever, num_documents=1),
        sampling={"max_tokens": 4, "temperature": 0.0},
    )
    assert found.metrics()["reward"]["n"] == 2 and found.metrics()["errors"] == 0
    assert isinstance(reading(retriever)(), Reading)


def test_rows_with_and_without_the_golden_document() -> None:
    rows = raft_rows(ROWS * 5, golden_share=0.7, num_distractors=3, seed=1)
    share = sum(row["has_document"] for row in rows) / len(rows)
    assert share == pytest.approx(0.7, abs=0.08)
    places = set()
    for row, source in zip(rows, ROWS * 5, strict=True):
        shown = [x.partition(": ")[2] for x in row["prompt"].split("\n\n") if x[:8] == "Document"]
        assert len(shown) == 4 == len(set(shown))
        assert (source["document"] in shown) == row["has_document"]
        assert row["completion"] == f" {source['answer']}"
        if row["has_document"]:
            places.add(shown.index(source["document"]))
    assert places == {0, 1, 2, 3}
    assert rows == raft_rows(ROWS * 5, golden_share=0.7, num_distractors=3, seed=1)


def test_abstaining_rows_rationales_and_hard_distractors() -> None:
    rows = [{**ROWS[0], "rationale": "It says so:"}, *ROWS[1:4]]
    (first, *_) = raft_rows(rows, golden_share=1.0, num_distractors=2)
    assert first["completion"] == " It says so: a0"
    (first, *_) = raft_rows(rows, golden_share=0.0, num_distractors=2, without="abstain")
    assert first["completion"] == f" {ABSTAIN}"
    near = Retriever([*DOCUMENTS, *(r["document"] for r in rows)], kind="dense", features="words")
    (first, *_) = raft_rows(rows, golden_share=1.0, num_distractors=2, retriever=near)
    assert first["prompt"].count("word") >= 4  # the distractors are of the same kind


def test_rows_are_rows_of_sft() -> None:
    rows = raft_rows(ROWS[:4], num_distractors=1)
    assert pt.check("embedded", pt.sft(rows, batch_size=2), steps=1) is not None


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(DataError):
        Retriever([])
    with pytest.raises(ConfigError):
        Retriever(DOCUMENTS, kind="sparse")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="document"):
        raft_rows([{"question": "q", "answer": "a"}])
    with pytest.raises(DataError, match="distractors"):
        raft_rows(ROWS[:2], num_distractors=5)
    with pytest.raises(ConfigError, match="golden_share"):
        raft_rows(ROWS, golden_share=1.5)
    with pytest.raises(ConfigError):
        reading(Retriever(DOCUMENTS, kind="dense", features="words"), num_documents=0)
