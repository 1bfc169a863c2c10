from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
from adapter_folders import adapter_folder

from posttrain.cli.serve import (
    KEY_VARIABLE,
    TOOL_PARSERS,
    arguments,
    keys_of,
    named_adapters,
    served_name,
    split_settings,
)
from posttrain.episodes.tool_calls import FORMS
from posttrain.errors import ConfigError, ModelError


def test_settings_are_the_models_limits_or_the_engines() -> None:
    config, limits, bounds = split_settings(
        "embedded", ["max_tokens=7", "dtype=float32", "max_n=2", "max_prefix_bytes=0"]
    )
    assert bounds == {"max_prefix_bytes": 0}
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
        ("max_rows=0", "max_rows"),
        ("max_prefix_bytes=-1", "max_prefix_bytes"),
        ("max_kv_bytes=many", "max_kv_bytes"),
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


@pytest.mark.parametrize("flags", [["red"], ["=red"], ["red="], ["red=a", "red=b"]], ids=" ".join)
def test_adapters_have_a_name_and_a_folder(flags: list[str]) -> None:
    with pytest.raises(ConfigError, match="--adapter"):
        named_adapters(flags, "model")
    assert named_adapters([], "model") == {}


def test_folders_of_adapters_are_checked_before_weights_are_loaded(tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="the server needs the extra serve")
    with pytest.raises(ModelError, match="adapter_config"):
        named_adapters([f"red={tmp_path}"], "model")


def test_adapters_that_do_not_fit_end_the_command(
    stories: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="adapters need the extra peft")
    place = adapter_folder(tiny_folder, tmp_path / "red")
    command = [sys.executable, "-m", "posttrain.cli", "serve", str(stories), "--port", "0"]
    ended = subprocess.run(
        [*command, "--adapter", f"red={place}"], capture_output=True, text=True, timeout=240
    )
    assert ended.returncode and "Traceback" not in ended.stderr and str(place) in ended.stderr


def test_every_form_of_tool_calls_can_be_named() -> None:
    assert set(TOOL_PARSERS) == {"auto", "response_template", *FORMS}


def test_the_flags_have_defaults() -> None:
    parser = argparse.ArgumentParser()
    arguments(parser)
    options = parser.parse_args([])
    assert (options.host, options.port, options.api_key) == ("127.0.0.1", 8000, [])
    assert options.adapter == []
    assert (options.extractor, options.tool_parser) == ("last_number", "auto")
