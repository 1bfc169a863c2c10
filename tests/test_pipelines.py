"""Every recipe of a whole pipeline runs from its first stage to its last, in small."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import write

ROOT = Path(__file__).parent.parent / "recipes" / "pipelines"
RECIPES = sorted(ROOT.glob("*.yaml"))
STUDENT = "runs/pipelines/student"
LARGEST = {
    "num_steps": 1,
    "num_examples": 10,
    "max_steps": 1,
    "num_train_epochs": 1,
    "batch_size": 5,
    "num_generations": 4,
    "num_rounds": 1,
    "num_solutions": 2,
    "num_rollouts": 2,
    "num_samples": 2,
}
# One update teaches nothing, so a filter may leave no row.
CHANGED = {"min_reward": None, "min_probability": 0.5, "threshold": 0.0}


def small(value: Any, key: str = "") -> Any:
    """A recipe with small numbers in the place of large ones, whatever they are of."""
    if isinstance(value, dict):
        return {k: small(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [small(v) for v in value]
    if key in CHANGED:
        return CHANGED[key]
    return min(value, LARGEST[key]) if key in LARGEST else value


def easy_task(path: Path) -> dict[str, Any]:
    """Problems whose answer occurs in most texts about numbers."""
    rows = [{"prompt": f"Q: 1{i}+1\nA:", "answer": "1", "id": str(i)} for i in range(4)]
    place = write(path, rows)
    return {"name": "jsonl", "path": place, "verifier": "contains", "max_tokens": 24}


def write_student(folder: Path) -> str:
    """The student's start, by the script that its recipe names."""
    spec = importlib.util.spec_from_file_location("student", ROOT / "student.py")
    assert spec is not None and spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(folder)
    return str(folder)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_pipeline_runs_whole(path: Path, run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    text = path.read_text()
    if STUDENT in text:
        text = text.replace(STUDENT, write_student(tmp_path / "student"))
    raw = small(yaml.safe_load(text))
    for stage in raw["stages"]:
        if stage["method"] == "malt":  # an answer that a model finds without having learnt to
            stage["task"] = easy_task(tmp_path / "rows.jsonl")
    raw["output"] = str(tmp_path / "run")
    raw["plugins"] = [str(ROOT / plugin) for plugin in raw.get("plugins", [])]
    folder = run_recipe(**raw)
    rows = json.loads((folder / "summary.json").read_text())["rows"]
    evaluated = {row["folder"] for row in rows}
    trained = {
        s["name"] for s in raw["stages"] if (folder / s["name"] / "evaluation.json").exists()
    }
    assert evaluated == trained and len(rows) >= 2
    for stage in raw["stages"]:
        files = [p for p in (folder / stage["name"]).iterdir() if not p.name.startswith(".")]
        assert len(files) > 1, f"stage {stage['name']} left nothing but its recipe"


def test_a_student_has_half_the_layers_and_the_same_vocabulary(tmp_path: Path) -> None:
    import posttrain as pt

    student, whole = pt.load(write_student(tmp_path / "student")), pt.load("embedded")
    layers = [model.hf.config.num_hidden_layers for model in (student, whole)]
    assert layers == [2, 4] and student.tokenizer.get_vocab() == whole.tokenizer.get_vocab()
    names = "model.layers.1.mlp.up_proj.weight", "model.layers.3.mlp.up_proj.weight"
    parts = [dict(m.hf.named_parameters())[n] for m, n in zip((student, whole), names, strict=True)]
    assert bool((parts[0] == parts[1]).all())
