"""Rows for the recipes in this folder, from the arithmetic task and completions that the embedded
model writes for it.

    python recipes/preference/make_rows.py [FOLDER]

FOLDER (runs/preference/rows) then holds, for 1000 problems, about two minutes of one CPU core:
pairs.jsonl     a right completion (the worked one, where none is) against a wrong one, both the
                model's own where it has them
unpaired.jsonl  single completions with a label
lists.jsonl     four completions with scores: 1 right, the share of right lines else
triples.jsonl   worked text (reference), a right completion of the model's own (chosen), a wrong
                one (rejected)
steps.jsonl     right lines so far (initial_reason_steps), the next right line (chosen) and one
                that slips (rejected)
"""

from __future__ import annotations

import json
import random
import sys
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from posttrain.data.templates import decode_completion, encode_prompt
from posttrain.engines.torch import TorchEngine
from posttrain.models.load import load_model
from posttrain.registry import tasks
from posttrain.types import Example, Request, Sampling, Task

Row = dict[str, Any]
DIFFICULTY = {"num_steps": 3, "max_operand": 50, "max_value": 199}


def sampled(
    num_problems: int, num_samples: int = 8, seed: int = 7
) -> tuple[Task, list[tuple[Example, list[str]]]]:
    """Problems of the training split with completions of the embedded model at temperature 1."""
    task = tasks.get("arithmetic")(num_examples=num_problems, seed=seed, **DIFFICULTY)
    model = load_model(str(files("posttrain") / "assets" / "base"), dtype="float32")
    sampling = Sampling(max_tokens=task.max_tokens)
    requests = [
        Request(tuple(encode_prompt(model.tokenizer, e.prompt)), sampling, n=num_samples, seed=i)
        for i, e in enumerate(task.examples)
    ]
    decode = partial(decode_completion, model.tokenizer)
    texts = [
        [decode(s) for s in row if s.finish_reason == "stop"]
        for row in TorchEngine(model).generate(requests)
    ]
    return task, list(zip(task.examples, texts, strict=True))


def right_and_wrong(task: Task, example: Example, texts: list[str]) -> tuple[list[str], list[str]]:
    """Distinct completions that are right (the worked one, where none is) and wrong (a slip, where
    none is).
    """
    distinct = [t for t in dict.fromkeys(texts) if t.strip()]
    right = [t for t in distinct if task.score(t, example) == 1]
    wrong = [t for t in distinct if task.score(t, example) == 0]
    return right or [str(example.completion)], wrong or [
        slip(str(example.completion), 0, random.Random(example.id))
    ]


def slip(worked: str, line: int, draw: random.Random) -> str:
    """The worked text with a wrong result in one line, from which it goes on rightly."""
    *lines, _ = worked.strip().split("\n")
    value, out = 0, []
    for number, text in enumerate(lines):
        left, _, result = text.partition("=")
        if number > line:
            at = next(i for i, c in enumerate(left) if c in "+-*" and i)
            operand = int(left[at + 1 :])
            left, result = (
                f"{value}{left[at:]}",
                str({"+": value + operand, "-": value - operand, "*": value * operand}[left[at]]),
            )
        value = int(result) + (draw.choice([-10, -2, -1, 1, 2, 10]) if number == line else 0)
        out.append(f"{left}={value}")
    return " " + "\n".join([*out, f"#### {value}"])


def quality(task: Task, example: Example, text: str) -> float:
    """1 for a right completion, else half the share of worked lines that it has."""
    worked = str(example.completion).strip().split("\n")
    return (
        1.0
        if task.score(text, example) == 1
        else 0.5 * sum(line in text.split("\n") for line in worked) / len(worked)
    )


def pairs(task: Task, groups: list[tuple[Example, list[str]]]) -> list[Row]:
    """A right against a wrong completion of each problem."""
    rows = []
    for example, texts in groups:
        right, wrong = right_and_wrong(task, example, texts)
        rows.append({"prompt": example.prompt, "chosen": right[0], "rejected": wrong[0]})
    return rows


def unpaired(task: Task, groups: list[tuple[Example, list[str]]]) -> list[Row]:
    """A right completion of every other problem, a wrong one of the rest."""
    rows = []
    for number, (example, texts) in enumerate(groups):
        side = right_and_wrong(task, example, texts)[number % 2]
        rows.append({"prompt": example.prompt, "completion": side[0], "label": number % 2 == 0})
    return rows


def lists(task: Task, groups: list[tuple[Example, list[str]]]) -> list[Row]:
    """Two right and two wrong completions at most, with their quality."""
    rows = []
    for example, texts in groups:
        right, wrong = right_and_wrong(task, example, texts)
        chosen = [*right[:2], *wrong[:2]]
        scores = [quality(task, example, t) for t in chosen]
        rows.append({"prompt": example.prompt, "completions": chosen, "scores": scores})
    return rows


def triples(task: Task, groups: list[tuple[Example, list[str]]]) -> list[Row]:
    """Worked text, and the two completions of `pairs`."""
    worked = [str(example.completion) for example, _ in groups]
    return [
        {"reference": text, **row} for text, row in zip(worked, pairs(task, groups), strict=True)
    ]


def steps(task: Task, groups: list[tuple[Example, list[str]]]) -> list[Row]:
    """The next line after some right ones: right, and with a slip."""
    rows = []
    for example, _ in groups:
        draw = random.Random(example.id)
        lines = [line + "\n" for line in str(example.completion).split("\n")]
        at = draw.randrange(DIFFICULTY["num_steps"])
        wrong = slip(str(example.completion), at, draw).split("\n")[at] + "\n"
        rows.append(
            {
                "prompt": example.prompt,
                "initial_reason_steps": "".join(lines[:at]),
                "chosen": lines[at],
                "rejected": wrong,
            }
        )
    return rows


def main() -> None:
    """Write all files."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/preference/rows")
    folder.mkdir(parents=True, exist_ok=True)
    task, groups = sampled(1000)
    for make in (pairs, unpaired, lists, triples, steps):
        rows = make(task, groups)
        (folder / f"{make.__name__}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
        )
        print(f"{folder / make.__name__}.jsonl: {len(rows)} rows")


if __name__ == "__main__":
    main()
