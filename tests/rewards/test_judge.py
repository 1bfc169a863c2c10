"""A judge's verdicts from token probabilities: orders cancel, ratings are expected values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError, ModelError
from posttrain.models.load import load_model
from posttrain.rewards.base import RewardSet
from posttrain.rewards.judge import Judge, judge, judge_win_rate
from posttrain.types import Example


class Fixed:
    """An engine whose log-prob of a reply is told by a function of the text before it and the
    reply.
    """

    weights_version = 0

    def __init__(self, tokenizer: Any, logprob: Any) -> None:
        self.tokenizer, self.logprob = tokenizer, logprob

    def score(self, sequences: Any) -> list[list[float]]:
        out = []
        for ids, start in sequences:
            texts = self.tokenizer.decode(ids[:start]), self.tokenizer.decode(ids[start:])
            out.append([self.logprob(*texts)] + [0.0] * (len(ids) - start - 1))
        return out


def test_orders_are_averaged_exactly(tiny_folder: Path) -> None:
    """P(a over b) + P(b over a) = 1, and equal completions tie, whatever the model."""
    model = load_model(tiny_folder)
    voice = Judge(TorchEngine(model), model.tokenizer)
    prompts, a, b = ["Q: 1+1\nA:", "Q: 2+2\nA:", "say"], [" 2", " 4", "x"], [" 3", " five", "x"]
    one, other = voice.prefer(prompts, a, b), voice.prefer(prompts, b, a)
    assert np.add(one, other).tolist() == pytest.approx([1.0] * 3, abs=1e-12)
    assert one[2] == pytest.approx(0.5, abs=1e-6) and all(0 < p < 1 for p in one)
    chat = [[{"role": "user", "content": p}] for p in prompts]
    again = voice.prefer(
        chat,
        [[{"role": "assistant", "content": t}] for t in a],
        [[{"role": "assistant", "content": t}] for t in b],
    )
    assert again != one and np.isfinite(again).all()


def test_a_liking_for_the_first_place_cancels(tiny_tokenizer: Any) -> None:
    """A judge that says A with p = 0.9 whatever stands there is undecided; one that also sees
    quality is not.
    """
    blind = Judge(
        Fixed(tiny_tokenizer, lambda before, reply: math.log(0.9 if "A" in reply else 0.1)),
        tiny_tokenizer,
    )  # type: ignore[arg-type]
    assert blind.prefer(["q"], ["fine"], ["poor"]) == [pytest.approx(0.5)]

    def seeing(before: str, reply: str) -> float:
        first_is_good = before.index("fine") < before.index("poor")
        p_a = 0.95 if first_is_good else 0.6
        return math.log(p_a if "A" in reply else 1 - p_a)

    voice = Judge(Fixed(tiny_tokenizer, seeing), tiny_tokenizer)  # type: ignore[arg-type]
    assert voice.prefer(["q", "q"], ["fine", "poor"], ["poor", "fine"]) == pytest.approx(
        [0.675, 0.325]
    )


def test_a_rating_is_the_expected_value(tiny_tokenizer: Any) -> None:
    """ "1" is said where "10" is not: P(1) = 0.5 - 0.3, P(2) = 0.2, P(10) = 0.3 of a total of
    0.7.
    """
    known = {"1": 0.5, "2": 0.2, "10": 0.3}
    voice = Judge(
        Fixed(tiny_tokenizer, lambda before, reply: math.log(known.get(reply.strip(), 1e-12))),
        tiny_tokenizer,
    )  # type: ignore[arg-type]
    assert voice.rate(["q"], ["a"]) == [pytest.approx((0.2 * 1 + 0.2 * 2 + 0.3 * 10) / 0.7)]
    assert voice.rate(["q"], ["a"], levels=2) == [pytest.approx((0.5 * 1 + 0.2 * 2) / 0.7)]


def test_as_rewards(tiny_folder: Path) -> None:
    prompts, texts = ["q", "q", "q", "r"], ["a", "b", "c", "d"]
    rated = judge(prompts, texts, path=str(tiny_folder), levels=5, device="cpu")
    assert all(1 <= x <= 5 for x in rated)
    won = judge_win_rate(prompts, texts, path=str(tiny_folder), device="cpu")
    assert won[3] is None and sum(x for x in won if x is not None) == pytest.approx(
        1.5
    )  # three pairs
    model = load_model(tiny_folder)
    voice = Judge(TorchEngine(model), model.tokenizer)
    p = voice.prefer(["q", "q"], ["a", "a"], ["b", "c"])
    assert won[0] == pytest.approx(sum(p) / 2, abs=1e-6)


def test_what_is_refused_before_weights_load(tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        RewardSet([("judge", 1.0, {"path": str(tmp_path / "none")})]).self_test([Example("p")])
    with pytest.raises(ConfigError, match="levels 1"):
        RewardSet([("judge", 1.0, {"path": str(tiny_folder), "levels": 1})]).self_test(
            [Example("p")]
        )
