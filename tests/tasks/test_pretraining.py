"""The corpus of the embedded base model and the problems that it is evaluated on."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import yaml

from posttrain import registry
from posttrain.tasks.arithmetic import held_out
from posttrain.tasks.pretraining import document

ROOT = Path(__file__).parents[2]
ASKED = re.compile(r"(?:Q: |What is )([0-9+*-]+)")
LINE = re.compile(r"(?<![0-9+*-])[0-9]+[+*-][0-9]+(?==)")
CHAIN = re.compile(r"(?<![0-9+*-])[0-9]+(?:[+*-][0-9]+){2,}(?![0-9+*-])")
WORDED = re.compile(r"(Add|Take away|Times) ([0-9]+): ")
OPERATION = {"Add": "+", "Take away": "-", "Times": "*"}


def worded_question(text: str) -> str:
    start = re.match(r"Start with ([0-9]+)\.", text)
    assert start is not None
    return start[1] + "".join(f"{OPERATION[word]}{number}" for word, number in WORDED.findall(text))


def check_corpus(num_documents: int) -> None:
    """What the docstring of the task says of held-out problems."""
    draw = random.Random("pretraining 0")
    asked = lines = held_out_lines = countdown = 0
    for _ in range(num_documents):
        text = document(draw)
        questions = (
            [worded_question(text)] if text.startswith("Start with") else ASKED.findall(text)
        )
        assert not any(map(held_out, questions)), text
        asked += len(questions)
        found = LINE.findall(text)
        lines += len(found)
        held_out_lines += sum(map(held_out, found))
        if any(map(held_out, CHAIN.findall(text))):
            assert text.startswith("numbers: "), text
            countdown += 1
    assert asked > 0.65 * num_documents
    assert held_out_lines / lines == pytest.approx(0.21, abs=0.01)
    assert countdown / num_documents == pytest.approx(1 / 90, rel=0.2)


def test_held_out_problems_are_never_asked() -> None:
    check_corpus(20_000)


@pytest.mark.slow
def test_held_out_problems_are_never_asked_in_all_that_the_embedded_model_was_trained_on() -> None:
    recipe = yaml.safe_load((ROOT / "recipes" / "base_model.yaml").read_text())
    assert recipe["task"]["name"] == "pretraining" and "seed" not in recipe["task"]
    check_corpus(recipe["task"]["num_examples"])


def test_the_corpus_is_the_same_every_time() -> None:
    task = registry.tasks.bind("pretraining", {"num_examples": 300})()
    texts = [str(e.completion) for e in task.examples]
    assert len({text.split(" ")[0] for text in texts}) > 10
    assert texts == [
        str(e.completion)
        for e in registry.tasks.bind("pretraining", {"num_examples": 300})().examples
    ]
