"""Any file of prompts, with or without answers, as a task."""

from __future__ import annotations

from typing import Literal

from posttrain.config import DataConfig
from posttrain.registry import tasks
from posttrain.tasks.rows import make_task
from posttrain.types import Task


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
    """Rows with a prompt (text or messages) and, where something needs it, an answer; from JSONL,
    JSON, CSV, Parquet, a folder or a hub id.

    Prompts alone suffice for rewards that read no answer. The reward "task" and an evaluation need
    an answer in every row. Rows in verl's format (reward_model.ground_truth) are taken as they are.
    Every other column reaches rewards by its name.

    Args:
        path: a file, a folder or the id of a hub data set.
        split: of a hub data set; in a folder, the files whose names contain it.
        prompt_column, answer_column: names of these columns.
        completion_column: name of the column of worked completions, which method sft imitates.
        extractor: where the answer of a completion is.
        verifier: equal (exact numbers, else text), contains (the answer's text occurs in the
            completion), or math (mathematical equality, in a separate process with a time limit).
        system: system message of every prompt.
        num_examples: largest number of rows.
        max_tokens: tokens per completion, where the sampling does not say.
    """
    return make_task(
        DataConfig(path, split=split, limit=num_examples),
        name="jsonl",
        prompt_column=prompt_column,
        answer_column=answer_column,
        completion_column=completion_column,
        extractor=extractor,
        verifier=verifier,
        system=system,
        max_tokens=max_tokens,
    )
