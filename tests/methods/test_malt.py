"""Values over a tree of answers, critiques and revisions, and the rows that they give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import lines, tiny_model, write

from posttrain.errors import ConfigError, DataError
from posttrain.methods.malt import Node, malt, pair_rows, right_rows
from posttrain.rewards.judge_questions import critique_prompt, revision_prompt
from posttrain.search.dialogue import filled, followed
from posttrain.tasks.reviews import PRINCIPLES
from posttrain.types import Example

RECIPE = Path(__file__).parents[2] / "recipes" / "pipelines" / "malt.yaml"
EXAMPLE = Example("Q", id="q")
MALT: dict[str, Any] = {
    "method": "malt",
    "num_samples": 2,
    "batch_size": 2,
    "sampling": {"max_tokens": 12},
    "critique_max_tokens": 6,
    "threshold": 0.0,
}


@pytest.fixture
def raw(tmp_path: Path, tiny_folder: Path) -> dict[str, Any]:
    """A task that some random texts solve: the answer occurs in them."""
    rows = [{"prompt": f"say {i}: ", "answer": "e", "id": str(i)} for i in range(5)]
    path = write(tmp_path / "rows.jsonl", rows)
    task = {"name": "jsonl", "path": path, "verifier": "contains"}
    return {**MALT, "task": task, "model": tiny_model(tiny_folder)}


def node(role: Any, text: str, *children: Node, grade: float = 0.0) -> Node:
    return Node(EXAMPLE, role, f"ask {role}", text, grade, list(children))


def tree() -> Node:
    """Two answers, two critiques each, two revisions each; grades 1 1 1 0 | 0 0 1 0."""
    leaves = iter([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0])

    def revisions() -> list[Node]:
        return [node("refiner", f"r{i}", grade=next(leaves)) for i in range(2)]

    def critiques() -> list[Node]:
        return [node("verifier", f"c{i}", *revisions()) for i in range(2)]

    return node(None, "", *[node("generator", f"a{i}", *critiques()) for i in range(2)])


def test_values_are_means_of_what_follows() -> None:
    root = tree()
    assert [a.value for a in root.children] == [0.75, 0.25]
    assert [c.value for a in root.children for c in a.children] == [1.0, 0.5, 0.0, 0.5]
    assert root.value == 0.5


def test_rows_of_each_role_by_hand() -> None:
    """Above 0.5: answer a0; critique c0 of it; the revisions graded 1, below their parents."""
    rows = [(r["role"], r["completion"], r["value"]) for r in right_rows(tree(), 0.5)]
    assert rows == [
        ("generator", "a0", 0.75),
        ("verifier", "c0", 1.0),
        ("refiner", "r0", 1.0),
        ("refiner", "r1", 1.0),
        ("refiner", "r0", 1.0),
        ("refiner", "r0", 1.0),
    ]
    pairs = [(r["role"], r["chosen"], r["rejected"], r["margin"]) for r in pair_rows(tree(), 0.5)]
    assert pairs == [
        ("generator", "a0", "a1", 0.5),
        ("verifier", "c0", "c1", 0.5),
        ("refiner", "r0", "r1", 1.0),
        ("refiner", "r0", "r1", 1.0),
    ]


def test_equal_texts_are_learnt_once_and_make_no_pair() -> None:
    root = node(None, "", node("generator", "a", grade=1.0), node("generator", "a", grade=1.0))
    assert len(right_rows(root, 0.5)) == 1 and not pair_rows(root, 0.5)
    root.children[1].grade = 0.0
    assert not pair_rows(root, 0.5), "one text is neither better nor worse than itself"


def test_a_run_leaves_rows_that_sft_reads(
    raw: dict[str, Any], run_recipe: Callable[..., Path]
) -> None:
    folder = run_recipe(**raw)
    rows, pairs = lines(folder / "samples.jsonl"), lines(folder / "pairs.jsonl")
    by_role = {role: lines(folder / f"{role}.jsonl") for role in ("generator", "verifier")}
    assert {r["role"] for r in rows} >= {"generator", "verifier", "refiner"}
    assert all(r["role"] == role for role, some in by_role.items() for r in some)
    assert all(0 < r["value"] <= 1 and r["completion"].strip() for r in rows)
    assert all(r["chosen"] != r["rejected"] for r in pairs)
    asked = next(r["prompt"] for r in rows if r["role"] == "refiner")
    assert "Now rewrite the answer" in asked and not (folder / "parts").exists()


def test_what_was_stopped_goes_on(
    raw: dict[str, Any],
    run_recipe: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped in the second of three parts: the rows are the same bytes."""
    from posttrain.methods import malt as module
    from posttrain.training.ending import Interrupted

    whole = run_recipe(**raw, output=str(tmp_path / "whole"))
    grown, calls = module._Trees.grown, []

    def stopping(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return grown(self, *arguments)

    half = {**raw, "output": str(tmp_path / "half")}
    monkeypatch.setattr(module._Trees, "grown", stopping)
    with pytest.raises(Interrupted):
        run_recipe(**half)
    folder = run_recipe(**half, resume=True)
    assert len(calls) == 4
    for name in ("samples.jsonl", "pairs.jsonl"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_a_tree_without_a_right_text_is_an_error(
    raw: dict[str, Any], run_recipe: Callable[..., Path]
) -> None:
    raw["task"] = {"name": "arithmetic", "num_examples": 2, "num_steps": 1}
    with pytest.raises(DataError):
        run_recipe(**raw)


@pytest.mark.parametrize("change", [{"threshold": 1.0}, {"num_samples": 0}])
def test_wrong_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        malt([{"prompt": "p", "answer": "1"}], **change)


def test_the_recipe_asks_at_test_time_what_the_roles_were_taught() -> None:
    """Search self_refine puts the very questions of the tree."""
    raw = yaml.safe_load(RECIPE.read_text())
    stages = {stage["name"]: stage for stage in raw["stages"]}
    search, principle = stages["after"]["search"], stages["tree"]["principle"]
    problem, answer, critique = "Q: 1+1\nA:", " 1+1=3", "Line 1 should be 1+1=2."
    request, refine = (filled(search[key], problem=problem) for key in ("feedback", "refine"))
    asked = followed(problem, [(answer, request)])
    assert asked == critique_prompt(problem, answer, principle)
    again = followed(problem, [(answer, request), (critique, refine)])
    assert again == revision_prompt(problem, answer, principle, critique)
    assert principle in PRINCIPLES and stages["before"]["search"] == search
