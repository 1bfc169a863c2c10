"""Each kind of preference data makes the embedded model better at arithmetic, by more than
noise (paired, p < 0.01).
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.evaluation.comparison import compare
from posttrain.evaluation.outcomes import read_evaluation
from posttrain.recipe import load_recipe

FOLDER = Path(__file__).parent.parent.parent / "recipes" / "preference"
_spec = importlib.util.spec_from_file_location("make_rows", FOLDER / "make_rows.py")
assert _spec is not None and _spec.loader is not None
make_rows: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_rows)

MODEL = {"path": "embedded", "dtype": "float32"}
EVALUATION = {
    "task": {
        "name": "arithmetic",
        "num_examples": 120,
        "split": "test",
        "seed": 1,
        **make_rows.DIFFICULTY,
    },
    "num_samples": 4,
}
TASK = {"name": "arithmetic", "num_examples": 1000, "seed": 2, **make_rows.DIFFICULTY}
RATE = {"learning_rate": 2e-4, "lr_scheduler_type": "cosine", "warmup_steps": 0.1}


@pytest.fixture(scope="module")
def sampled() -> Any:
    """200 problems with six completions of the embedded model each."""
    return make_rows.sampled(200, 6)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The embedded model's own evaluation."""
    from rich.console import Console

    from posttrain.recipe import parse_recipe
    from posttrain.runs import run_of

    folder = tmp_path_factory.mktemp("base")
    raw = {
        "method": "evaluate",
        "model": MODEL,
        "evaluation": EVALUATION,
        "output": str(folder / "run"),
    }
    run_of(
        parse_recipe(raw, folder), console=Console(file=(folder / "console.txt").open("a"))
    ).execute()
    return read_evaluation(folder / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "raw"),
    [
        ("pairs", {"method": "dpo", "batch_size": 20, **RATE}),
        ("pairs", {"method": "kto", "batch_size": 20, **RATE}),  # taken apart
        ("lists", {"method": "listwise", "batch_size": 20, **RATE}),
        (
            None,
            {
                "method": "online_dpo",
                "task": TASK,
                "num_generations": 6,
                "batch_size": 10,
                "max_steps": 20,
                "learning_rate": 1e-4,
            },
        ),
    ],
    ids=["paired", "unpaired", "listwise", "online"],
)
def test_the_embedded_model_improves(
    rows: str | None,
    raw: dict[str, Any],
    run_recipe: Callable[..., Path],
    tmp_path: Path,
    sampled: Any,
    base: Any,
) -> None:
    if rows is not None:
        made = getattr(make_rows, rows)(*sampled)
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
        raw = {**raw, "data": str(tmp_path / "rows.jsonl"), "num_train_epochs": 2}
    folder = run_recipe(**raw, model=MODEL, evaluation=EVALUATION)
    after = read_evaluation(folder)
    assert (
        after.accuracy().estimate > base.accuracy().estimate and compare(base, after).p_value < 0.01
    )


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda p: p.stem)
def test_recipes_parse_and_say_what_they_do(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.output == f"runs/preference/{path.stem}" and recipe.evaluation is not None
    assert (
        path.read_text().startswith("# ")
        and f"posttrain run recipes/preference/{path.name}" in path.read_text()
    )


def test_made_rows_say_what_is_right(tmp_path: Path) -> None:
    task = make_rows.tasks.get("arithmetic")(num_examples=12, seed=7, **make_rows.DIFFICULTY)
    groups = [
        (e, [str(e.completion), " #### 1000", " It depends."][i % 3 :])
        for i, e in enumerate(task.examples)
    ]
    for (example, _), pair in zip(groups, make_rows.pairs(task, groups), strict=True):
        assert (
            task.score(pair["chosen"], example) == 1 and task.score(pair["rejected"], example) == 0
        )
    for (example, _), row in zip(groups, make_rows.unpaired(task, groups), strict=True):
        assert task.score(row["completion"], example) == row["label"]
    for row in make_rows.lists(task, groups):
        assert (
            len(row["scores"]) == len(row["completions"]) > 1
            and row["scores"][0] == 1
            and min(row["scores"]) < 1
        )
    for (example, _), row in zip(groups, make_rows.triples(task, groups), strict=True):
        assert [task.score(row[k], example) for k in ("reference", "chosen", "rejected")] == [
            1.0,
            1.0,
            0.0,
        ]
    for (example, _), row in zip(groups, make_rows.steps(task, groups), strict=True):
        assert (
            str(example.completion).startswith(row["initial_reason_steps"] + row["chosen"])
            and row["chosen"] != row["rejected"]
        )
