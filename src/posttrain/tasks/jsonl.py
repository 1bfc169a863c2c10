"""Any file of prompts and answers as a task."""

from __future__ import annotations

from typing import Any, Literal

from posttrain.data.formats import detect_format, normalise
from posttrain.data.rows import load_rows
from posttrain.errors import DataError, nearest
from posttrain.registry import tasks
from posttrain.rewards.exact import canonical, extract_answer, same_answer
from posttrain.types import Example, Task


@tasks.register
def jsonl(
    *,
    path: str,
    split: str = "train",
    prompt_column: str = "prompt",
    answer_column: str = "answer",
    completion_column: str | None = None,
    extractor: Literal["last_number", "hash", "boxed", "tag", "whole"] = "last_number",
    verifier: Literal["equal", "contains", "math"] = "equal",
    system: str | None = None,
    num_examples: int | None = None,
    max_tokens: int = 256,
) -> Task:
    """Rows with a prompt (text or messages) and an answer, from JSONL, JSON, CSV, Parquet, a folder
    or a hub id.

    verifier: equal (exact numbers, else text), contains (the answer's text occurs in the
    completion), or math (mathematical equality in a killable process). extractor: where a
    completion's answer stands. Rows in verl's format (reward_model.ground_truth) are taken as they
    are. Every other column reaches rewards by its name.
    """
    rows = load_rows(path, split=split, limit=num_examples)
    verl = "reward_model" in rows[0] and answer_column not in rows[0]
    examples = [
        _example(row, i, path, prompt_column, answer_column, completion_column, verl)
        for i, row in enumerate(rows)
    ]

    def extract(completion: str) -> str | None:
        return canonical(extract_answer(completion, extractor))

    def score(completion: str, example: Example) -> float:
        answer = str(example.answer)
        if verifier == "contains":
            return float(bool(completion) and answer.lower() in completion.lower())
        if verifier == "math":
            from posttrain.rewards.math import shared_pool

            return float(
                shared_pool().equal([(answer, extract_answer(completion, extractor))])[0] is True
            )
        return float(same_answer(extract_answer(completion, extractor), answer))

    for example in examples[:20]:
        if isinstance(example.completion, str) and score(example.completion, example) != 1.0:
            raise DataError(
                f"{path}: the completion of row {example.id} does not give its own answer "
                f"{example.answer!r} with extractor "
                f"{extractor!r} and verifier {verifier!r}; choose others"
            )
    return Task("jsonl", examples, score, extract, system=system, max_tokens=max_tokens)


def _example(
    row: dict[str, Any],
    number: int,
    path: str,
    prompt: str,
    answer: str,
    completion: str | None,
    verl: bool,
) -> Example:
    if verl:
        item = normalise(row, detect_format([row]), str(number))
        assert item.prompt is not None
        return Example(item.prompt, None, item.answer, item.columns, id=str(row.get("id", number)))
    for column in (prompt, answer, *([completion] if completion else [])):
        if row.get(column) is None:
            raise DataError(
                f"{path}: row {number} has no column {column!r}: {nearest(column, row)}; name it "
                "in the task's settings"
            )
    columns = {k: v for k, v in row.items() if k not in (prompt, answer, completion)}
    worked = row[completion] if completion else None
    return Example(row[prompt], worked, row[answer], columns, id=str(row.get("id", number)))
