"""Documents that an answer is read from: retrieval, answering as an episode, rows for SFT."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from posttrain.episodes.environments import Step, TextEnvironment
from posttrain.errors import ConfigError, DataError
from posttrain.incontext import bm25
from posttrain.incontext.answers import best_f1, exact_match
from posttrain.incontext.features import TextVectors, check_features
from posttrain.types import Text, plain_text

Numbers = NDArray[np.float64]
Kind = Literal["bm25", "dense", "hybrid"]
ABSTAIN = "unanswerable"
"""What a model is told to write where the documents do not hold the answer."""

READ = (
    "Answer the question from the documents in as few words as possible. If they do not hold the "
    "answer, write {abstain}."
)


@dataclass(frozen=True, slots=True)
class Hit:
    """A retrieved document: its place in the index, its text and its score."""

    place: int
    text: str
    score: float


class Retriever:
    """An index of documents: `retriever(query, 3)` gives the 3 best, the best first.

    bm25: by words (`bm25.BM25`). dense: by the cosine of vectors (`features`). hybrid: by
    reciprocal rank fusion of both,

        score(d) = sum over rankings of 1 / (60 + rank(d))        (Cormack et al. 2009)

    Args:
        documents: texts. kind: how they are compared.
        features: of dense retrieval: "embeddings" (static sentence embeddings, which need an
            extra), or "words" (TF-IDF).

    Raises:
        DataError: no document. ConfigError: an unknown kind. MissingDependency: a missing extra.
    """

    def __init__(
        self,
        documents: Sequence[str],
        *,
        kind: Kind = "bm25",
        features: str = "embeddings",
    ) -> None:
        if not documents or not all(isinstance(text, str) for text in documents):
            raise DataError("retriever: documents must be a list of at least one text")
        if kind not in ("bm25", "dense", "hybrid"):
            raise ConfigError(f"retriever: kind is {kind!r}; choose bm25, dense or hybrid")
        self.documents, self.kind = list(documents), kind
        self._words = bm25.BM25(self.documents) if kind != "dense" else None
        self._features = features
        if kind != "bm25":
            check_features(features)
            self._vectors = TextVectors(self.documents)
            self._matrix = self._vectors(self.documents, features)

    def scores(self, query: str) -> Numbers:
        """The score of each document."""
        rankings = []
        if self._words is not None:
            rankings.append(self._words.scores(query))
        if self.kind != "bm25":
            rankings.append(self._matrix @ self._vectors([query], self._features)[0])
        if len(rankings) == 1:
            return rankings[0]
        ranks = [np.argsort(np.argsort(-scores, kind="stable")) for scores in rankings]
        result: Numbers = sum(1 / (61 + rank) for rank in ranks)  # type: ignore[assignment]
        return result

    def __call__(self, query: str, number: int) -> list[Hit]:
        """The best documents, at most as many as there are."""
        scores = self.scores(query)
        places = np.argsort(-scores, kind="stable")[:number].tolist()
        return [Hit(place, self.documents[place], float(scores[place])) for place in places]


def recall_at(retriever: Retriever, queries: Sequence[str], golden: Sequence[int], k: int) -> float:
    """Share of queries whose golden document is among the best k."""
    found = [
        place in [hit.place for hit in retriever(query, k)]
        for query, place in zip(queries, golden, strict=True)
    ]
    return sum(found) / max(len(found), 1)


def reading_prompt(documents: Sequence[str], question: str, abstain: str = ABSTAIN) -> str:
    """Documents, then the question, then where the answer begins."""
    parts = [READ.format(abstain=abstain)]
    parts += [f"Document {number}: {text}" for number, text in enumerate(documents, 1)]
    return "\n\n".join([*parts, f"Question: {question}\nAnswer:"])


class Reading(TextEnvironment):
    """One question with what was retrieved for it; the model answers once.

    Its reward is 1 for the answer, word for word, or for abstaining where there is no answer. Its
    metrics are `f1`, `abstained` and, where the row names its `document`, `retrieved`: whether that
    was among what was shown.

    Args:
        retriever: gives the documents. num_documents: that are shown. abstain: the word for it.
    """

    owns_prompt = True

    def __init__(self, retriever: Retriever, num_documents: int, abstain: str) -> None:
        self.retriever, self.num_documents, self.abstain = retriever, num_documents, abstain
        self._answer: Any = None
        self._metrics: dict[str, float] = {}

    def reset(self, **row: Any) -> Text:
        """Retrieve for the row's prompt."""
        question = plain_text(row["prompt"])
        hits = self.retriever(question, self.num_documents)
        self._answer = row.get("answer")
        if (document := row.get("document")) is not None:
            self._metrics["retrieved"] = float(document in [hit.text for hit in hits])
        return reading_prompt([hit.text for hit in hits], question, self.abstain)

    def step(self, action: str) -> Step:
        """Grade the answer."""
        written = action.strip().split("\n")[0]
        golds = [] if self._answer in (None, "") else [str(self._answer)]
        abstained = exact_match(written, self.abstain)
        metrics = {"abstained": float(abstained), "f1": best_f1(written, golds or [self.abstain])}
        right = any(exact_match(written, gold) for gold in golds) if golds else abstained
        return Step(None, float(right), True, {**self._metrics, **metrics})


