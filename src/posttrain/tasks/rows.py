"""Rows as a task: prompts with or without answers, from memory or from a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from posttrain.config import DataLike
from posttrain.data.encoded import shortened
from posttrain.data.formats import RowFormat, normalise
from posttrain.data.item import messages_of
from posttrain.data.rows import rows_of
from posttrain.data.text_files import refuse_half_characters
from posttrain.errors import DataError, nearest
from posttrain.rewards.exact import canonical, extract_answer, same_answer
from posttrain.tasks.answers import missing_answers, unscored_text
from posttrain.typecheck import check_in_python
from posttrain.types import Example, Task, Text

Extractor = Literal["last_number", "hash", "boxed", "tag", "whole"]
Verifier = Literal["equal", "contains", "math"]
Score = Callable[[str, Example], float]

_SHOWN_REASONS = 5
_CHECKED = 20  # worked completions that must give their own answer


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns of a task's rows. completion: None if no column holds worked answers."""

    prompt: str = "prompt"
    answer: str = "answer"
    completion: str | None = None


def make_task(
    rows: DataLike | Iterable[Example],
    *,
    name: str = "rows",
    score: Score | None = None,
    extract: Callable[[str], str | None] | None = None,
    prompt_column: str = "prompt",
    answer_column: str = "answer",
    completion_column: str | None = None,
    extractor: Extractor = "last_number",
    verifier: Verifier = "equal",
    system: str | None = None,
    stop: Sequence[str] = (),
    max_tokens: int = 256,
) -> Task:
    """A task of rows or examples.

    Only a prompt is needed. Without answers and without `score` the task has no verdict: rewards
    that read no answer can train on it, and what needs a verdict refuses it.

    >>> make_task([{"prompt": "2+2="}], score=lambda text, example: float("4" in text)).score(
    ...     "4", Example("2+2=")
    ... )
    1.0

    Args:
        rows: `Example`s, or anything that `rows_of` reads: dictionaries, a path, a
            `datasets.Dataset`, a `DataConfig`.
        name: of the task in messages, metrics and reports.
        score: (completion, example) -> reward from 0 to 1. None compares with the answer.
        extract: completion -> answer that votes count, or None. None uses `extractor`.
        prompt_column, answer_column, completion_column: names of the columns of dictionaries.
            Every other column reaches rewards by its name.
        extractor: where the answer of a completion is.
        verifier: "equal" (exact numbers, else text), "contains" (the answer's text occurs in the
            completion), or "math" (mathematical equality, in a separate process with a time
            limit).
        system: system message of every prompt.
        stop: texts that end a completion.
        max_tokens: tokens per completion, where the sampling does not say.
    Raises:
        ConfigError: there is no such extractor or verifier.
        DataError: a row has no prompt, or a worked completion does not give its own answer.
    """
    extractor = check_in_python(extractor, Extractor, "make_task: extractor")
    verifier = check_in_python(verifier, Verifier, "make_task: verifier")
    columns = Columns(prompt_column, answer_column, completion_column)
    examples = examples_of(rows, columns, where=name)
    unscored = ""
    if score is None:
        unscored = unscored_text(missing_answers(examples, answer_column))
        score = answer_score(extractor, verifier, name=name, unscored=unscored)
        if not unscored:
            _check_completions(examples, score, f"extractor {extractor!r}, verifier {verifier!r}")

    def extract_canonical(completion: str) -> str | None:
        return canonical(extract_answer(completion, extractor))

    return Task(
        name,
        examples,
        score,
        extract or extract_canonical,
        system=system,
        stop=tuple(stop),
        max_tokens=max_tokens,
        unscored=unscored,
    )


def answer_score(
    extractor: Extractor, verifier: Verifier, *, name: str = "rows", unscored: str = ""
) -> Score:
    """A score of 1 where a completion's answer agrees with the example's, else 0.

    Args:
        unscored: why examples cannot be scored; the score then raises a DataError.
    """

    def score(completion: str, example: Example) -> float:
        if unscored:
            raise DataError(f"task {name!r} cannot score completions: {unscored}")
        answer = str(example.answer)
        if verifier == "contains":
            return float(bool(completion) and answer.lower() in completion.lower())
        prediction = extract_answer(completion, extractor)
        if verifier == "math":
            from posttrain.rewards.math import shared_pool

            return float(shared_pool().equal([(answer, prediction)])[0] is True)
        return float(same_answer(prediction, answer))

    return score


def examples_of(
    rows: DataLike | Iterable[Example], columns: Columns = Columns(), *, where: str = "rows"
) -> list[Example]:
    """Examples of rows; those that are examples already stay as they are.

    Rows in verl's format (reward_model.ground_truth) are taken as they are.

    Args:
        where: name of the rows, for messages.
    Raises:
        DataError: rows have no prompt; one error names the first of them.
    """
    if isinstance(rows, Iterator):
        rows = list(rows)
    if isinstance(rows, Sequence) and rows and all(isinstance(row, Example) for row in rows):
        return [e if e.id else replace(e, id=str(number)) for number, e in enumerate(rows)]
    table = rows_of(rows)  # type: ignore[arg-type]  # these are no examples
    is_verl = "reward_model" in table[0] and columns.answer not in table[0]
    examples, reasons = [], []
    for number, row in enumerate(table):
        name = str(row.get("id", number))
        try:
            examples.append(_verl(row, name) if is_verl else _example(row, name, columns))
        except DataError as error:
            reasons.append(shortened(str(error)))
    if reasons:
        more = "; ..." if len(reasons) > _SHOWN_REASONS else ""
        raise DataError(
            f"{where}: {len(reasons):,} of {len(table):,} rows cannot be used: "
            f"{'; '.join(reasons[:_SHOWN_REASONS])}{more}. Fix these rows, or name the columns in "
            "the task's settings"
        )
    return examples


def _verl(row: dict[str, Any], name: str) -> Example:
    item = normalise(row, RowFormat("verl", ""), name)
    assert item.prompt is not None
    return Example(item.prompt, None, item.answer, item.columns, id=name)


def _example(row: dict[str, Any], name: str, columns: Columns) -> Example:
    if row.get(columns.prompt) is None:
        raise DataError(f"row {name} has no column {columns.prompt!r}: {_nearest(columns, row)}")
    worked: Text | None = None
    if columns.completion is not None:
        if row.get(columns.completion) is None:
            raise DataError(
                f"row {name} has no column {columns.completion!r}: "
                f"{nearest(columns.completion, row)}"
            )
        worked = _text(row, columns.completion, name)
    used = (columns.prompt, columns.answer, columns.completion)
    rest = {k: v for k, v in row.items() if k not in used}
    prompt = _text(row, columns.prompt, name)
    return Example(prompt, worked, row.get(columns.answer), rest, id=name)


def _nearest(columns: Columns, row: Mapping[str, Any]) -> str:
    return nearest(columns.prompt, [str(key)[:30] for key in list(row)[:8]])


def _text(row: Mapping[str, Any], column: str, name: str) -> Text:
    value = row[column]
    if isinstance(value, str):
        refuse_half_characters(value, f"row {name}: column {column!r}")
        return value
    return messages_of(value, column, name)


def _check_completions(examples: Sequence[Example], score: Score, settings: str) -> None:
    for example in _worked(examples):
        if score(str(example.completion), example) != 1.0:
            raise DataError(
                f"the completion of row {example.id} does not give its own answer "
                f"{example.answer!r} with {settings}; choose others"
            )


def _worked(examples: Sequence[Example]) -> Iterator[Example]:
    return (e for e in examples[:_CHECKED] if isinstance(e.completion, str))
