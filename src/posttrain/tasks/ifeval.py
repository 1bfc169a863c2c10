"""Prompts with verifiable instructions, in the format of IFEval (Zhou et al., arXiv 2311.07911)."""

from __future__ import annotations

from typing import Any

from posttrain.data.rows import load_rows
from posttrain.errors import DataError
from posttrain.registry import tasks
from posttrain.rewards.ifeval import followed
from posttrain.types import Example, Task


@tasks.register
def ifeval(
    *,
    path: str,
    split: str = "train",
    num_examples: int | None = None,
    chat: bool = True,
    partial: bool = False,
    loose: bool = False,
    max_tokens: int = 1024,
) -> Task:
    """IFEval and anything written like it: the grade is 1 where all instructions are followed.

    With partial=False and loose=False, accuracy is the paper's strict accuracy per prompt.

    path: a JSONL file (also .gz), a folder, or a hub id, with columns prompt, instruction_id_list
    and kwargs. chat: prompts are messages, for instruction-tuned models. partial: the grade is the
    share of instructions that are followed, whose mean over prompts is close to the paper's
    accuracy per instruction. loose: also accept a text without its first or last line, or without
    asterisks.
    """
    examples = []
    for number, row in enumerate(load_rows(path, split=split)[:num_examples]):
        text = row.get("prompt")
        if not isinstance(text, str):
            raise DataError(f"{path}: row {number} has no text column 'prompt'")
        columns = {name: row.get(name) for name in ("instruction_id_list", "kwargs")}
        try:
            followed("a", columns)
        except DataError as error:
            raise DataError(f"{path}: row {number}: {error}") from error
        prompt: Any = [{"role": "user", "content": text}] if chat else text
        examples.append(Example(prompt, None, None, columns, id=f"ifeval-{row.get('key', number)}"))

    def score(completion: str, example: Example) -> float:
        verdicts = followed(completion, example.columns, loose=loose)
        return sum(verdicts) / len(verdicts) if partial else float(all(verdicts))

    def extract(completion: str) -> str | None:
        return completion.strip() or None

    return Task("ifeval", examples, score, extract, max_tokens=max_tokens)