def reading(
    retriever: Retriever, *, num_documents: int = 3, abstain: str = ABSTAIN
) -> Callable[[], Reading]:
    """Retrieval-augmented answering as an environment, for evaluation, search and RL alike.

        documents = pt.Retriever(texts)
        pt.evaluate(model, task, environment=pt.reading(documents, num_documents=3))

    Each episode retrieves documents for its question, shows them with it, and reads one answer.

    Args:
        retriever: the index. num_documents: that are shown.
        abstain: what stands for "the documents do not hold the answer". It is right for rows whose
            answer is empty.
    """
    if num_documents < 1:
        raise ConfigError(f"reading: num_documents is {num_documents}; at least one is shown")
    return lambda: Reading(retriever, num_documents, abstain)


def raft_rows(
    rows: Sequence[Mapping[str, Any]],
    *,
    documents: Sequence[str] = (),
    golden_share: float = 0.8,
    num_distractors: int = 4,
    retriever: Retriever | None = None,
    without: Literal["answer", "abstain"] = "answer",
    abstain: str = ABSTAIN,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Rows that teach reading among distractors, for pt.sft (RAFT, arXiv 2403.10131).

    A share P of the rows shows the golden document among k distractors, at a random place; the
    others show k + 1 distractors.

        pt.fit(model, pt.sft(pt.raft_rows(rows, golden_share=0.8, num_distractors=4)))

    Args:
        rows: with the columns question, answer, document (which holds the answer), and where there
            is one rationale, which is written before the answer.
        documents: to draw distractors from; empty takes the documents of all rows.
        golden_share: P, from 0 to 1.
        num_distractors: k.
        retriever: gives the most similar documents as distractors; None draws them at random.
        without: what a row without its document is completed with: its answer, as in the paper
            (which has to be remembered), or the abstention.
        abstain: the abstention's text.
        seed: of shares, distractors and places.

    Returns:
        rows with prompt, completion, and has_document.

    Raises:
        DataError: a column is missing, or there are too few documents. ConfigError: a number is
            out of range.
    """
    if not 0 <= golden_share <= 1 or num_distractors < 0 or without not in ("answer", "abstain"):
        raise ConfigError(
            f"raft_rows: golden_share is {golden_share}, num_distractors {num_distractors} and "
            f"without {without!r}; 0 to 1, 0 or more, and 'answer' or 'abstain'"
        )
    for number, row in enumerate(rows):
        for name in ("question", "answer", "document"):
            if row.get(name) is None:
                raise DataError(f"raft_rows: row {number} has no column {name!r}")
    pool = list(dict.fromkeys(documents or [str(row["document"]) for row in rows]))
    draw = np.random.default_rng(seed)
    results = []
    for row in rows:
        has_document = bool(draw.random() < golden_share)
        golden = str(row["document"])
        count = num_distractors if has_document else num_distractors + 1
        shown = _distractors(str(row["question"]), golden, pool, count, retriever, draw)
        if has_document:
            shown.insert(int(draw.integers(len(shown) + 1)), golden)
        answer = str(row["answer"]) if has_document or without == "answer" else abstain
        rationale = str(row.get("rationale") or "") if answer != abstain else ""
        results.append(
            {
                "prompt": reading_prompt(shown, str(row["question"]), abstain),
                "completion": f" {rationale} {answer}" if rationale else f" {answer}",
                "has_document": has_document,
            }
        )
    return results


def _distractors(
    question: str,
    golden: str,
    pool: Sequence[str],
    number: int,
    retriever: Retriever | None,
    draw: np.random.Generator,
) -> list[str]:
    """Documents that are not the golden one.

    Raises:
        DataError: there are too few.
    """
    if retriever is not None:
        near = [hit.text for hit in retriever(question, len(retriever.documents))]
        found = [text for text in dict.fromkeys(near) if text != golden][:number]
        found = [found[place] for place in draw.permutation(len(found))]
    else:
        # One more than needed, as the golden one may be among them.
        places = draw.permutation(len(pool))[: number + 1]
        found = [pool[place] for place in places if pool[place] != golden][:number]
    if len(found) < number:
        raise DataError(
            f"raft_rows: {number} distractors are needed and there are {len(found)} other "
            "documents; give more documents, or lower num_distractors"
        )
    return found
