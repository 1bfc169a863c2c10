"""Environments of the library verifiers that own their loop (`load_environment`, versions below
0.2): they ask an endpoint for completions and score themselves.
"""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Mapping
from typing import Any

from posttrain.episodes.recording import Access, Outcome
from posttrain.types import Example

_NUMBERS = itertools.count()


class VerifiersEnvironment:
    """An environment of verifiers as the program of a `RecordedAgent`.

        environment = VerifiersEnvironment(load_environment())
        episode = RecordedAgent(tokenizer, environment, endpoint)
        examples = environment.examples(100)

    Rewards are those of its rubric, the parts of it by name.

    Args:
        environment: what `load_environment` gives.
    """

    def __init__(self, environment: Any) -> None:
        self.environment = environment

    def examples(self, num_rows: int = -1, *, evaluation: bool = False) -> list[Example]:
        """Its rows; each keeps all columns, which the environment reads.

        Args:
            num_rows: -1 = all. evaluation: of its evaluation data.
        """
        environment = self.environment
        rows = environment.get_eval_dataset if evaluation else environment.get_dataset
        examples = []
        for row in rows(n=num_rows):
            prompt = [_filled(message) for message in row["prompt"]]
            name = f"row {row['example_id']}"
            examples.append(Example(prompt, answer=row.get("answer"), columns=dict(row), id=name))
        return examples

    async def __call__(self, example: Example, access: Access) -> Outcome:
        """One rollout, scored."""
        with _client(access) as client:
            row = {"info": {}, **example.columns}
            output = await self.environment.run_rollout(row, client, access.model, {})
        if output.get("error") is not None:
            return Outcome(error=_error_text(output["error"]))
        metrics = _numbers(output.get("metrics"))
        weights = _weights(self.environment.rubric)
        rewards = {name: metrics[name] for name in metrics if weights.get(name)}
        others = {name: value for name, value in metrics.items() if name not in rewards}
        return Outcome(output["reward"], rewards, others)


class _client:
    """A client of theirs. Its key stands in a variable of the environment, as they read it."""

    def __init__(self, access: Access) -> None:
        self._variable = f"POSTTRAIN_EPISODE_KEY_{next(_NUMBERS)}"
        os.environ[self._variable] = access.key
        # Imported from the library that the environment itself comes from.
        config = importlib.import_module("verifiers.types").ClientConfig(
            client_type="openai_chat_completions",
            api_base_url=access.base_url,
            api_key_var=self._variable,
            max_retries=0,
        )
        self._resolved = importlib.import_module("verifiers.clients").resolve_client(config)

    def __enter__(self) -> Any:
        return self._resolved

    def __exit__(self, *error: object) -> None:
        del os.environ[self._variable]


def _filled(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without the fields that a table fills with None."""
    return {name: value for name, value in message.items() if value is not None}


def _numbers(values: Mapping[str, Any] | None) -> dict[str, float]:
    values = values or {}
    return {k: float(v) for k, v in values.items() if isinstance(v, bool | int | float)}


def _weights(rubric: Any) -> dict[str, float]:
    """Weight of each reward function by its name, those of all rubrics of a group."""
    if hasattr(rubric, "rubrics"):
        return {name: w for part in rubric.rubrics for name, w in _weights(part).items()}
    funcs, weights = getattr(rubric, "funcs", ()), getattr(rubric, "weights", ())
    return {
        getattr(function, "__name__", str(function)): float(weight)
        for function, weight in zip(funcs, weights, strict=True)
    }


def _error_text(error: Any) -> str:
    if isinstance(error, Mapping):
        return " -> ".join(str(error[k]) for k in ("error", "error_chain_str") if error.get(k))
    return str(error)
