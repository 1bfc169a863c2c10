from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain import registry
from posttrain.errors import ConfigError, DataError
from posttrain.tasks.countdown import evaluate
from posttrain.types import Task, plain_text

EMBEDDED: list[tuple[str, dict[str, Any]]] = [
    ("arithmetic", {"num_examples": 40}),
    (
        "arithmetic",
        {"num_examples": 20, "num_steps": 1, "max_operand": 9, "max_value": 20, "split": "test"},
    ),
    ("countdown", {"num_examples": 40}),
    ("countdown", {"num_examples": 20, "num_numbers": 5}),
    ("sorting", {"num_examples": 40}),
]


def make(name: str, **options: Any) -> Task:
    return registry.tasks.bind(name, options)()


@pytest.mark.parametrize(("name", "options"), EMBEDDED)
def test_references_score_one_and_nothing_else_does(name: str, options: dict[str, Any]) -> None:
    task = make(name, **options)
    assert len(task.examples) == options["num_examples"]
    assert len({e.id for e in task.examples}) == len(task.examples)
    for i, example in enumerate(task.examples):
        reference = plain_text(example.completion or "")
        assert task.score(reference, example) == 1.0
        assert task.extract(reference) is not None
        for wrong in (
            "",
            "####",
            "no",
            reference + "9",
            reference[:-1] if name == "sorting" else "x" + reference * 0,
        ):
            assert task.score(wrong, example) == 0.0, (reference, wrong)
        other = task.examples[(i + 1) % len(task.examples)]
        if other.answer != example.answer and name != "countdown":
            assert task.score(plain_text(other.completion or ""), example) == 0.0
        assert (
            len(reference.encode()) <= task.max_tokens
        )  # room for the reference, were every byte a token


@pytest.mark.parametrize(("name", "options"), EMBEDDED)
def test_the_same_seed_gives_the_same_examples(name: str, options: dict[str, Any]) -> None:
    again = make(name, **options).examples
    assert again == make(name, **options).examples
    assert [e.prompt for e in again] != [
        e.prompt for e in make(name, **{**options, "seed": 1}).examples
    ]
    code = (
        f"from posttrain import registry; print(registry.tasks.bind({name!r}, "
        f"{options!r})().examples[3].prompt)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "5", "PATH": "", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert out.stdout.rstrip("\n") == again[3].prompt.rstrip("\n")  # type: ignore[union-attr]


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | st.text("0123456789+-*/()=# .\n", max_size=60))
def test_no_text_makes_a_verifier_raise(text: str) -> None:
    for name in ("arithmetic", "countdown", "sorting"):
        task = make(name, num_examples=2)
        assert task.score(text, task.examples[0]) in (0.0, 1.0)
        answer = task.extract(text)
        assert answer is None or isinstance(answer, str)


def test_arithmetic_is_right_and_within_its_bounds() -> None:
    for example in make("arithmetic", num_examples=200, num_steps=4).examples:
        *steps, last = plain_text(example.completion or "").strip().split("\n")
        assert len(steps) == 4 and last == f"#### {example.answer}"
        before = None
        for step in steps:
            left, value = step.split("=")
            assert eval(left) == int(value) and 0 <= int(value) <= 199
            assert before is None or left.startswith(before)
            before = value
        assert example.columns["question"] in plain_text(example.prompt)


def test_difficulty_that_has_no_problems_is_refused() -> None:
    with pytest.raises(ConfigError, match="there are only .* different problems"):
        make("arithmetic", num_examples=5000, num_steps=1, max_operand=2, max_value=9)
    with pytest.raises(ConfigError, match="num_steps 0"):
        make("arithmetic", num_steps=0)
    with pytest.raises(ConfigError, match="num_numbers 9"):
        make("countdown", num_numbers=9)


