"""No built-in reward or task verifier raises on any text, or takes long over it."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from posttrain import registry
from posttrain.rewards.base import RewardSet
from posttrain.rewards.exact import (
    Extractor,
    extract_answer,
    same_answer,
)
from posttrain.rewards.format import pattern, tags
from posttrain.types import Example, Sample, Task, Trace, TraceGroup

BIG = 100_000
EXTRACTORS: list[Extractor] = ["last_number", "hash", "boxed", "tag", "whole"]

HOSTILE: dict[str, str] = {
    "empty": "",
    "space": " \n\t ",
    "mark": "####",
    "marks": "#### " * 2000,
    "mark and space": "####" + " " * BIG,
    "digits": "#### " + "7" * 5000,
    "negative digits": "#### -" + "7" * 4301,
    "digits alone": "7" * BIG,
    "zeros": "#### " + "0" * 5000 + "36",
    "groups": "1" + ",111" * (BIG // 4),
    "group broken": "1" + ",111" * 20_000 + ",1",
    "surrogate": "#### \ud800",
    "surrogates": "\ud800\udfff" * 500,
    "nul": "\0",
    "nuls": "####\0 3\0",
    "braces": "{" * BIG,
    "boxes": "\\boxed{" * (BIG // 7),
    "box open": "\\boxed{" + "{" * BIG,
    "box nested": "\\boxed{" * 3000 + "1" + "}" * 3000,
    "box empty": "\\boxed{}",
    "box nul": "\\boxed{\0}",
    "box surrogate": "\\boxed{\ud800}",
    "tags": "<answer>" * (BIG // 8),
    "tags closed": "<answer>1</answer>" * (BIG // 18),
    "tags reversed": "</answer><answer>" * (BIG // 17),
    "think": "<think>" * (BIG // 7),
    "think space": "<think></think>" + " " * BIG + "x",
    "fractions": "\\frac{1}{" * 500,
    "exponent": "1e999",
    "exponents": "#### 1e" + "9" * 5000,
    "ratio": "#### 1/0",
    "ratio of zeros": "1/" + "0" * 5000,
    "step": "7" * 5000 + "+1=" + "7" * 5000 + "\n#### 1",
    "steps": "1+1=2\n" * 10_000,
    "unicode digits": "#### \u0663\u0664",
    "superscript": "#### \u00b2",
    "minus": "#### \u22125",
    "percent": "%" * BIG,
    "dollars": "$" * BIG,
    "signs": "+-" * (BIG // 2),
    "commas": "," * BIG,
    "box commas": "\\boxed{1" + ",;" * (BIG // 2) + "}",
    "points": "." * BIG,
    "sum": "1+" * 99,
    "parentheses": "(" * 100 + "1" + ")" * 100,
    "power": "9**9**9",
    "names": "__import__('os')",
    "string": "'a'*9",
    "octal": "0o17+0x1f+1_0",
    "walrus": "(a:=3)",
    "lambda": "lambda: 1",
    "tower": "\\boxed{10^{10^{10^{10}}}}",
    "factorial": "\\boxed{((((3!)!)!)!)!}",
    "units": "\\boxed{5 " + "m" * 900 + "}",
    "backslashes": "\\" * BIG,
    "emoji": "\U0001f600" * 1000,
}


def tasks(folder: Path) -> list[Task]:
    """Every built-in task that needs no download, with each verifier and extractor."""
    rows = folder / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "p", "answer": "36"}) + "\n")
    graded = folder / "graded.jsonl"
    graded.write_text(json.dumps({"question": "q", "answer": "so #### 36"}) + "\n")
    made: list[tuple[str, dict[str, Any]]] = [
        ("arithmetic", {"num_examples": 2}),
        ("countdown", {"num_examples": 2}),
        ("sorting", {"num_examples": 2}),
        ("gsm8k", {"path": str(graded)}),
        ("jsonl", {"path": str(rows), "verifier": "contains"}),
        *(("jsonl", {"path": str(rows), "extractor": e}) for e in EXTRACTORS),
    ]
    return [registry.tasks.bind(name, settings)() for name, settings in made]


def mutations(count: int, seed: int) -> list[str]:
    """Random pieces of hostile and of right texts, joined."""
    draw = random.Random(f"hostile {seed}")
    pieces = [t[:300] for t in HOSTILE.values()] + [
        "#### 36",
        "<answer>36</answer>",
        "\\boxed{36}",
        "36.",
        "1+1=2\n",
        "\r\n",
        "\x85",
    ]
    return ["".join(draw.choices(pieces, k=draw.randint(1, 4))) for _ in range(count)]


def test_no_task_raises(tmp_path: Path) -> None:
    for task in tasks(tmp_path):
        for text in [*HOSTILE.values(), *mutations(300, seed=0)]:
            assert 0.0 <= task.score(text, task.examples[0]) <= 1.0
            answer = task.extract(text)
            assert answer is None or isinstance(answer, str)


REWARDS: list[tuple[str, dict[str, Any]]] = [
    *(("exact", {"extractor": e}) for e in EXTRACTORS),
    ("task", {}),
    ("tags", {}),
    ("tags", {"partial": True}),
    ("pattern", {"regex": r"\d+$"}),
    ("keyword", {"words": ["sun"]}),
    ("length", {}),
    ("overlong", {"max_length": 8, "buffer": 4}),
    ("arithmetic_steps", {}),
    ("repetition", {}),
    ("language_consistency", {"language": "en"}),
    ("rouge_l", {}),
    ("edit_similarity", {}),
    ("json_schema", {}),
]


@pytest.mark.parametrize(("name", "settings"), REWARDS)
def test_no_reward_raises(name: str, settings: dict[str, Any]) -> None:
    task = registry.tasks.bind("arithmetic", {"num_examples": 1})()
    texts = [*HOSTILE.values(), *mutations(100, seed=1)]
    for answer in ("36", 36, None, "7" * 5000, [1]):
        example = Example("p", None, answer, {}, id="e")
        made = TraceGroup(
            example,
            (1,),
            [Trace.of_sample((1,), Sample([1], [0.0], [0.0], "stop"), t) for t in texts],
        )
        RewardSet([(name, 1.0, settings)], task=task, max_failed=0.0).reward([made])
        assert all(r.error is None for r in made.traces)


def test_math_never_raises() -> None:
    pytest.importorskip("math_verify")
    math = registry.rewards.get("math")
    texts = [
        t for name, t in HOSTILE.items() if name not in ("factorial",)
    ]  # its deadline is tested beside the pool
    assert set(math([*texts, *mutations(100, seed=2)], ["36"] * (len(texts) + 100))) <= {0.0, 1.0}
    assert math(["36"] * 3, ["7" * 5000, None, "\ud800"]) == [0.0] * 3


PIECES = [
    "<answer>",
    "</answer>",
    "<answer></answer>",
    "<think>",
    "</think>",
    "\\boxed{",
    "#### ",
    "1,111,",
    "a+",
    "{}",
]


@pytest.mark.parametrize("piece", PIECES)
def test_repeated_tags_cost_a_time_that_grows_linearly(piece: str) -> None:
    """A quadratic search of 1.6 MB takes an hour; the guard is 10 s."""
    text = piece * (1_600_000 // len(piece))
    started = time.process_time()
    for extractor in EXTRACTORS:
        extract_answer(text, extractor)
    tags([text, f"<think>{text}</think>", f"<think></think>{' ' * BIG}{text}"])
    assert time.process_time() - started < 10


def test_a_hanging_pattern_is_a_recorded_failure() -> None:
    nested = "a" * 60 + "!"
    values = pattern(["aaa", nested, "aa"], regex=r"(a+)+$", timeout_seconds=0.5)
    assert values[0] == values[2] == 1.0 and isinstance(values[1], TimeoutError)
    made = TraceGroup(
        Example("p"),
        (1,),
        [Trace.of_sample((1,), Sample([1], [0.0], [0.0], "stop"), t) for t in ("aaa", nested, "b")],
    )
    RewardSet([("pattern", 1.0, {"regex": r"(a+)+$", "timeout_seconds": 0.5})]).reward([made])
    assert [r.reward for r in made.traces] == [1.0, None, 0.0]
    assert "took longer than 0.5 s" in str(made.traces[1].error)


@pytest.mark.parametrize(
    ("prediction", "answer", "equal"),
    [
        ("18.", "18", True),
        ("$18.90", r"\$18.90", True),
        (r"\$1{,}800", "1800", True),
        ("1,800.00", "1800", True),
        ("\u22125", "-5", True),
        ("Paris.", "Paris", True),
        ("5", "-5", False),
        ("18,00", "1800", False),
        (r"12\%", "12%", True),
        ("10\\,000", "10000", True),
        ("1 2", "12", False),
        ("1  2", "12", False),
        ("10 000", "10000", True),
        ("- 5", "-5", True),
        ("$ 5", "5", True),
        ("5 1/2", "51/2", False),
    ],
)
def test_answers_as_people_write_them(prediction: str, answer: str, equal: bool) -> None:
    assert same_answer(prediction, answer) is equal
