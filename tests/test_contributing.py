"""The snippets of CONTRIBUTING.md work as plugins, as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from posttrain import registry

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
# Indented blocks; a blank line inside one is followed by an indented line.
SNIPPETS = re.findall(r"(?m)(?:^    .*\n(?:\n+(?=    ))?)+", TEXT)


def test_there_is_one_for_each_kind() -> None:
    assert len([s for s in SNIPPETS if ".register" in s]) == 4


@pytest.mark.parametrize(
    ("kind", "name"),
    [("losses", "focal"), ("rewards", "polite"), ("searches", "shortest"), ("tasks", "echo")],
)
def test_a_snippet_is_a_plugin(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (snippet,) = [s for s in SNIPPETS if f"def {name}(" in s]
    path = tmp_path / f"{name}.py"
    path.write_text(re.sub(r"(?m)^    ", "", snippet))
    chosen = registry.REGISTRIES[kind]
    for attribute in ("_plugins", "_functions"):
        monkeypatch.setattr(
            chosen, attribute, type(getattr(chosen, attribute))(getattr(chosen, attribute))
        )
    registry.load_plugins([str(path)], Path())
    assert chosen.entry(name).summary and callable(chosen.get(name))
    if kind == "tasks":
        assert len(chosen.get(name)(num_examples=3).examples) == 3
