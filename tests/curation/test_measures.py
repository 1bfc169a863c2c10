"""Measures by name: their inputs, their cache, their errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.curation.measures import Measures, measured
from posttrain.data.row_texts import RowTexts
from posttrain.errors import ConfigError
from posttrain.models.spec import model_spec

ROWS = [{"prompt": f"{i} + 1 =", "completion": f" {i + 1}"} for i in range(5)]


def texts() -> Iterator[Any]:
    return (text for _, text in RowTexts()(ROWS))


def test_measures_are_columns_and_two_of_a_kind_have_their_settings() -> None:
    repeated = [{"name": "repetition", "n": 2}, {"name": "repetition", "n": 3}]
    measures = Measures.of(["characters", *repeated, "nearest"], None)
    values = measured(texts(), measures)
    assert list(values) == ["characters", "repetition:n=2", "repetition:n=3", "nearest"]
    assert values["characters"].tolist() == [10.0] * 5  # "0 + 1 =", a line break, " 1"
    assert np.isfinite(values["nearest"]).all()


def test_a_function_of_the_user_is_a_measure() -> None:
    def commas(texts: list[str]) -> list[float]:
        return [float(text.count("+")) for text in texts]

    assert measured(texts(), Measures.of(commas, None))["commas"].tolist() == [1.0] * 5

    def wrong(texts: list[str]) -> list[float]:
        return [0.0]

    with pytest.raises(ConfigError, match="shape"):
        measured(texts(), Measures.of([wrong], None))


@pytest.mark.parametrize("name", ["perplexity", "ask_llm", "no_such"])
def test_what_is_missing_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        Measures.of([name], None)
    with pytest.raises(ConfigError):
        Measures.of([{"name": "repetition", "m": 2}], None)


def test_what_a_model_says_is_read_from_the_cache(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted call goes on: the parts that are there are not computed again."""
    monkeypatch.setattr("posttrain.curation.measures._PART", 2)
    spec = model_spec(str(tiny_folder))
    cache = tmp_path / "out.measures.jsonl"
    measures = Measures.of(["perplexity", "ifd"], spec)
    whole = measured(texts(), measures, cache=cache)
    lines = cache.read_text().splitlines()
    assert len(lines) == 1 + 3
    cache.write_text("\n".join([*lines[:2], lines[2][:20]]))  # killed while it wrote

    from posttrain.curation import model_inputs

    asked: list[int] = []
    real = model_inputs.ModelInputs.nats

    def counted(self: Any, rows: Any) -> Any:
        asked.append(len(rows))
        return real(self, rows)

    monkeypatch.setattr(model_inputs.ModelInputs, "nats", counted)
    again = measured(texts(), measures, cache=cache)
    assert asked == [2, 1]
    for name in whole:
        assert again[name] == pytest.approx(whole[name], rel=1e-5)
    with pytest.raises(ConfigError, match="other settings"):
        measured(texts(), Measures.of(["perplexity"], spec), cache=cache)
    with pytest.raises(ConfigError, match="changed"):
        other = (text for _, text in RowTexts()([{"text": "another"}] * 5))
        measured(other, measures, cache=cache)
