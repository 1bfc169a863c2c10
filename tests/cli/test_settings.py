"""Every setting has a type, and every shared one a meaning, from the docstrings."""

from __future__ import annotations

import dataclasses

import pytest

from posttrain import keys, registry
from posttrain.cli.settings import section_settings, settings_of, type_text
from posttrain.config import DataConfig, Recipe

SECTIONS = [*keys.CLASSES.values(), Recipe]


@pytest.mark.parametrize(
    "section", [s for s in SECTIONS if s is not DataConfig], ids=lambda s: s.__name__
)
def test_every_field_of_a_section_is_explained(section: type) -> None:
    silent = [line.key for line in section_settings(section) if not line.meaning]
    assert not silent


@pytest.mark.parametrize("method", registry.methods.names())
def test_help_lists_every_key_that_a_method_reads(method: str) -> None:
    entry = registry.methods.entry(method)
    listed = [line.key for lines in settings_of(entry).values() for line in lines]
    tops = {key.partition(".")[0] for key in listed}
    assert keys.keys_read(entry) - {"method"} <= tops
    assert len(set(listed)) == len(listed)
    fields = {f.name for f in dataclasses.fields(keys.CLASSES["ModelConfig"])}
    assert {f"model.{name}" for name in fields} <= set(listed)


def test_types_are_words() -> None:
    assert type_text("Literal['auto'] | list[str]") == "auto or list of text"
    assert type_text("float | None") == "float"
