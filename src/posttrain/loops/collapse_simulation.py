"""Self-training on own samples as a table of probabilities: where it collapses, and what prevents
it (Escaping Collapse: The Strength of Weak Data, arXiv 2502.08924).

The model is P [prompts, answers]; answer 0 is right. A generation samples k answers per prompt,
curates them, and refits P to what is left:

    S   samples that a filter accepts. It accepts wrong ones with probability gamma.
    H   prompts without an accepted sample: the hard ones.
    W   labels of a weak labeller, right with probability beta on any set of prompts; they pass the
        filter too, unless `filter_labels` is false.
    P'(y | x) = (1 - alpha) S(y | x) + alpha W(y | x),   over what x has; P(y | x) where it has none

`random` labels prompts at random, `hardest` those of H. With a perfect filter and labels for all of
H the error falls by 1 - beta each round (theorem 5 of the paper): `rounds_to`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from posttrain.errors import ConfigError

Array = np.ndarray
Arm = Literal["none", "filter", "random", "hardest"]
"""no curation; the filter alone; and labels for random prompts, or for the hardest."""

_RARE = 0.1  # an answer below this probability is of the tail


@dataclass(frozen=True, slots=True)
class Generation:
    """The model after a round. Round 0 is the start.

    accuracy: mean P(right). solved: share of prompts with P(right) above 1/2. diversity: mean
    effective number of answers, exp of the entropy. tail: of the answers with a probability below
    0.1 at the start, the share that can still be sampled. labels: paid in the round. hard: share
    of prompts without an accepted sample.
    """

    round: int
    accuracy: float
    solved: float
    diversity: float
    tail: float
    labels: int = 0
    hard: float = 0.0


@dataclass(slots=True)
class Simulation:
    """All generations of a simulated self-training."""

    arm: str
    generations: list[Generation] = field(default_factory=list)

    def accuracy(self, round: int) -> float:
        """Mean P(right) after a round."""
        return self.generations[round].accuracy

    def rounds_to(self, error: float) -> int | None:
        """The first round whose share of unsolved prompts is at most `error`; None if there is
        none.
        """
        return next((g.round for g in self.generations if 1 - g.solved <= error), None)

    def __str__(self) -> str:
        lines = [f"{self.arm}: round  accuracy  answers  tail  labels"]
        last = len(self.generations) - 1
        for number in sorted({0, *(2**i for i in range(12) if 2**i < last), last}):
            g = self.generations[number]
            lines.append(
                f"  {g.round:5d}  {g.accuracy:8.3f}  {g.diversity:7.2f}  {g.tail:4.2f}  {g.labels}"
            )
        return "\n".join(lines)


def rounds_to(error: float, *, beta: float, start: float) -> float:
    """Rounds until the error is at most `error` where all hard prompts are labelled.

        err_t = (1 - beta)^t err_0   =>   t = ln(err_0 / error) / -ln(1 - beta)
                                            <= ln(err_0 / error) / beta

    >>> round(rounds_to(0.01, beta=0.1, start=0.7), 1)
    40.3

    Args:
        error: share of prompts still wrong. beta: share of right labels. start: err_0.
    """
    if not 0 < beta < 1 or not 0 < error < 1 or not 0 < start <= 1:
        raise ConfigError(
            f"rounds_to: error {error}, beta {beta} and start {start} are shares; each must be "
            "above 0 and below 1 (start at most 1)"
        )
    return max(math.log(start / error) / -math.log1p(-beta), 0.0)


def expected_accuracy(
    rounds: int, *, beta: float, start: float, budget: float, hardest: bool
) -> float:
    """Accuracy after a number of rounds with a perfect filter, in expectation.

        hardest:  err -= beta min(budget, err)      random:  err *= 1 - beta budget

    Args:
        start: error after the filter alone. budget: labels per round, as a share of the prompts.
    """
    error = start
    for _ in range(rounds):
        labelled = min(budget, error) if hardest else budget * error
        error -= beta * labelled
    return 1 - error


def simulate_collapse(
    arm: Literal["none", "filter", "random", "hardest"] = "hardest",
    *,
    beta: float = 0.1,
    gamma: float = 0.0,
    budget: float = 0.1,
    alpha: float = 0.1,
    num_rounds: int = 40,
    num_prompts: int = 1000,
    num_generations: int = 4,
    num_answers: int = 8,
    reachable: float = 0.287,
    filter_labels: bool = True,
    fixed_errors: bool = False,
    accumulate: bool = False,
    seed: int = 0,
) -> Simulation:
    """Rounds of self-training of a table of probabilities.

        print(pt.simulate_collapse("hardest", beta=0.1))      # 9 of 10 labels are wrong

    Args:
        arm: "none" trains on all samples, "filter" on those that the filter accepts; "random" and
            "hardest" add weak labels of prompts at random, or of the hardest.
        beta: share of right labels.
        gamma: share of wrong samples that the filter accepts.
        budget: labels per round, as a share of the prompts.
        alpha: weight of a label against the accepted samples of the same prompt.
        num_rounds: rounds.
        num_prompts: prompts.
        num_generations: samples per prompt and round.
        num_answers: answers that a prompt has, one of which is right.
        reachable: share of prompts that the model at the start can answer rightly at all; its
            probability of the right answer is uniform from 0.2 to 1 there.
        filter_labels: labels pass the filter too. False trains on wrong labels as well, which cost
            what the model knew of prompts that it failed by chance.
        fixed_errors: the labeller errs on the same prompts in each round, so that it is no weak
            labeller in the sense of the paper. Its label of a prompt is the same each time.
        accumulate: train on the data of all rounds, beginning with samples of the start; else on
            those of the last.
        seed: of all draws.

    Raises:
        ConfigError: a number out of range, or an unknown arm.
    """
    _check(arm, num_prompts, num_answers, num_generations, num_rounds,
           {"beta": beta, "gamma": gamma, "budget": budget, "alpha": alpha,
            "reachable": reachable})  # fmt: skip
    draw = np.random.default_rng((seed, 68))
    table = _start(draw, num_prompts, num_answers, reachable)
    rare = (table > 0) & (table < _RARE)
    labeller = _Labeller(draw, num_prompts, num_answers, beta, fixed_errors)
    result = Simulation(arm, [_measured(0, table, rare)])
    seen = _sampled(draw, table, num_generations) if accumulate else np.zeros_like(table)
    old_labels = np.zeros_like(table)
    for number in range(1, num_rounds + 1):
        samples = _sampled(draw, table, num_generations)
        accepted = samples if arm == "none" else _filtered(draw, samples, gamma)
        hard = accepted.sum(axis=1) == 0
        labels = np.zeros_like(table)
        chosen = _chosen(draw, arm, hard, round(budget * num_prompts))
        labels[chosen, labeller.answers(chosen)] = 1
        if filter_labels:
            labels = _filtered(draw, labels, gamma)
        if accumulate:
            seen, old_labels = seen + accepted, old_labels + labels
            table = _refitted(table, seen, old_labels, alpha)
        else:
            table = _refitted(table, accepted, labels, alpha)
        result.generations.append(
            _measured(number, table, rare, labels=len(chosen), hard=float(hard.mean()))
        )
    return result


def _check(
    arm: str, prompts: int, answers: int, samples: int, rounds: int, shares: dict[str, float]
) -> None:
    if arm not in get_args(Arm):
        raise ConfigError(f"arm: {arm!r} is none of {', '.join(get_args(Arm))}")
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"{name}: {value} is a share; it must be from 0 to 1")
    if min(prompts, samples, rounds) < 1 or answers < 2:
        raise ConfigError(
            f"num_prompts {prompts}, num_generations {samples} and num_rounds {rounds} must be at "
            f"least 1, and num_answers {answers} at least 2"
        )


def _start(draw: np.random.Generator, prompts: int, answers: int, reachable: float) -> Array:
    """The model at the start. [prompts, answers]."""
    right = np.zeros(prompts)
    number = round(reachable * prompts)
    right[:number] = draw.uniform(0.2, 1.0, number)
    wrong = draw.dirichlet(np.ones(answers - 1), prompts)
    return np.concatenate([right[:, None], (1 - right[:, None]) * wrong], axis=1)


def _sampled(draw: np.random.Generator, table: Array, number: int) -> Array:
    """How often each answer is sampled. [prompts, answers]."""
    return draw.multinomial(number, table / table.sum(axis=1, keepdims=True)).astype(np.float64)


def _filtered(draw: np.random.Generator, samples: Array, gamma: float) -> Array:
    """The samples that a filter accepts: right ones, and wrong ones with probability gamma."""
    accepted = samples.copy()
    accepted[:, 1:] = draw.binomial(samples[:, 1:].astype(np.int64), gamma)
    return accepted


def _chosen(draw: np.random.Generator, arm: str, hard: Array, number: int) -> Array:
    """Places of the prompts that are labelled."""
    if arm == "random":
        return draw.choice(len(hard), min(number, len(hard)), replace=False)
    if arm == "hardest":
        places = np.flatnonzero(hard)
        return draw.choice(places, min(number, len(places)), replace=False)
    return np.zeros(0, dtype=np.int64)


class _Labeller:
    """Gives a right label with probability beta, else one of the wrong ones."""

    def __init__(
        self, draw: np.random.Generator, prompts: int, answers: int, beta: float, fixed: bool
    ) -> None:
        self._draw, self._beta, self._answers = draw, beta, answers
        self._fixed = self._drawn(prompts) if fixed else None

    def _drawn(self, number: int) -> Array:
        wrong = self._draw.integers(1, self._answers, number)
        return np.where(self._draw.random(number) < self._beta, 0, wrong)

    def answers(self, places: Array) -> Array:
        """A label for each prompt."""
        return self._drawn(len(places)) if self._fixed is None else self._fixed[places]


def _refitted(table: Array, samples: Array, labels: Array, alpha: float) -> Array:
    """The model trained on a mixture: per prompt the shares of the answers in it."""
    of_samples = samples.sum(axis=1, keepdims=True)
    of_labels = labels.sum(axis=1, keepdims=True)
    mixture = (1 - alpha) * samples / np.maximum(of_samples, 1)
    mixture += alpha * labels / np.maximum(of_labels, 1)
    mass = mixture.sum(axis=1, keepdims=True)
    return np.where(mass > 0, mixture / np.where(mass > 0, mass, 1), table)


def _measured(
    number: int, table: Array, rare: Array, labels: int = 0, hard: float = 0.0
) -> Generation:
    logs = np.log(np.where(table > 0, table, 1))
    entropy = -(table * logs).sum(axis=1)
    return Generation(
        number,
        accuracy=float(table[:, 0].mean()),
        solved=float((table[:, 0] > 0.5).mean()),
        diversity=float(np.exp(entropy).mean()),
        tail=float((table[rare] > 0).mean()) if rare.any() else 1.0,
        labels=labels,
        hard=hard,
    )


def collapse_table(seeds: Sequence[int] = (0,)) -> dict[str, dict[int, list[float]]]:
    """The arms of the published comparison: name -> round -> accuracy of each seed."""
    arms: dict[str, dict] = {
        "no curation": {"arm": "none"},
        "filter": {"arm": "filter"},
    }
    for beta in (0.05, 0.1, 0.3):
        for arm in ("hardest", "random"):
            arms[f"beta {beta:g}, 10 % labelled, {arm}"] = {"arm": arm, "beta": beta}
    arms["beta 0.1, all hard"] = {"arm": "hardest", "budget": 1.0}
    arms["beta 0.1, all hard, 10 % false accepts"] = {
        "arm": "hardest",
        "budget": 1.0,
        "gamma": 0.1,
    }
    arms["beta 0.1, all hard, fixed errors"] = {
        "arm": "hardest",
        "budget": 1.0,
        "fixed_errors": True,
    }
    table: dict[str, dict[int, list[float]]] = {}
    for name, settings in arms.items():
        runs = [simulate_collapse(**settings, seed=seed) for seed in seeds]
        table[name] = {r: [run.accuracy(r) for run in runs] for r in (5, 10, 20, 40)}
    return table
