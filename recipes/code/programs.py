"""Functions from examples of their values: a task whose completions are programs.

    f(0)=3 f(1)=5 f(2)=7
    def f(x): return 2*x+3

The prompt shows three values and the head of the function. Tests ask for other values, so that a
function which repeats the three fails. Linear functions, and quadratic ones with a small constant.
"""

from __future__ import annotations

import hashlib
import random
from typing import Literal

import posttrain as pt
from posttrain.tasks.code import code_task

SHOWN, ASKED = (0, 1, 2), (-4, 3, 7, 11)
FORMS = ("{a}*x+{b}", "{a}*x-{b}", "{a}*(x+{b})", "x*x+{b}", "x*x-{b}", "x*x+{a}*x")
MAX_FACTOR, MAX_TERM = 9, 19


def values(body: str, places: tuple[int, ...]) -> list[int]:
    """The function's values."""
    return [eval(body, {"x": x}) for x in places]


def is_held_out(body: str) -> bool:
    """Whether a function belongs to the split test: one in five, by a hash of its values."""
    digest = hashlib.blake2b(repr(values(body, SHOWN)).encode(), digest_size=1, person=b"programs")
    return digest.digest()[0] < 51


@pt.task
def programs(
    *,
    num_examples: int = 1000,
    split: str = "train",
    seed: int = 0,
    seconds: float = 2.0,
    sandbox: Literal["bubblewrap", "none"] = "bubblewrap",
) -> pt.Task:
    """Write a function of one line from three of its values; tests ask for four others.

    split: train or test; no function is in both. seed: of the draw. seconds: processor time of a
    program. sandbox: bubblewrap, or none, which runs programs with the rights of this process.
    """
    draw = random.Random(f"programs {split} {seed}")
    examples = []
    while len(examples) < num_examples:
        form = draw.choice(FORMS)
        body = form.format(a=draw.randint(2, MAX_FACTOR), b=draw.randint(1, MAX_TERM))
        if is_held_out(body) != (split == "test"):
            continue
        shown = " ".join(f"f({x})={v}" for x, v in zip(SHOWN, values(body, SHOWN)))
        tests = [f"assert f({x}) == {v}" for x, v in zip(ASKED, values(body, ASKED))]
        head = "def f(x): return"
        columns = {"test_list": tests, "code_prompt": head, "entry_point": "f"}
        examples.append(
            pt.Example(
                f"{shown}\n{head}",
                f" {body}",
                None,
                columns,
                id=f"programs-{split}-{seed}-{len(examples)}",
            )
        )
    return code_task(
        "programs",
        examples,
        sandbox=sandbox,
        seconds=seconds,
        memory_mb=256,
        partial=False,
        stop=("\n",),
        max_tokens=16,
    )
