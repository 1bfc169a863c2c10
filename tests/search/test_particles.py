"""Particle filtering."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from step_trees import END, PROMPT, TreeAsk, decode, digits, run, scores

from posttrain.errors import ConfigError
from posttrain.search.particles import (
    effective_size,
    entropic_temperature,
    particle_filter,
    resampled,
)

WIDE = digits({1: 0.6, 2: 0.3, 3: 0.1}, {1: 0.5, 2: 0.5})


@pytest.mark.parametrize("resampling", ["systematic", "multinomial"])
def test_a_scorer_that_knows_nothing_gives_independent_samples(resampling: str) -> None:
    """In law: counts of N particles have the mean and the variance of N independent samples."""
    draws, number = 400, 6
    ones = []
    for seed in range(draws):
        ask = TreeAsk(WIDE, seed=seed)
        s = run(
            particle_filter(
                PROMPT,
                ask,
                str,
                scores(lambda c: 0.3),
                decode,
                num_particles=number,
                resampling=resampling,
            )
        )
        assert s.notes["num_replaced"] == 0 and s.notes["num_ancestors"] == number
        ones.append(sum(c.text[0] == "1" for c in s.candidates))
    mean = sum(ones) / draws
    variance = sum((x - mean) ** 2 for x in ones) / draws
    assert mean == pytest.approx(3.6, abs=0.25)
    assert variance == pytest.approx(6 * 0.6 * 0.4, rel=0.25)


def test_resampling_is_in_proportion_to_the_odds() -> None:
    """Weights are logits, so that particles are drawn by score / (1 - score)."""
    table = {"1": 0.2, "2": 0.5, "3": 0.8}
    odds = {t: p / (1 - p) for t, p in table.items()}
    first: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    for seed in range(300):
        ask = TreeAsk(WIDE, seed=seed)
        score = scores(lambda c: table[c.text[0]])
        s = run(particle_filter(PROMPT, ask, str, score, decode, num_particles=4))
        first.update(c.text[0] for c in s.candidates)
        # The first call is the same in a search of one step.
        ask = TreeAsk(WIDE, seed=seed)
        start = [c.text[0] for c in run(ask(PROMPT, 4, stop=("\n",)))]
        total = sum(odds[t] for t in start)
        for t in start:
            expected[t] += 4 * odds[t] / total
    for t in table:
        assert first[t] == pytest.approx(expected[t], abs=40)


def test_finished_particles_stay_in_the_pool() -> None:
    def policy(path):
        if not path:
            return {1: 0.5, 2: 0.5}
        if len(path) == 1:
            return {END: 1.0} if path[0] == 1 else {9: 1.0}
        return {3: 1.0} if len(path) == 2 else {END: 1.0}

    score = scores(lambda c: 0.999 if c.text == "1" else 0.001)
    ask = TreeAsk(policy, seed=1)
    s = run(particle_filter(PROMPT, ask, str, score, decode, num_particles=8))
    assert Counter(c.text for c in s.candidates) == {"1": 8}  # copies of the whole ones
    assert s.notes["num_replaced"] > 0 and s.notes["num_ancestors"] <= 8
    assert len(ask.calls) == 1


def test_ancestors_are_counted() -> None:
    score = scores(lambda c: 0.999999 if c.text[0] == "3" else 0.000001)
    for seed in range(20):
        ask = TreeAsk(WIDE, seed=seed)
        start = [c.text[0] for c in run(ask(PROMPT, 8, stop=("\n",)))]
        s = run(
            particle_filter(PROMPT, TreeAsk(WIDE, seed=seed), str, score, decode, num_particles=8)
        )
        if 0 < start.count("3") < 8:
            assert s.notes["num_ancestors"] == start.count("3")
            assert s.notes["num_replaced"] == 8 - start.count("3")
            assert s.notes["min_effective_size"] == pytest.approx(start.count("3"), rel=1e-3)


def test_draws() -> None:
    draw = random.Random(0)
    p = [0.5, 0.3, 0.2]
    for kind in ("systematic", "multinomial"):
        counts: Counter[int] = Counter()
        for _ in range(4000):
            places = resampled(p, kind, draw)
            assert places == sorted(places) and len(places) == 3
            counts.update(places)
            if kind == "systematic":
                assert all(
                    math.floor(3 * x) <= places.count(i) <= math.ceil(3 * x)
                    for i, x in enumerate(p)
                )
        assert [counts[i] / 12000 for i in range(3)] == pytest.approx(p, abs=0.02)
    assert resampled([0.25] * 4, "multinomial", draw) == [0, 1, 2, 3]
    assert set(resampled([0.0, 1.0, 0.0], "systematic", draw)) == {1}


def test_entropic_temperatures() -> None:
    assert effective_size([0.25] * 4) == 4 and effective_size([1.0, 0.0]) == 1
    assert entropic_temperature(1.0, 8, 0.25) == pytest.approx(8 * 0.75)
    assert entropic_temperature(4.0, 8, 0.0) == 1.0  # half of them count
    assert entropic_temperature(1.0, 8, 0.5) == 1.0  # late
    peaked = scores(lambda c: 0.99 if c.text[0] == "3" else 0.4)
    ancestors = {}
    for entropic in (False, True):
        ancestors[entropic] = sum(
            run(
                particle_filter(
                    PROMPT, TreeAsk(WIDE, seed=s), str, peaked, decode, entropic=entropic
                )
            ).notes["num_ancestors"]
            for s in range(40)
        )
    assert ancestors[True] > ancestors[False]


def test_weights_of_scores_that_are_no_probabilities() -> None:
    score = scores(lambda c: -3.0)
    with pytest.raises(ConfigError, match="weight: score"):
        run(particle_filter(PROMPT, TreeAsk(WIDE), str, score, decode))
    run(particle_filter(PROMPT, TreeAsk(WIDE), str, score, decode, weight="score"))
    with pytest.raises(ConfigError, match="softmax_temperature"):
        run(particle_filter(PROMPT, TreeAsk(WIDE), str, score, decode, softmax_temperature=0.0))
