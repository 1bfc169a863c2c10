"""Reward for JSON that is valid under a schema."""

from __future__ import annotations

import json
import math
from typing import Any

from posttrain.errors import ConfigError, MissingDependency
from posttrain.registry import rewards
from posttrain.rewards.code import fenced_blocks

_MAX_CHARACTERS = 200_000


def last_json(text: str) -> Any:
    """The JSON of a completion: its last block between ``` marks that is JSON, else the whole text.

    Raises:
        ValueError: there is none.
    """
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"more than {_MAX_CHARACTERS} characters")
    blocks = [block for name, block in fenced_blocks(text) if name.lower() in ("json", "")]
    try:
        return json.loads(blocks[-1] if blocks else text, parse_constant=_refused)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


@rewards.register
def json_schema(
    completions, *, schema: dict[str, Any] | None = None, valid_weight: float = 1.0
) -> list[float]:
    """1 for a completion whose JSON is valid under a schema, else 0.

    The JSON is the last block between ``` marks, else the whole completion. The schema is of draft
    2020-12, checked by the library jsonschema (extra "schema").

    schema: the JSON schema; None asks for any JSON. valid_weight: of following the schema; JSON
    that does not follow it gives 1 - valid_weight.
    """
    if not 0 <= valid_weight <= 1 or math.isnan(valid_weight):
        raise ConfigError(f"rewards: json_schema: valid_weight {valid_weight} must be from 0 to 1")
    validator = _validator(schema) if schema is not None else None
    values = []
    for completion in completions:
        text = completion if isinstance(completion, str) else str(completion[-1]["content"])
        try:
            value = last_json(text)
        except ValueError:
            values.append(0.0)
            continue
        valid = validator is None or validator.is_valid(value)
        values.append(1.0 if valid else 1 - valid_weight)
    return values


def _validator(schema: dict[str, Any]) -> Any:
    try:
        import jsonschema
    except ImportError as error:
        raise MissingDependency("jsonschema", "schema") from error
    kind = jsonschema.Draft202012Validator
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ConfigError(
            f"rewards: json_schema: this is no JSON schema: {error.message:.200}; see "
            "https://json-schema.org/draft/2020-12"
        ) from error
    return kind(schema)
