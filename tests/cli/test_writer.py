"""The model behind chat and generate, and its settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.cli.writer import Writer, model_place, split_settings
from posttrain.errors import ConfigError


def test_settings_go_to_sampling_or_to_the_model() -> None:
    changes = ["temperature=0.5", "dtype=float32", "sampling.top_k=3", "stop=[a, b]"]
    model, sampling = split_settings("m", changes)
    assert (model.path, model.dtype) == ("m", "float32")
    assert (sampling.temperature, sampling.top_k, sampling.stop) == (0.5, 3, ["a", "b"])


@pytest.mark.parametrize(
    ("change", "field"),
    [("temprature=0", "temperature"), ("top_p=x", "top_p"), ("learning_rate=1", "learning_rate")],
)
def test_other_keys_and_values_are_refused(change: str, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        split_settings("m", [change])


def test_the_place_of_a_model(tmp_path: Path) -> None:
    assert (Path(model_place("embedded")) / "config.json").is_file()
    assert model_place("owner/name") == "owner/name"
    (tmp_path / "recipe.yaml").write_text("method: sft\n")
    (tmp_path / "model").mkdir()
    assert model_place(str(tmp_path)) == str(tmp_path / "model")


def test_a_completion_does_not_depend_on_the_others(tiny_folder: Path) -> None:
    writer = Writer(str(tiny_folder), ["max_tokens=5"], seed=3)
    one, two = writer.write(["a", "b"], num=2)
    assert [len(one), len(two)] == [2, 2]
    assert writer.write(["a"], num=2) == [one]
    assert writer.write(["b"], num=2, seed=4) == [two]
    assert set(one[0]) == {"completion", "finish_reason", "num_tokens"}
    assert all(0 < row["num_tokens"] <= 5 for row in [*one, *two])


def test_greedy_writing_needs_no_seed(tiny_folder: Path) -> None:
    writer = Writer(str(tiny_folder), ["max_tokens=4", "temperature=0"])
    assert writer.write(["a"], seed=1) == writer.write(["a"], seed=2)
    assert writer.has_template == bool(writer.model.tokenizer.chat_template)