def test_countdown_refuses_tricks() -> None:
    task = make("countdown", num_examples=1)
    example = task.examples[0]
    example.columns["numbers"][:] = [3, 4, 5]
    object.__setattr__(example, "columns", {"numbers": [3, 4, 5], "target": 17})
    for text, right in (
        ("3*4+5", 1),
        ("(3*4)+5 = 17", 1),
        ("5+3*4\nmore", 1),
        ("17", 0),
        ("12+5", 0),
        ("3*4+5+0", 0),
        ("3*4+5+5-5", 0),
        ("3**4", 0),
        ("__import__('os')", 0),
        ("5/(3-3)", 0),
        ("4+3*4+1", 0),
        ("", 0),
        ("(" * 150, 0),
    ):
        assert task.score(text, example) == right, text
    assert evaluate("9" * 300) is None and evaluate("1/3") is not None


GSM = [
    {"question": "1+1?", "answer": "It is <<1+1=2>>2.\n#### 2"},
    {"question": "big?", "answer": "#### 1,000"},
]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def test_gsm8k_files(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "train.jsonl", GSM)
    task = make("gsm8k", path=path)
    assert task.examples[0].completion == " It is 2.\n#### 2" and task.examples[1].answer == "1,000"
    assert (
        task.score("#### 1000.0", task.examples[1]) == 1
        and task.score("1000", task.examples[1]) == 0
    )
    assert task.extract("#### 1,000") == "1000"
    assert "<<1+1=2>>" in plain_text(
        make("gsm8k", path=path, keep_calculator=True).examples[0].completion or ""
    )
    chat = make("gsm8k", path=path, chat=True).examples[0]
    assert isinstance(chat.prompt, list) and chat.prompt[0]["role"] == "user"
    with pytest.raises(DataError, match="row 0 is not GSM8K-like"):
        make("gsm8k", path=jsonl(tmp_path / "bad.jsonl", [{"question": "a", "answer": "b"}]))


def test_any_jsonl(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"q": "2+2?", "a": 4, "level": 1}])
    task = make("jsonl", path=path, prompt_column="q", answer_column="a")
    assert task.score("it is 4", task.examples[0]) == 1 and task.score("", task.examples[0]) == 0
    assert task.examples[0].columns == {"level": 1}
    contains = make("jsonl", path=path, prompt_column="q", answer_column="a", verifier="contains")
    assert (
        contains.score("44", contains.examples[0]) == 1
        and contains.score("", contains.examples[0]) == 0
    )
    with pytest.raises(DataError, match="no column 'prompt'"):
        make("jsonl", path=path)
    worked = jsonl(tmp_path / "worked.jsonl", [{"prompt": "p", "answer": "3", "c": "so 5"}])
    with pytest.raises(DataError, match="does not give its own answer '3'"):
        make("jsonl", path=worked, completion_column="c")
    verl = jsonl(
        tmp_path / "verl.jsonl",
        [{"prompt": [{"role": "user", "content": "q"}], "reward_model": {"ground_truth": "7"}}],
    )
    assert make("jsonl", path=verl).examples[0].answer == "7"


def test_reasoning_gym() -> None:
    pytest.importorskip("reasoning_gym")
    task = make("reasoning_gym", dataset="chain_sum", num_examples=5)
    for example in task.examples:
        assert task.score(plain_text(example.completion or ""), example) == 1
        assert task.score(str(example.answer), example) == 0  # without the tags
        # the library gives part credit to a text that holds the answer; here it is wrong
        assert task.score(f"<answer>perhaps {example.answer} or so</answer>", example) == 0
    with pytest.raises(ConfigError, match="unknown dataset 'chain_smu': did you mean 'chain_sum'"):
        make("reasoning_gym", dataset="chain_smu")
    with pytest.raises(ConfigError, match="refuses its settings"):
        make("reasoning_gym", dataset="chain_sum", settings={"no_such": 1})


def test_real_gsm8k(shared: Path) -> None:
    """Every reference scores 1; model solutions are judged as the data set's own labels judge
    them.
    """
    folder = shared / "data" / "gsm8k"
    task = make("gsm8k", path=str(folder / "test.jsonl"), split="test")
    assert len(task.examples) == 1319
    assert all(task.score(plain_text(e.completion or ""), e) == 1 for e in task.examples)
    train = make("gsm8k", path=str(folder / "train.jsonl.gz"), num_examples=300)
    assert all(train.score(plain_text(e.completion or ""), e) == 1 for e in train.examples)
