"""recipes/code/programs.yaml: its task, and the recipe in small."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import yaml

from posttrain.cli import main
from posttrain.sandbox.pool import why_not

RECIPE = Path(__file__).parents[2] / "recipes" / "code" / "programs.yaml"
pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"no sandbox: {why_not()}")


def test_references_pass_and_repeating_the_prompt_does_not() -> None:
    programs = runpy.run_path(str(RECIPE.with_name("programs.py")))["programs"]
    train, test = (programs(num_examples=30, split=s, seconds=20.0) for s in ("train", "test"))
    for example in test.examples[:6]:
        shown = [part.partition("=")[2] for part in example.prompt.splitlines()[0].split()]
        assert test.score(str(example.completion), example) == 1
        assert test.score(f" [{', '.join(shown)}][x]", example) == 0
        assert test.score(" 1 if x == 0 else", example) == 0
    prompts = {e.prompt for e in train.examples}
    assert not prompts & {e.prompt for e in test.examples}


def test_the_recipe_in_small(tmp_path: Path) -> None:
    recipe = yaml.safe_load(RECIPE.read_text())
    recipe["plugins"] = [str(RECIPE.with_name("programs.py"))]
    recipe["output"] = str(tmp_path / "run")
    recipe["evaluation"]["task"]["num_examples"] = recipe["evaluation"]["num_examples"] = 4
    _, sft, grpo = recipe["stages"]
    sft.update(max_steps=1, batch_size=4, task={"name": "programs", "num_examples": 8})
    grpo.update(max_steps=1, batch_size=2, num_generations=2)
    grpo["task"] = {"name": "programs", "num_examples": 8, "seed": 1}
    path = tmp_path / "programs.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    assert main(["run", str(path)]) == 0
    assert (tmp_path / "run" / "grpo" / "rollouts.jsonl").exists()
