"""Environments of verifiers that own their loop, by one of the same shape."""

from __future__ import annotations

import asyncio
import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from posttrain.episodes.adapters.verifiers import VerifiersEnvironment
from posttrain.episodes.recording import Access
from posttrain.types import Example

ACCESS = Access("http://localhost:1/v1", "secret-key")


def right(completion: Any) -> float: ...
def brief(completion: Any) -> float: ...
def num_turns(state: Any) -> float: ...


class Quiz:
    """Rows, a rollout that asks its client, a group of rubrics."""

    def __init__(self, output: dict[str, Any]) -> None:
        first = SimpleNamespace(funcs=[right, brief], weights=[1.0, 0.5])
        second = SimpleNamespace(funcs=[num_turns], weights=[0.0])
        self.rubric = SimpleNamespace(rubrics=[first, second])
        self.output = output
        self.asked: list[Any] = []

    def get_dataset(self, n: int = -1) -> list[dict[str, Any]]:
        message = {"role": "user", "content": "2+3?", "tool_calls": None}
        rows = [
            {"prompt": [message], "answer": "5", "info": {"a": 1}, "example_id": i} for i in (0, 1)
        ]
        return rows if n < 0 else rows[:n]

    def get_eval_dataset(self, n: int = -1) -> list[dict[str, Any]]:
        return [{"prompt": [{"role": "user", "content": "1+1?"}], "example_id": 7}]

    async def run_rollout(
        self, row: Any, client: Any, model: str, sampling_args: Any
    ) -> dict[str, Any]:
        self.asked.append((row, client.config, os.environ[client.config["api_key_var"]], model))
        return self.output


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their modules, of which two names are read."""
    types, clients = ModuleType("verifiers.types"), ModuleType("verifiers.clients")
    types.ClientConfig = dict  # type: ignore[attr-defined]
    clients.resolve_client = lambda config: SimpleNamespace(config=config)
    for module in (ModuleType("verifiers"), types, clients):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_examples() -> None:
    environment = VerifiersEnvironment(Quiz({}))
    first, second = environment.examples()
    assert first.prompt == [{"role": "user", "content": "2+3?"}]
    assert (first.answer, second.id, first.columns["info"]) == ("5", "row 1", {"a": 1})
    assert len(environment.examples(1)) == 1
    (held_out,) = environment.examples(evaluation=True)
    assert held_out.answer is None and held_out.id == "row 7"


def test_a_rollout() -> None:
    metrics = {"right": 1.0, "brief": False, "num_turns": 2, "note": "text"}
    quiz = Quiz({"reward": 1.0, "error": None, "metrics": metrics})
    environment = VerifiersEnvironment(quiz)
    (example, _) = environment.examples()
    before = dict(os.environ)
    outcome = asyncio.run(environment(example, ACCESS))
    assert (outcome.reward, outcome.error) == (1.0, None)
    assert outcome.rewards == {"right": 1.0, "brief": 0.0} and outcome.metrics == {"num_turns": 2.0}
    ((row, config, key, model),) = quiz.asked
    assert row["answer"] == "5" and model == "policy"
    assert config["api_base_url"] == ACCESS.base_url and key == ACCESS.key
    # The key is gone with its episode, from wherever it stood.
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("error", "named"),
    [
        ({"error": "ModelError", "error_chain_str": "ModelError -> BadRequest"}, "BadRequest"),
        ("it broke", "it broke"),
    ],
)
def test_a_rollout_that_fails(error: Any, named: str) -> None:
    quiz = Quiz({"reward": 0.0, "error": error, "metrics": {}})
    outcome = asyncio.run(VerifiersEnvironment(quiz)(Example("a"), ACCESS))
    assert outcome.reward is None and outcome.error is not None and named in outcome.error


def test_a_single_rubric() -> None:
    quiz = Quiz({"reward": 0.5, "error": None, "metrics": {"right": 0.5}})
    quiz.rubric = SimpleNamespace(funcs=[right], weights=[1.0])
    outcome = asyncio.run(VerifiersEnvironment(quiz)(Example("a"), ACCESS))
    assert outcome.rewards == {"right": 0.5}
