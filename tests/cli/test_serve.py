from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from posttrain.cli.serve import (
    KEY_VARIABLE,
    TOOL_PARSERS,
    arguments,
    keys_of,
    served_name,
    split_settings,
)
from posttrain.episodes.tool_calls import FORMS
from posttrain.errors import ConfigError


def test_settings_are_the_models_or_limits() -> None:
    config, limits = split_settings("embedded", ["max_tokens=7", "dtype=float32", "max_n=2"])
    assert (config.path, config.dtype) == ("embedded", "float32")
    assert (limits.max_tokens, limits.max_n) == (7, 2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("max_token=7", "max_tokens"),
        ("max_tokens=many", "max_tokens"),
        ("max_tokens=0", "max_tokens"),
        ("timeout_seconds=inf", "timeout_seconds"),
        ("lora=8", "lora"),
        ("dtype=float8", "dtype"),
    ],
)
def test_wrong_settings_are_named(change: str, named: str) -> None:
    with pytest.raises(ConfigError) as error:
        split_settings("embedded", [change])
    assert named in str(error.value)


def test_keys_come_from_flags_and_the_environment() -> None:
    environment = {KEY_VARIABLE: "key-of-one, key-of-two,,"}
    assert keys_of(["key-of-two"], environment) == ("key-of-two", "key-of-one")
    assert keys_of([], {}) == ()


def test_a_models_name_is_its_folders(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "model"
    folder.mkdir(parents=True)
    assert served_name(str(folder)) == "model"
    assert served_name("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert served_name("a@b") == "a-b"  # what follows an @ names a search


def test_every_form_of_tool_calls_can_be_named() -> None:
    assert set(TOOL_PARSERS) == {"auto", "response_template", *FORMS}


def test_the_flags_have_defaults() -> None:
    parser = argparse.ArgumentParser()
    arguments(parser)
    options = parser.parse_args([])
    assert (options.host, options.port, options.api_key) == ("127.0.0.1", 8000, [])
    assert (options.extractor, options.tool_parser) == ("last_number", "auto")
