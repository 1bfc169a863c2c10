"""The simulation of self-training against the published table, the closed form and the theorem."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.errors import ConfigError
from posttrain.loops.collapse_simulation import (
    collapse_table,
    expected_accuracy,
    rounds_to,
    simulate_collapse,
)

# Accuracy after rounds 5, 10, 20 and 40 (one run of the published simulation, two digits).
TABLE = {
    "no curation": (0.17, 0.17, 0.17, 0.17),
    "filter": (0.287, 0.287, 0.287, 0.287),
    "beta 0.05, 10 % labelled, hardest": (0.31, 0.34, 0.39, 0.49),
    "beta 0.05, 10 % labelled, random": (0.30, 0.32, 0.35, 0.42),
    "beta 0.1, 10 % labelled, hardest": (0.34, 0.39, 0.49, 0.70),
    "beta 0.1, 10 % labelled, random": (0.32, 0.35, 0.42, 0.52),
    "beta 0.3, 10 % labelled, hardest": (0.44, 0.59, 0.89, 1.00),
    "beta 0.3, 10 % labelled, random": (0.38, 0.46, 0.61, 0.78),
    "beta 0.1, all hard": (0.57, 0.74, 0.91, 0.99),
    "beta 0.1, all hard, 10 % false accepts": (0.47, 0.63, 0.82, 0.95),
    "beta 0.1, all hard, fixed errors": (0.36, 0.36, 0.36, 0.36),
}
SEEDS = range(12)


def test_the_published_table_comes_out_within_its_monte_carlo_error() -> None:
    """Each published number is one run: within three standard deviations of ours over seeds, and
    half a unit of its last digit.
    """
    ours = collapse_table(SEEDS)
    assert ours.keys() == TABLE.keys()
    for name, published in TABLE.items():
        for value, runs in zip(published, ours[name].values(), strict=True):
            bound = 3 * np.std(runs, ddof=1) + 0.005
            assert abs(np.mean(runs) - value) <= bound, (name, value, np.mean(runs))


@pytest.mark.parametrize("beta", [0.05, 0.3])
@pytest.mark.parametrize("arm", ["hardest", "random"])
def test_the_mean_is_that_of_the_closed_form(arm: str, beta: float) -> None:
    """Within three standard errors of the mean over seeds, from the plateau of the filter on."""
    for rounds in (10, 30):
        runs = [simulate_collapse(arm, beta=beta, seed=s).accuracy(rounds) for s in SEEDS]
        expected = expected_accuracy(
            rounds, beta=beta, start=1 - 0.287, budget=0.1, hardest=arm == "hardest"
        )
        error = np.std(runs, ddof=1) / math.sqrt(len(runs))
        assert abs(np.mean(runs) - expected) <= 3 * error + 0.004


def test_it_converges_in_the_rounds_of_the_theorem() -> None:
    """With 9 of 10 labels wrong, error 2 % after ln(err_0 / eps) / -ln(1 - beta) rounds."""
    expected = rounds_to(0.02, beta=0.1, start=1 - 0.287)
    bound = math.log((1 - 0.287) / 0.02) / 0.1
    runs = [simulate_collapse(budget=1.0, num_rounds=80, seed=s) for s in SEEDS]
    needed = [run.rounds_to(0.02) for run in runs]
    assert all(number is not None for number in needed)
    mean = float(np.mean([n for n in needed if n is not None]))
    assert mean == pytest.approx(expected, abs=2.5)
    assert mean <= bound


def test_hard_first_beats_random_at_the_same_number_of_labels() -> None:
    for seed in SEEDS:
        hard, random = (simulate_collapse(arm, seed=seed) for arm in ("hardest", "random"))
        paid = [sum(g.labels for g in run.generations) for run in (hard, random)]
        assert paid[0] == paid[1] == 40 * 100
        assert hard.accuracy(40) > random.accuracy(40) + 0.1


def test_without_a_labeller_or_with_none_right_it_stops_at_what_the_start_can_sample() -> None:
    assert simulate_collapse("filter").accuracy(40) == pytest.approx(0.287)
    assert simulate_collapse("hardest", beta=0.0).accuracy(40) == pytest.approx(0.287)
    assert simulate_collapse("filter").rounds_to(0.5) is None


def test_replacing_loses_diversity_and_tail_and_accumulating_holds_more() -> None:
    """Model collapse (arXiv 2305.17493), and what accumulating saves (arXiv 2404.01413)."""
    replaced = simulate_collapse("none").generations[-1]
    accumulated = simulate_collapse("none", accumulate=True).generations[-1]
    start = simulate_collapse("none").generations[0]
    assert start.diversity > 4 and start.tail == 1.0
    assert replaced.diversity == pytest.approx(1.0, abs=0.02) and replaced.tail < 0.06
    assert accumulated.diversity > 2.5 and accumulated.tail > 3 * replaced.tail
    assert replaced.accuracy == pytest.approx(start.accuracy, abs=0.04)


def test_wrong_labels_cost_what_was_failed_by_chance() -> None:
    settings = {"budget": 1.0, "fixed_errors": True, "num_rounds": 5}
    harmed = [simulate_collapse(**settings, filter_labels=False, seed=s) for s in SEEDS]
    spared = [simulate_collapse(**settings, seed=s) for s in SEEDS]
    assert np.mean([r.accuracy(5) for r in harmed]) < np.mean([r.accuracy(5) for r in spared])


def test_a_run_follows_from_its_seed_and_is_shown() -> None:
    assert (
        simulate_collapse(num_rounds=3).generations == simulate_collapse(num_rounds=3).generations
    )
    assert simulate_collapse(num_rounds=3, seed=1).accuracy(3) != simulate_collapse(
        num_rounds=3
    ).accuracy(3)
    assert "hardest" in str(simulate_collapse(num_rounds=3))


@pytest.mark.parametrize(
    "wrong", [{"arm": "hard"}, {"beta": 1.5}, {"num_prompts": 0}, {"num_answers": 1}]
)
def test_numbers_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        simulate_collapse(**wrong)


@pytest.mark.parametrize("wrong", [{"error": 0}, {"beta": 1}, {"start": 0}])
def test_the_theorem_needs_shares(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        rounds_to(**{"error": 0.1, "beta": 0.1, "start": 0.5, **wrong})
