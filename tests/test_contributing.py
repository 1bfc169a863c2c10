"""The snippets of CONTRIBUTING.md work as plugins, as they stand."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from posttrain import registry
from posttrain.cli import main
from posttrain.descriptions import descriptions

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
# Indented blocks; a blank line inside one is followed by an indented line.
SNIPPETS = re.findall(r"(?m)(?:^    .*\n(?:\n+(?=    ))?)+", TEXT)
NAMES = {"losses": "focal", "rewards": "polite", "searches": "shortest", "tasks": "echo"}


def test_there_is_one_for_each_kind() -> None:
    assert len([s for s in SNIPPETS if ".register" in s]) == 4


def plugin(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A snippet as a user's file, loaded into registries that forget it after the test."""
    name = NAMES[kind]
    (snippet,) = [s for s in SNIPPETS if f"def {name}(" in s]
    path = folder / f"{name}.py"
    path.write_text(re.sub(r"(?m)^    ", "", snippet))
    for each in registry.REGISTRIES.values():
        for attribute in ("_plugins", "_functions"):
            value = getattr(each, attribute)
            monkeypatch.setattr(each, attribute, type(value)(value))
    registry.load_plugins([str(path)], Path())
    return path


@pytest.mark.parametrize("kind", NAMES)
def test_a_snippet_is_a_complete_plugin(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin(kind, tmp_path, monkeypatch)
    entry = registry.REGISTRIES[kind].entry(NAMES[kind])
    assert entry.summary and descriptions(entry.doc, entry.settings) != {}
    assert callable(registry.REGISTRIES[kind].get(NAMES[kind]))


def test_the_loss_is_the_focal_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin("losses", tmp_path, monkeypatch)
    loss = registry.losses.bind("focal", {"gamma": 2.0})(torch.tensor([0.5, 1.0]).log())
    assert loss.tolist() == pytest.approx([0.25 * math.log(2), 0.0])


def test_the_reward_finds_the_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin("rewards", tmp_path, monkeypatch)
    assert registry.rewards.bind("polite")(["please", "now"]) == [1.0, 0.0]


def test_the_task_accepts_its_own_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin("tasks", tmp_path, monkeypatch)
    task = registry.tasks.bind("echo", {"num_examples": 3})()
    assert [task.score(e.completion, e) for e in task.examples] == [1.0, 1.0, 1.0]


def test_the_search_takes_the_shortest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = plugin("searches", tmp_path, monkeypatch)
    arguments = "eval --model embedded --task sorting num_examples=2 max_tokens=4"
    search = "search={name: shortest, num_samples: 2}"
    output = tmp_path / "run"
    plugins = [f"plugins=[{path}]", "--output", str(output)]
    assert main([*arguments.split(), search, *plugins]) == 0
    assert "shortest" in (output / "evaluation.json").read_text()
