"""Short programs from a sentence, in the format of MBPP (Austin et al., arXiv 2108.07732)."""

from __future__ import annotations

import ast
import warnings
from typing import Any, Literal

from posttrain.data.rows import load_rows
from posttrain.errors import ConfigError, DataError
from posttrain.registry import tasks
from posttrain.tasks.code import code_task
from posttrain.types import Example, Task

_SPLITS = {"prompt": (1, 10), "test": (11, 510), "validation": (511, 600), "train": (601, 974)}
_STOP = ("\n[DONE]", "\nassert ", '\n"""', "\nprint(")


@tasks.register
def mbpp(
    *,
    path: str,
    split: Literal["prompt", "test", "validation", "train", "all"] = "test",
    num_examples: int | None = None,
    num_shown_tests: int = 1,
    chat: bool = False,
    partial: bool = False,
    sandbox: Literal["bubblewrap", "none"] = "bubblewrap",
    seconds: float = 5.0,
    memory_mb: int = 512,
    max_tokens: int = 512,
) -> Task:
    """MBPP and anything written like it: a sentence, tests, and a program to write.

    path: a JSONL file (also .gz), a folder, or a hub id, with columns task_id, text (or prompt),
    code and test_list. split: by the numbers of the paper (prompt 1 to 10, test 11 to 510,
    validation 511 to 600, train 601 to 974), or all. num_shown_tests: tests that the prompt shows,
    at least the one that says how the function is called; all of them judge. chat: prompts are
    messages, for instruction-tuned models. partial: the grade is the share of tests that pass; else
    1 if all do. sandbox: bubblewrap, or none, which runs programs with the rights of this process.
    seconds: processor time of a program. memory_mb: its address space in MiB.
    """
    if num_shown_tests < 0:
        raise ConfigError(f"mbpp: num_shown_tests {num_shown_tests} must be at least 0")
    first, last = _SPLITS.get(split, (0, 1 << 62))
    examples = []
    for number, row in enumerate(load_rows(path, split=split)):
        text = row.get("text") or row.get("prompt")
        code, tests = row.get("code"), row.get("test_list")
        if not (isinstance(text, str) and isinstance(code, str) and isinstance(tests, list)):
            raise DataError(
                f"{path}: row {number} is not MBPP-like: it needs the columns text, code and "
                "test_list"
            )
        place = row.get("task_id", number)
        if isinstance(place, int) and not first <= place <= last:
            continue
        shown = "\n".join(map(str, tests[:num_shown_tests]))
        columns = {
            "test_list": tests,
            "test_setup_code": row.get("test_setup_code") or row.get("test_imports") or "",
            "code": _names_alone(code),
        }
        completion: Any = _plain(code)
        if chat:
            told = f"{text}\nThe program has to pass:\n{shown}" if shown else text
            prompt: Any = [{"role": "user", "content": f"{told}\nAnswer in one block of Python."}]
            completion = [{"role": "assistant", "content": f"```python\n{completion}\n```"}]
        else:
            prompt = f'"""\n{text}\n{shown}\n"""\n' if shown else f'"""\n{text}\n"""\n'
        examples.append(Example(prompt, completion, None, columns, id=f"mbpp-{place}"))
        if len(examples) == num_examples:
            break
    if not examples:
        raise DataError(f"{path}: no row has a task_id of split {split!r}; use split: all")
    return code_task(
        "mbpp",
        examples,
        sandbox=sandbox,
        seconds=seconds,
        memory_mb=memory_mb,
        partial=partial,
        stop=() if chat else _STOP,
        max_tokens=max_tokens,
    )


def _plain(code: str) -> str:
    return code.replace("\r\n", "\n").rstrip()


def _names_alone(code: str) -> str:
    """The names that a solution defines, without what it does: rewards and reports see columns."""
    kinds = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes in its texts
            body = ast.parse(_plain(code)).body
    except SyntaxError:
        return ""
    names = [node.name for node in body if isinstance(node, kinds)]
    return "\n".join(f"def {name}(): ..." for name in names)
