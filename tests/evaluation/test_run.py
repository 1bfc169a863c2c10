"""An evaluation in memory: no run, no recipe, no folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import ConfigError, RewardError
from posttrain.evaluation.comparison import compare
from posttrain.evaluation.outcomes import Evaluation, read_evaluation
from posttrain.evaluation.run import evaluate, prepare
from posttrain.models.load import load_model
from posttrain.search.strategy import bound, strategy
from posttrain.types import Example, Sampling, Task

SAMPLING = Sampling(max_tokens=4)


def task(num_examples: int = 3) -> Task:
    examples = [Example(f"{i}+1=", None, str(i + 1), id=f"q{i}") for i in range(num_examples)]
    return Task(
        "sums",
        examples,
        lambda text, e: float(text.strip() == e.answer),
        lambda text: text.strip() or None,
        max_tokens=4,
    )


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Any:
    return load_model(tiny_folder)


def test_samples_of_a_model_in_memory(model: Any, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    result = evaluate(model, task(), num_samples=2, progress=lambda *args: calls.append(args))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert result.accuracy().n == 3 and {"pass@2", "maj@2"} <= result.metrics().keys()
    text = str(result)
    assert text.startswith("sums: accuracy ") and "3 problems" in text and "pass@2" in text
    file = result.save(tmp_path, seconds=1.5)
    assert file.name == "evaluation.json" and json.loads(file.read_text())["seconds"] == 1.5
    again = read_evaluation(tmp_path)
    assert again.metrics() == result.metrics()
    assert compare(again, evaluate(model, task(), num_samples=2)).p_value == 1.0


def test_a_search_as_a_value(model: Any) -> None:
    vote = bound("majority_vote")(num_samples=3)
    result = evaluate(model, task(), search=vote, sampling=SAMPLING)
    assert result.strategy == "majority vote of 3" and result.search_settings == {"num_samples": 3}
    by_name = evaluate(
        model, task(), search={"name": "majority_vote", "num_samples": 3}, sampling=SAMPLING
    )
    assert [o.answers for o in by_name.outcomes] == [o.answers for o in result.outcomes]


def test_an_oracle_is_printed(model: Any, tmp_path: Path) -> None:
    best = strategy("best_of_n", num_samples=2)
    result = evaluate(model, task(), search=best, scorer="oracle", sampling=SAMPLING)
    for evaluation in (result, Evaluation.from_json(result.to_json())):
        last = str(evaluation).splitlines()[-1]
        assert last.startswith("oracle: the task's own verdict chose among 2 samples")
    assert best.scorer_component is None  # the value is unchanged


def test_a_lambda_as_scorer(model: Any) -> None:
    result = evaluate(
        model,
        task(),
        search=strategy("best_of_n", scorer=lambda completions: [len(c) for c in completions]),
        sampling=SAMPLING,
    )
    assert result.scorer == {"name": "lambda_1"} and result.oracle is False
    assert json.loads(json.dumps(result.to_json()))["scorer"] == {"name": "lambda_1"}


def test_a_check_needs_no_weights(tiny_tokenizer: Any) -> None:
    measurement = prepare(task(), tiny_tokenizer, 64, search="majority_vote", num_examples=2)
    facts = dict(measurement.facts)
    assert facts["task"] == "sums: 2 of 3 problems" and facts["search"] == "majority vote of 8"
    for settings in (
        {"num_samples": 0},
        {"num_samples": 2, "search": "majority_vote"},
        {"search": "best_of_n"},
        {"search": "majority_vote", "scorer": "length"},
        {"scorer": "length"},
        {"search": {"name": "majority_vote", "samples": 3}},
        {"search": "best_of_n", "scorer": "exact"},
        {"reward_timeout_seconds": -1.0},
    ):
        with pytest.raises(ConfigError):
            prepare(task(), tiny_tokenizer, 64, **settings)  # type: ignore[arg-type]


def test_a_verdict_that_hangs_is_counted(model: Any) -> None:
    problems = task(2)

    def score(text: str, example: Example) -> float:
        if example.id == "q0":
            time.sleep(60)
        return 1.0

    slow = Task("slow", problems.examples, score, problems.extract)
    result = evaluate(model, slow, sampling=SAMPLING, reward_timeout_seconds=0.2)
    assert [o.correct for o in result.outcomes] == [[0], [1]] and result.errors == 1
    assert "1 failure of the verifier" in str(result)
    with pytest.raises(RewardError, match="reward_timeout_seconds"):
        evaluate(model, slow, num_samples=3, sampling=SAMPLING, reward_timeout_seconds=0.2)


def test_a_search_that_asks_for_values_needs_a_critic(model: Any) -> None:
    with pytest.raises(ConfigError, match="value_beam"):
        evaluate(model, task(), search="value_beam", sampling=SAMPLING)
