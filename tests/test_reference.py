"""The pages of the reference hold every public name and every registered function."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from posttrain import face
from posttrain.registry import REGISTRIES

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The text of each page by its name."""
    folder = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        patch.setenv("COLUMNS", "78")
        reference: Any = importlib.import_module("reference")
        reference.write(folder)
    return {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}


def headings(page: str) -> set[str]:
    return set(re.findall(r"(?m)^#+ (.+)$", page))


@pytest.mark.parametrize("kind", ["losses", "advantages", "rewards", "tasks", "searches"])
def test_every_registered_function_has_its_settings(pages: dict[str, str], kind: str) -> None:
    page = pages[kind]
    for entry in REGISTRIES[kind].entries().values():
        if "posttrain" not in str(entry.file):
            continue
        assert entry.name in headings(page)
        section = page.partition(f"### {entry.name}\n")[2].partition("\n### ")[0]
        for name in entry.settings:
            assert f"`{name}` · " in section


def test_every_public_function_and_class_has_a_section(pages: dict[str, str]) -> None:
    written = set().union(*map(headings, pages.values()))
    missing = [name for name in (*face.NAMES, *face.JOBS) if f"pt.{name}" not in written]
    assert missing == []


def test_classes_have_their_public_names(pages: dict[str, str]) -> None:
    for name in ("functions", "methods", "values"):
        assert "SamplingConfig" not in pages[name]


def test_prose_is_escaped_and_papers_are_linked(pages: dict[str, str]) -> None:
    assert "https://arxiv.org/abs/2402.03300" in pages["methods"]
    assert "A\\_t" in pages["advantages"]
