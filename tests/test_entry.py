"""Entries: what is read of a function."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from posttrain import registry
from posttrain.entry import (
    REQUIRED,
    Setting,
    entries_of_file,
    entry_of_function,
    source_file,
    topic_of,
    unwrapped,
)
from posttrain.errors import ConfigError


def reward(completions: list[str], *, words: list[str], bonus: float | None = None) -> list[float]:
    """Counts words.

    More.
    """
    return [float(len(words))] * len(completions)


def test_an_entry_of_a_function() -> None:
    entry = entry_of_function(reward, "reward", {"per": "completion"})
    assert (entry.name, entry.inputs, entry.per) == ("reward", ("completions",), "completion")
    assert entry.settings["words"].default is REQUIRED
    assert entry.settings["bonus"] == Setting("float | None", None, float | None)
    assert entry.summary == "Counts words." and entry.file == Path(__file__)
    assert entry.signature() == (
        "reward(completions, *, words: list[str], bonus: float | None = None)"
    )
    assert str(entry.settings["words"]) == "list[str], required"


def test_a_partial_keeps_name_and_place() -> None:
    bound = functools.partial(functools.partial(reward, bonus=1.0), words=["a"])
    entry = entry_of_function(bound, "reward", {})
    assert unwrapped(bound) is reward and source_file(bound) == Path(__file__)
    assert entry.name == "reward" and entry.settings["words"].default == ["a"]


def test_an_object_without_a_signature_is_refused() -> None:
    with pytest.raises(ConfigError, match="'dict'"):
        entry_of_function(dict, "reward", {})


def test_a_file_and_the_functions_in_it_have_the_same_entries(tmp_path: Path) -> None:
    path = Path(registry.losses.entry("clipped").file)
    entries = {e.name: e for e in entries_of_file(path, "losses", "loss")}
    clipped = entry_of_function(registry.losses.get("clipped"), "loss", {"per": "token"})
    assert entries["clipped"].inputs == clipped.inputs
    for name, setting in entries["clipped"].settings.items():
        assert setting.hint == clipped.settings[name].hint
        assert setting.default == clipped.settings[name].default


def test_a_topic_is_the_first_sentence_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text('"""Losses of\nwords. More."""\n')
    assert topic_of(path) == "Losses of words"


def test_a_class_is_read_as_what_makes_its_objects(tmp_path: Path) -> None:
    path = tmp_path / "games.py"
    path.write_text(
        "import posttrain as pt\n\n\n"
        "@pt.environment\n"
        "class Sized:\n"
        '    """With a size."""\n\n'
        "    def __init__(self, *, size: int = 3):\n"
        "        self.size = size\n\n\n"
        "@pt.environment\n"
        "class Plain:\n"
        '    """Without."""\n'
    )
    sized, plain = entries_of_file(path, "environments", "environment")
    assert (sized.name, sized.inputs, sized.returns) == ("Sized", (), "Sized")
    assert sized.settings["size"].default == 3 and sized.doc == "With a size."
    assert plain.name == "Plain" and not plain.settings and not plain.inputs


def test_files_without_decorators_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain import entry as module

    file = registry.PACKAGE_FOLDER / "methods" / "objects.py"
    monkeypatch.setattr(module, "parse", lambda path: pytest.fail(f"{path} is parsed"))
    module._scan.cache_clear()
    assert entries_of_file(file, "methods", "method") == ()


def test_types_are_resolved_when_they_are_asked_for() -> None:
    asked = []

    class Names:
        def evaluate(self, text: str) -> type:
            asked.append(text)
            return int

    setting = Setting("Number", 1, scope=Names())  # type: ignore[arg-type]
    assert not asked
    assert setting.hint is int and setting.hint is int and asked == ["Number"]
