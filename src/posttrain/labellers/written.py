"""Labels that a language model writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain.config import EndpointConfig
from posttrain.errors import ConfigError
from posttrain.labellers.adviser import Adviser
from posttrain.labellers.base import Cost, Label, Labeller, Question, Row
from posttrain.methods.objects import ModelLike
from posttrain.registry import labellers

INSTRUCTION = "Name the class of the last text. Classes: {labels}."


class Written(Labeller):
    """A model's labels, with the share of its samples that agree as the confidence."""

    def __init__(
        self,
        adviser: Adviser,
        *,
        instruction: str = INSTRUCTION,
        num_samples: int = 1,
        temperature: float = 0.0,
        max_tokens: int = 16,
        num_demonstrations: int = 0,
        nearest: bool = False,
        money_per_million_tokens: float = 0.0,
    ) -> None:
        if num_samples < 1 or num_demonstrations < 0:
            raise ConfigError(
                f"labeller: num_samples is {num_samples} and num_demonstrations "
                f"{num_demonstrations}; at least 1 and 0"
            )
        if num_samples > 1 and not temperature:
            raise ConfigError(
                f"labeller: {num_samples} samples at temperature 0 are the same; set temperature"
            )
        self.adviser, self.instruction = adviser, instruction
        self.num_samples, self.temperature, self.max_tokens = num_samples, temperature, max_tokens
        self.num_demonstrations, self.nearest = num_demonstrations, nearest
        self.price = money_per_million_tokens / 1e6

    def label(self, rows: Sequence[Row], question: Question) -> list[Label | None]:
        return [*self.labelled(rows, question, question.labelled)]

    def labelled(
        self, rows: Sequence[Row], question: Question, demonstrations: Sequence[Row]
    ) -> list[Label]:
        """Labels with other demonstrations than the rows that have a label."""
        before = self.adviser.tokens
        chosen = self._demonstrations(rows, question, demonstrations)
        prompts = [
            _prompt(row, shown, question, self.instruction)
            for row, shown in zip(rows, chosen, strict=True)
        ]
        texts = self.adviser.answers(
            prompts,
            num=self.num_samples,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            stop=("\n",) if question.labels else (),
            seed=question.seed,
        )
        tokens = (self.adviser.tokens - before) / max(len(rows), 1)
        cost = Cost(tokens * self.price, round(tokens), 0.0)
        return [_of_answers(answers, question.labels, cost) for answers in texts]

    def _demonstrations(
        self, rows: Sequence[Row], question: Question, pool: Sequence[Row]
    ) -> list[list[Row]]:
        """The labelled rows that each prompt shows, the nearest last."""
        count = min(self.num_demonstrations, len(pool))
        if not count:
            return [[] for _ in rows]
        if not self.nearest or question.embed is None:
            return [list(pool[:count]) for _ in rows]
        own, others = _unit(question.embed(rows)), _unit(question.embed(pool))
        order = np.argsort(own @ others.T, axis=1, kind="stable")[:, -count:]
        return [[pool[int(place)] for place in row] for row in order]


def _unit(vectors: Any) -> Any:
    table = np.asarray(vectors, dtype=np.float64)
    return table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)


def _prompt(row: Row, shown: Sequence[Row], question: Question, instruction: str) -> Any:
    """The question about a row. Where a label is a text, the row's own prompt is asked."""
    if not question.labels:
        return row["prompt"]
    head = instruction.replace("{labels}", ", ".join(question.labels))
    parts = [f"Text: {one['text']}\nClass: {one[question.column]}" for one in shown]
    return "\n\n".join([head, *parts, f"Text: {row['text']}\nClass:"])


def _of_answers(answers: Sequence[str], labels: Sequence[str], cost: Cost) -> Label:
    """The label that most answers give, and their share. None where no answer names one."""
    named = [_class_in(text, labels) if labels else (text.strip() or None) for text in answers]
    votes = Counter(value for value in named if value is not None)
    if not votes:
        return Label(None, cost, 0.0, "model")
    value, count = votes.most_common(1)[0]
    confidence = count / len(answers) if len(answers) > 1 else None
    return Label(value, cost, confidence, "model")


def _class_in(text: str, labels: Sequence[str]) -> str | None:
    """The class that a text names first; of several at one place the longest."""
    words = text.casefold()
    at = [(words.find(name.casefold()), -len(name), name) for name in labels]
    there = [place for place in at if place[0] >= 0]
    return min(there)[2] if there else None


@labellers.register
def model(
    *,
    model: ModelLike | None = None,
    endpoint: EndpointConfig | None = None,
    instruction: str = INSTRUCTION,
    num_samples: int = 1,
    temperature: float = 0.0,
    max_tokens: int = 16,
    num_demonstrations: int = 0,
    chat: bool = False,
    money_per_million_tokens: float = 0.0,
) -> Labeller:
    """A language model names the class of a text, or completes a prompt: the teacher of
    distillation.

    Args:
        model: a folder, a hub id, or a loaded model.
        endpoint: a model behind an OpenAI-compatible server, in its place.
        instruction: what stands before a text, with {labels}.
        num_samples: answers per row; the confidence is the share that agree.
        temperature: of the answers; 0 is greedy.
        max_tokens: of an answer.
        num_demonstrations: rows with a label that a prompt shows.
        chat: ask in chat turns.
        money_per_million_tokens: price of what is read and written.
    """
    return Written(
        Adviser(model, endpoint, chat=chat),
        instruction=instruction,
        num_samples=num_samples,
        temperature=temperature,
        max_tokens=max_tokens,
        num_demonstrations=num_demonstrations,
        money_per_million_tokens=money_per_million_tokens,
    )


@labellers.register
def llmaaa(
    *,
    model: ModelLike | None = None,
    endpoint: EndpointConfig | None = None,
    num_demonstrations: int = 5,
    num_samples: int = 5,
    temperature: float = 0.7,
    money_per_million_tokens: float = 0.0,
) -> Labeller:
    """A language model that sees the nearest rows with a label: LLMaAA (arXiv 2310.19596) in short.

    Demonstrations are the k nearest neighbours by the small model's embeddings, the nearest last.
    The paper also learns a weight for each label; here the confidence is recorded, and
    `min_confidence` of `pt.active` leaves out what is below it.

    Args:
        model: a folder, a hub id, or a loaded model.
        endpoint: a model behind an OpenAI-compatible server, in its place.
        num_demonstrations: rows with a label that a prompt shows.
        num_samples: answers per row; the confidence is the share that agree.
        temperature: of the answers.
        money_per_million_tokens: price of what is read and written.
    """
    return Written(
        Adviser(model, endpoint),
        num_samples=num_samples,
        temperature=temperature,
        num_demonstrations=num_demonstrations,
        nearest=True,
        money_per_million_tokens=money_per_million_tokens,
    )
