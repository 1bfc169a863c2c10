"""Grade-school word problems in the format of GSM8K (Cobbe et al., arXiv 2110.14168)."""

from __future__ import annotations

import random
import re
from typing import Any

from posttrain.data.rows import load_rows
from posttrain.errors import DataError
from posttrain.registry import tasks
from posttrain.rewards.exact import canonical, extract_answer, same_answer
from posttrain.types import Example, Task

_CALCULATOR = re.compile(r"<<[^<>]*>>")


def extract(completion: str) -> str | None:
    """The number behind the last "####", in one spelling; None where there is none."""
    return canonical(extract_answer(completion, "hash"))


def score(completion: str, example: Example) -> float:
    """1 if the number behind the last "####" equals the answer, else 0."""
    return float(same_answer(extract_answer(completion, "hash"), str(example.answer)))


@tasks.register
def gsm8k(
    *,
    path: str,
    subset: str | None = None,
    split: str = "train",
    num_examples: int | None = None,
    seed: int | None = None,
    keep_calculator: bool = False,
    chat: bool = False,
    max_tokens: int = 300,
) -> Task:
    """GSM8K and anything written like it: columns `question` and `answer`, where the answer ends in
    "#### number".

    path: a JSONL file (also .gz), a folder with files named by split, or a hub id with its subset.
    The calculator notes <<1+1=2>> are stripped unless kept. With a seed the rows are shuffled
    before num_examples are taken. chat: prompts are messages, for instruction-tuned models; else
    "Question: ...\\nAnswer:".
    """
    rows: list[dict[str, Any]] = load_rows(path, subset=subset, split=split)
    if seed is not None:
        rows = random.Random(f"gsm8k {seed}").sample(rows, len(rows))
    examples = []
    for number, row in enumerate(rows[:num_examples]):
        question, answer = row.get("question"), row.get("answer")
        if not isinstance(question, str) or not isinstance(answer, str) or "####" not in answer:
            raise DataError(
                f"{path}: row {number} is not GSM8K-like: it needs text columns question and "
                "answer, ending in '#### number'"
            )
        worked = answer if keep_calculator else _CALCULATOR.sub("", answer)
        gold = extract_answer(worked, "hash")
        instruction = f"{question}\nEnd with the answer behind ####."
        prompt: Any = (
            [{"role": "user", "content": instruction}] if chat else f"Question: {question}\nAnswer:"
        )
        completion: Any = [{"role": "assistant", "content": worked}] if chat else f" {worked}"
        examples.append(
            Example(prompt, completion, gold, {"question": question}, id=f"gsm8k-{split}-{number}")
        )
    for example, row in zip(examples[:20], rows, strict=False):
        if score(row["answer"], example) != 1.0:
            raise DataError(
                f"{path}: the answer of {example.id} does not verify against itself: "
                f"{example.answer!r}"
            )
    return Task("gsm8k", examples, score, extract, max_tokens=max_tokens)
