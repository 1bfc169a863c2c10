"""Functions to complete, in the format of HumanEval (Chen et al., arXiv 2107.03374)."""

from __future__ import annotations

from typing import Any, Literal

from posttrain.data.rows import load_rows
from posttrain.errors import DataError
from posttrain.registry import tasks
from posttrain.tasks.code import code_task
from posttrain.types import Example, Task

_COLUMNS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
_STOP = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(")


@tasks.register
def humaneval(
    *,
    path: str,
    split: str = "test",
    num_examples: int | None = None,
    chat: bool = False,
    partial: bool = False,
    sandbox: Literal["bubblewrap", "none"] = "bubblewrap",
    seconds: float = 5.0,
    memory_mb: int = 512,
    max_tokens: int = 512,
) -> Task:
    """HumanEval and anything written like it: a function's head and docstring to complete.

    path: a JSONL file (also .gz), a folder, or a hub id, with columns task_id, prompt, entry_point,
    canonical_solution and test. chat: prompts are messages, for instruction-tuned models; else the
    code itself, which a base model goes on from. partial: the grade is the share of assertions that
    pass; else 1 if all do. sandbox: bubblewrap, or none, which runs programs with the rights of
    this process. seconds: processor time of a program. memory_mb: its address space in MiB.
    """
    examples = []
    for number, row in enumerate(load_rows(path, split=split)[:num_examples]):
        lacking = [name for name in _COLUMNS if not isinstance(row.get(name), str)]
        if lacking:
            raise DataError(
                f"{path}: row {number} is not HumanEval-like: it needs a text column {lacking[0]!r}"
            )
        code, name = row["prompt"], row["entry_point"]
        columns = {"code_prompt": code, "entry_point": name, "test": row["test"]}
        instruction = (
            f"Write the whole function {name}, in one block of Python.\n\n```python\n{code}```"
        )
        prompt: Any = [{"role": "user", "content": instruction}] if chat else code
        whole = f"```python\n{code}{row['canonical_solution']}```"
        completion: Any = (
            [{"role": "assistant", "content": whole}] if chat else row["canonical_solution"]
        )
        examples.append(Example(prompt, completion, None, columns, id=row["task_id"]))
    return code_task(
        "humaneval",
        examples,
        sandbox=sandbox,
        seconds=seconds,
        memory_mb=memory_mb,
        partial=partial,
        stop=() if chat else _STOP,
        max_tokens=max_tokens,
    )
