"""Searches beside each other at the same number of tokens, on an arithmetic tree with a noisy step
verifier.

A problem has 6 steps, each of which is right with the same probability p; the answer is right if
all are. The verifier gives a path the probability that its steps are right, with noise in its logit
that is fixed for a path. Hard problems have p = 0.4, easy ones 0.85.
"""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from step_trees import END, PROMPT, TreeAsk, decode, run, scores

from posttrain.search.best_of_n import best_of_n
from posttrain.search.mcts import mcts
from posttrain.search.step_beam import step_beam

STEPS, NOISE = 6, 1.0
HARD, EASY = 0.4, 0.85


def policy(right: float) -> Any:
    """Steps of one digit: 1 is right; 2 to 8 are wrong."""
    options = {1: right} | dict.fromkeys(range(2, 9), (1 - right) / 7)

    def next_token(path):
        line, inside = divmod(len(path), 2)
        if inside:
            return {END: 1.0} if line == STEPS - 1 else {9: 1.0}
        return options

    return next_token


def verifier(seed: int) -> Any:
    """Probability that all steps so far are right, by someone who is not sure."""

    def number(candidate) -> float:
        digits = [d for d in candidate.text.split("\n") if d]
        sound = all(d == "1" for d in digits)
        noise = random.Random(f"{seed} {candidate.text}").gauss(0.0, NOISE)
        return 1 / (1 + math.exp(-((1.0 if sound else -1.0) + noise)))

    return scores(number)


def accuracy(name: str, right: float, tokens: int, seeds: range) -> list[float]:
    """For each seed, whether the search under a budget of tokens finds the right answer."""
    hits = []
    for seed in seeds:
        ask = TreeAsk(policy(right), seed=seed, budget=tokens)
        score = verifier(seed)
        number = tokens // (2 * STEPS)
        if name == "best_of_n":
            search = best_of_n(PROMPT, ask, str, score, num_samples=number)
        elif name == "step_beam":
            width = min(4, number)
            search = step_beam(
                PROMPT, ask, str, score, decode, num_beams=number // width * width, beam_width=width
            )
        else:
            search = mcts(
                PROMPT,
                ask,
                str,
                score,
                decode,
                num_simulations=10**4,
                num_children=4,
                reserve=0.0,
                exploration=0.2,
            )
        hits.append(float(run(search).text == "\n".join("1" * STEPS)))
    return hits


def gain(first: str, second: str, right: float, tokens: int, number: int) -> tuple[float, float]:
    """Mean paired difference of accuracy, and half of its 95 % interval."""
    one, other = (accuracy(name, right, tokens, range(number)) for name in (first, second))
    differences = [a - b for a, b in zip(one, other, strict=True)]
    mean = sum(differences) / number
    variance = sum((d - mean) ** 2 for d in differences) / (number - 1)
    return mean, 1.96 * math.sqrt(variance / number)


@pytest.mark.slow
def test_step_searches_beat_best_of_n_on_hard_problems_at_a_low_budget() -> None:
    """With 96 tokens, 8 whole samples. Tree search and beams do not differ there: what orders them
    is exploration, which has to be small beside the spread of the scores. Nothing is kept for a
    last path: a whole path has few tokens.
    """
    for name in ("step_beam", "mcts"):
        mean, half = gain(name, "best_of_n", HARD, 96, 150)
        assert mean - half > 0, name
    mean, half = gain("mcts", "step_beam", HARD, 96, 150)
    assert mean + half > 0


@pytest.mark.slow
def test_best_of_n_falls_on_easy_problems_at_a_high_budget() -> None:
    """More samples find what the verifier is wrong about."""
    few, many = (accuracy("best_of_n", EASY, tokens, range(100)) for tokens in (96, 768))
    differences = [a - b for a, b in zip(few, many, strict=True)]
    mean = sum(differences) / 100
    half = 1.96 * math.sqrt(sum((d - mean) ** 2 for d in differences) / 99 / 100)
    assert mean - half > 0


def test_a_model_that_is_always_right_is_right() -> None:
    for name in ("best_of_n", "step_beam", "mcts"):
        hits = accuracy(name, 1.0, 48, range(3))
        assert hits == [1.0] * 3
