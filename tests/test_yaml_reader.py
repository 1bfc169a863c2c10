"""YAML that is broken or hostile ends in one short error."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from posttrain.errors import ConfigError
from posttrain.recipe import apply_overrides, load_recipe
from posttrain.yaml_reader import MAX_SIZE, read_yaml

ROOT = Path(__file__).parent.parent


def bomb(levels: int) -> str:
    """A document that `levels` lines of nine aliases each make 9 ** levels values large."""
    lines = ["l0: &l0 [a, a, a, a, a, a, a, a, a]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(["method: sft", *lines, f"title: *l{levels - 1}"])


HOSTILE = [
    (bomb(8), "aliases .* stand for"),
    (bomb(60), "aliases .* stand for"),
    (f"a: &a {'x' * 20000}\nb: [{', '.join(['*a'] * 20000)}]", "aliases"),
    ("method: pipeline\nstages: &s [*s]", "contains itself"),
    ("a: &a {b: *a}", "contains itself"),
    ("method: sft\n5: x", "line 2, column 1: the key '5' is not text"),
    ("off: x", "the key 'off' is not text; put quotation marks"),
    ("? [a]\n: b", "a list or mapping is not text"),
    ("seed: 1\nmethod: sft\nseed: 2", "line 3, column 1: the key 'seed' stands in line 1 already"),
    ("a: {b: {c: 1, c: 2}}", "the key 'c' stands in line 1"),
    ("[" * 100_000, "more than 50 levels"),
    ("a: " + "{a: " * 60 + "1" + "}" * 60, "more than 50 levels"),
    ("- " * 3000 + "a", "more than 50 levels"),
    ("a: " + "9" * 5000, "cannot be read"),
    ("a: 0x" + "f" * 5000, "whole number beyond 1e308"),
    ("a: !!float x", "cannot be read"),
    ("a: !!timestamp 2020-13-45", "cannot be read"),
    ("a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
    ("a: \x00", "special characters are not allowed"),
    ("a: b: c", "line 1, column 5: mapping values"),
    ("x" * (MAX_SIZE + 1), "at most 1,000,000"),
]


@pytest.mark.parametrize(("text", "message"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_documents_are_refused_in_a_short_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(text, "r.yaml")
    assert (
        len(str(caught.value)) < 400
        and "\n" not in str(caught.value)
        and "r.yaml" in str(caught.value)
    )


def test_files_and_overrides_pass_through_the_same_reader(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes("method: sft\ntitle: Müller\n".encode("latin-1"))
    with pytest.raises(
        ConfigError, match=r"r\.yaml:2: not UTF-8 text \(byte 0xfc\); save the file as UTF-8"
    ):
        load_recipe(file)
    file.write_text(bomb(8))
    with pytest.raises(ConfigError, match="aliases"):
        load_recipe(file)
    with pytest.raises(ConfigError, match="override 'losses="):
        apply_overrides({}, ["losses=[&a [*a]]"])
    with pytest.raises(ConfigError) as caught:
        apply_overrides({}, ["x" * 100_000])
    assert len(str(caught.value)) < 200


def test_dates_stay_text_and_everything_else_is_as_the_safe_loader_reads_it() -> None:
    assert read_yaml("title: 2020-13-45\nday: 2020-01-02", "") == {
        "title": "2020-13-45",
        "day": "2020-01-02",
    }
    assert read_yaml("", "") is None
    assert read_yaml("a: &a {b: 1}\nc: {<<: *a, b: 2}", "") == {"a": {"b": 1}, "c": {"b": 2}}
    files = sorted((ROOT / "recipes").rglob("*.yaml"))
    assert len(files) > 10
    for file in files:
        text = file.read_text()
        assert read_yaml(text, str(file)) == yaml.safe_load(text)


def test_a_long_message_keeps_its_beginning_and_its_way_out() -> None:
    text = str(ConfigError("title: " + "x" * 1_000_000 + " is wrong; leave it out"))
    assert (
        len(text) < 2100 and text.startswith("title: x") and text.endswith("is wrong; leave it out")
    )
