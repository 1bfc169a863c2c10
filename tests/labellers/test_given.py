"""Gold with noise, and a file that a person fills."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from posttrain.errors import ConfigError, DataError
from posttrain.labellers.base import Cost, Question
from posttrain.labellers.given import file, oracle

ROWS = [{"id": str(i), "text": f"t{i}", "label": "xyz"[i % 3]} for i in range(300)]
QUESTION = Question("label", ("x", "y", "z"), seed=3)


def test_the_oracle_gives_gold_at_its_price() -> None:
    labels = oracle(money_per_row=0.1, minutes_per_row=0.5).label(ROWS, QUESTION)
    assert [a.value for a in labels if a] == [r["label"] for r in ROWS]
    assert labels[0] is not None and labels[0].cost == Cost(0.1, 0, 0.5)


def test_noise_is_a_share_of_wrong_classes_and_repeats_itself() -> None:
    noisy = oracle(noise=0.3)
    values = [a.value for a in noisy.label(ROWS, QUESTION) if a]
    wrong = np.mean([v != r["label"] for v, r in zip(values, ROWS, strict=True)])
    assert 0.2 < wrong < 0.4 and set(values) == {"x", "y", "z"}
    assert values == [a.value for a in noisy.label(ROWS, QUESTION) if a]


def test_gold_that_is_not_there() -> None:
    with pytest.raises(DataError):
        oracle().label([{"id": "a"}], QUESTION)
    with pytest.raises(ConfigError):
        oracle(noise=0.5).check(Question("completion"))
    with pytest.raises(ConfigError):
        oracle(noise=1.0)


def test_a_file_is_exported_filled_and_read(tmp_path: Path) -> None:
    person, question = file(), Question("label", ("x", "y"), folder=tmp_path)
    rows = [{"id": "a", "text": "one", "label": "gold"}, {"id": "b", "text": "two"}]
    assert person.label(rows, question) == [None, None]
    place = tmp_path / "to_label.jsonl"
    assert str(place) in person.waiting()
    lines = [json.loads(line) for line in place.read_text().splitlines()]
    assert lines == [
        {"id": "a", "text": "one", "label": None},
        {"id": "b", "text": "two", "label": None},
    ]
    lines[0] |= {"label": "x", "remark": "clear"}
    place.write_text("".join(json.dumps(line) + "\n" for line in lines))
    more = [*rows, {"id": "c", "text": "three"}]
    answers = person.label(more, question)
    assert [a and a.value for a in answers] == ["x", None, None]
    kept = [json.loads(line) for line in place.read_text().splitlines()]
    assert kept[0]["remark"] == "clear" and len(kept) == 3
    place.write_text(place.read_text().replace('"label": "x"', '"label": "sky"'))
    with pytest.raises(DataError):
        person.label(rows, question)


def test_a_file_needs_a_place() -> None:
    with pytest.raises(ConfigError):
        file().check(Question("label"))
