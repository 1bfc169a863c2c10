"""Fit a compute-optimal policy on validation problems."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.config import ComponentLike, EndpointConfig, Limits
from posttrain.errors import ConfigError
from posttrain.evaluation.compute_optimal import Trials, cross_fit, fit_rule, record_of
from posttrain.evaluation.outcomes import Evaluation
from posttrain.methods.endpoint import spec_of
from posttrain.methods.measurement import SamplingLike, evaluate
from posttrain.methods.objects import ModelLike, TaskLike, task_of
from posttrain.search.policy import Choice, Policy, Rule, check_choice, piloted
from posttrain.search.strategy import Strategy, strategy


def fit_policy(
    model: ModelLike | EndpointConfig,
    task: TaskLike,
    strategies: Sequence[ComponentLike | Strategy],
    budgets: Sequence[int],
    *,
    pilot: int = 4,
    num_bins: int = 3,
    scorer: ComponentLike | None = None,
    oracle: bool = False,
    num_examples: int = 200,
    sampling: SamplingLike = None,
    seed: int = 1234,
    limits: Limits = Limits(),
    path: str | Path | None = None,
) -> Policy:
    """Choose strategies by difficulty and budget on validation problems.

        vote = pt.majority_vote(num_samples=8)
        policy = pt.fit_policy(model, validation, ["sample", vote], [200])
        policy.save("policy.json")
        pt.evaluate(model, test, search=pt.strategy.compute_optimal(path="policy.json"), budget=200)

    Each strategy runs behind the pilot on every problem at every budget, so that what is compared
    is what it will cost and gain. `policy.record` holds a two-fold cross-fitted estimate.

    Args:
        task: validation problems; report results on others.
        strategies: names, or strategies with settings, that ask for no values.
        budgets: tokens per problem, the pilot's included.
        pilot: samples by which difficulty is judged.
        num_bins: of difficulty.
        scorer, oracle: a scorer, by which difficulty is then judged, and which the strategies use.
        path: a file to save the policy in.

    Raises:
        ConfigError: no strategies or budgets, or a strategy that a policy cannot run.
    """
    scored = scorer is not None
    choices = [Choice(s.name, s.settings) for s in map(strategy, strategies)]
    if not choices or not budgets:
        raise ConfigError("fit_policy: give at least one strategy and one budget")
    for choice in choices:
        check_choice(choice, scored=scored)
    problems = task_of(task)
    spec = spec_of(model)
    loaded: Any = spec.load()
    rules: dict[int, Rule] = {}
    fits = {}
    for budget in sorted(set(budgets)):
        results = [
            evaluate(
                loaded,
                problems,
                search=piloted(choice, pilot, scored=scored),
                scorer=scorer,
                oracle=oracle,
                budget=budget,
                num_examples=num_examples,
                sampling=sampling,
                seed=seed,
                limits=limits,
            )
            for choice in choices
        ]
        trials = trials_of(choices, results)
        ids = [outcome.id for outcome in results[0].outcomes]
        fits[budget] = cross_fit(trials, ids, num_bins)
        rules[budget] = fit_rule(trials, num_bins)
    record = {
        "task": problems.name,
        "model": str(spec.place),
        "seed": seed,
        "strategies": [str(choice) for choice in choices],
        "estimates": record_of(fits),
    }
    policy = Policy(pilot, "score" if scored else "disagreement", rules, record)
    if path is not None:
        policy.save(path)
    return policy


def trials_of(choices: Sequence[Choice], results: Sequence[Evaluation]) -> Trials:
    """The outcomes of strategies on the same problems; a failed search is hard."""
    noted = [
        [outcome.notes.get("difficulty", np.nan) for outcome in result.outcomes]
        for result in results
    ]
    # The pilot has the same seed under every strategy; only failed searches have no difficulty.
    difficulty = np.nanmax(np.array([*noted, [-np.inf] * len(noted[0])]), axis=0)
    finite = difficulty[np.isfinite(difficulty)]
    difficulty[~np.isfinite(difficulty)] = finite.max() if len(finite) else 0.0
    return Trials(
        choices,
        np.array([result.means() for result in results]),
        np.array([[float(sum(o.num_tokens)) for o in result.outcomes] for result in results]),
        difficulty,
    )
