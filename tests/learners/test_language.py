"""Active fine-tuning, distillation and demonstrations on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import posttrain as pt
from posttrain.errors import ConfigError
from posttrain.labellers.base import labeller_of
from posttrain.learners.language import DemonstrationLearner
from posttrain.models.spec import model_spec
from posttrain.types import Example, Task

QUIET = Console(quiet=True)


def letters(num: int, start: int = 0) -> Task:
    examples = [
        Example(f"{i}:", completion=f"{i % 7}", answer=f"{i % 7}", id=f"l{i}")
        for i in range(start, start + num)
    ]

    def score(text: str, example: Example) -> float:
        return float(text.strip() == example.answer)

    return Task("letters", examples, score, extract=str.strip, max_tokens=4)


def active(model: Path, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "task": letters(12),
        "eval_task": letters(8, 100),
        "use": "sft",
        "num_initial": 3,
        "rows_per_round": 2,
        "num_rounds": 1,
        "num_examples": 3,
        "num_samples": 2,
        "training": {"steps": 1, "learning_rate": 1e-3},
        "console": QUIET,
    }
    return pt.active(str(model), **{**values, **changes})


def test_every_selector_of_completions(tiny_folder: Path) -> None:
    names = [
        "random",
        "token_entropy",
        "sequence_entropy",
        "sequence_likelihood",
        "semantic_entropy",
        "disagreement",
        "learnability",
        "coreset",
        "less",
    ]
    result = active(tiny_folder, selectors=names)
    assert result.selectors == names
    assert all(list(curve.num_labels) == [3, 5] for curve in result.curves)
    assert result.curves[0].annotation == 1.0


def test_a_teacher_writes_the_completions(tiny_folder: Path, tmp_path: Path) -> None:
    teacher = {"name": "model", "model": str(tiny_folder), "max_tokens": 3}
    result = active(
        tiny_folder, selectors=["sequence_entropy"], labeller=teacher, output=tmp_path / "run"
    )
    assert not result.is_oracle and result.curves[0].tokens[-1] > 0


def test_demonstrations_stand_before_the_problem(tiny_folder: Path) -> None:
    result = active(tiny_folder, use="demonstrations", selectors=["random"], training=None)
    assert list(result.curves[0].num_labels) == [3, 5]
    learner = DemonstrationLearner(model_spec(str(tiny_folder)), letters(2, 100))
    learner.train([{"prompt": "1:", "completion": "1"}], 0)
    assert learner._asked().examples[0].prompt == "1:1\n100:"
    chat = Example([{"role": "user", "content": "q"}])
    turns = learner._with_demonstrations(chat)
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]


def test_an_adviser_is_asked(tiny_folder: Path) -> None:
    names = ["ask_llm", "active_llm", "select_llm"]
    result = active(
        tiny_folder,
        selectors=names,
        adviser=str(tiny_folder),
        prune={"name": "active_prune", "perplexity_share": 0.8},
    )
    assert result.selectors == names


def test_what_is_refused(tiny_folder: Path) -> None:
    for changes in (
        {"selectors": ["entropy"]},
        {"eval_task": None, "eval_data": [{"text": "a"}]},
        {"labels": ["a", "b"]},
        {"use": "demonstrations", "training": {"steps": 2}},
        {"labeller": "free_al"},
    ):
        with pytest.raises(ConfigError):
            active(tiny_folder, **{"selectors": ["random"], **changes})
    assert np.isfinite(labeller_of("oracle")[0].is_oracle)
