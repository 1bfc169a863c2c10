"""JSON under a schema."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.errors import ConfigError
from posttrain.rewards.json_schema import json_schema, last_json

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}


def test_the_last_block_is_read() -> None:
    assert last_json(' {"n": 1} ') == {"n": 1}
    assert last_json('So:\n```json\n{"n": 1}\n```\nor\n```\n[2]\n```') == [2]
    for text in ("", "{", "NaN", "[" * 100_000):
        with pytest.raises(ValueError):
            last_json(text)


def test_rewards() -> None:
    pytest.importorskip("jsonschema")
    texts = ['{"n": 1}', '{"n": "1"}', '{"n": 1, "m": 2}', "n = 1"]
    assert json_schema(texts, schema=SCHEMA) == [1, 0, 0, 0]
    assert json_schema(texts, schema=SCHEMA, valid_weight=0.75) == [1, 0.25, 0.25, 0]
    assert json_schema(texts) == [1, 1, 1, 0]
    with pytest.raises(ConfigError):
        json_schema(texts, schema={"type": "thing"})
    with pytest.raises(ConfigError):
        json_schema(texts, valid_weight=2.0)
