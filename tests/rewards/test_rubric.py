"""Criteria of each row, judged and combined."""

from __future__ import annotations

import math
from typing import Any

import pytest

from posttrain.config import EndpointConfig
from posttrain.engines import endpoint as endpoint_module
from posttrain.engines.endpoint import Written
from posttrain.errors import ConfigError, DataError
from posttrain.rewards.base import RewardSet
from posttrain.rewards.rubric import combined, criteria_of, rubric
from posttrain.types import Example


class Reads:
    """A judge that says yes with probability `p` where the criterion's text stands in the
    answer, and 1 - p elsewhere.
    """

    weights_version, model = 0, None

    def __init__(self, tokenizer: Any, p: float = 0.9) -> None:
        self.tokenizer, self.p, self.questions = tokenizer, p, 0

    def score(self, sequences: Any) -> list[list[float]]:
        out = []
        for ids, start in sequences:
            asked, reply = self.tokenizer.decode(ids[:start]), self.tokenizer.decode(ids[start:])
            answer = asked.split("Answer:\n")[1].split("\n\nCriterion: ")
            wanted = answer[1].split("\n")[0]
            p = self.p if wanted in answer[0] else 1 - self.p
            p = p if reply.strip() == "yes" else 1 - p
            self.questions += 1
            out.append([math.log(p)] + [0.0] * (len(ids) - start - 1))
        return out


def test_the_equation_by_hand(tiny_tokenizer: Any) -> None:
    """Weights 2, 1 and a pitfall of -1: (2 * .9 + .1 - .9) / 3, clipped from below."""
    judge = Reads(tiny_tokenizer)
    weighted = [
        {"criterion": "x", "weight": 2},
        "y",
        {"criterion": "z", "weight": -1.0},
    ]
    examples = [Example("p", columns={"rubric": weighted}, id="a")] * 2
    values = rubric(["p"] * 2, ["x z", "z"], examples, engine=judge, tokenizer=tiny_tokenizer)
    assert values == pytest.approx([(2 * 0.9 + 0.1 - 0.9) / 3, 0.0])
    assert judge.questions == 2 * 3 * 2  # yes and no of each criterion


@pytest.mark.parametrize(("aggregate", "value"), [("mean", 0.5), ("min", 0.1), ("product", 0.09)])
def test_aggregates(aggregate: Any, value: float, tiny_tokenizer: Any) -> None:
    examples = [Example("p", id="a")]
    engine = Reads(tiny_tokenizer)
    settings = {"criteria": ["x", "y"], "aggregate": aggregate}
    got = rubric(["p"], ["x"], examples, engine=engine, tokenizer=tiny_tokenizer, **settings)
    assert got == pytest.approx([value])
    assert combined([1.0, 1.0], [1.0, -1.0], aggregate) == 0.0


def test_a_set_of_rewards_reads_the_rows_column(tiny_tokenizer: Any) -> None:
    from posttrain.types import Trace

    settings = {"engine": Reads(tiny_tokenizer), "tokenizer": tiny_tokenizer}
    rewards = RewardSet([{"name": "rubric", "column": "wanted", **settings}])
    example = Example("p", columns={"wanted": ["x", "y"]}, id="a")
    assert rewards.score(example, [Trace.of_text("x y")]) == pytest.approx([0.9])


@pytest.mark.parametrize("value", [3, "", {"criterion": ""}, {"criterion": "a", "weight": "b"}])
def test_what_is_no_criterion_is_refused(value: Any, tiny_tokenizer: Any) -> None:
    with pytest.raises(DataError):
        criteria_of(Example("p", columns={"rubric": [value]}), "rubric", [])
    engine = Reads(tiny_tokenizer)
    with pytest.raises(ConfigError):
        RewardSet([{"name": "rubric", "criteria": [value], "engine": engine}]).self_test([])


def test_rows_without_a_criterion_to_meet_are_refused() -> None:
    for columns in ({}, {"rubric": [{"criterion": "a", "weight": -1}]}):
        with pytest.raises(DataError):
            criteria_of(Example("p", columns=columns), "rubric", [])


def test_a_judge_behind_a_server_replies_yes_or_no(monkeypatch: pytest.MonkeyPatch) -> None:
    class Server:
        def __init__(self, config: Any) -> None:
            self.config = config

        def complete(self, prompts: Any, sampling: Any, *, n: int, seeds: Any) -> Any:
            texts = [prompt[0]["content"] for prompt in prompts]
            return [[Written("Yes." if "Criterion: x" in t else "no", "stop")] for t in texts]

    monkeypatch.setattr("posttrain.rewards.judge.Endpoint", Server)
    assert endpoint_module.Endpoint is not Server
    server = EndpointConfig("http://localhost:9/v1", "m")
    got = rubric(["p"], ["a"], [Example("p")], criteria=["x", "y", "z"], endpoint=server)
    assert got == pytest.approx([1 / 3])


def test_one_judge_is_named() -> None:
    with pytest.raises(ConfigError):
        RewardSet([{"name": "rubric", "criteria": ["a"]}]).self_test([])
