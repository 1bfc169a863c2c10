"""Active fine-tuning, distillation and demonstrations on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import posttrain as pt
from posttrain import registry
from posttrain.errors import ConfigError
from posttrain.learners.language import DemonstrationLearner, LanguageLearner
from posttrain.models.spec import model_spec
from posttrain.selectors.ranking import checked_places
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


def test_every_input_of_completions(tiny_folder: Path) -> None:
    task = letters(4)
    learner = LanguageLearner(
        model_spec(str(tiny_folder)), letters(8, 100), task=task, num_examples=3, num_samples=2
    )
    rows = [{"id": e.id, "prompt": e.prompt, "completion": e.completion} for e in task.examples]
    made = learner.inputs(sorted(learner.carries), rows, rows[:2], 0)
    assert set(made) == learner.carries
    assert made["grades"].shape == (4, 2) and len(made["answers"][0]) == 2
    assert made["labelled_embeddings"].shape[0] == 2 and made["target_gradients"].shape[0] == 5
    for name, entry in registry.selectors.entries().items():
        own = [key for key in entry.inputs if key not in ("num", "rng", "num_candidates")]
        if set(own) <= learner.carries:
            given = {**made, "num": 2, "rng": np.random.default_rng(0), "num_candidates": 4}
            places = registry.selectors.get(name)(*(given[key] for key in entry.inputs))
            assert len(checked_places(name, places, 4, 2)) == 2


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
    result = active(
        tiny_folder,
        selectors=["select_llm"],
        adviser=str(tiny_folder),
        prune={"name": "active_prune", "perplexity_share": 0.8},
    )
    assert list(result.curves[0].num_labels) == [3, 5]


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
