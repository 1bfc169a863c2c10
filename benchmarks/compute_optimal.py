"""Does a compute-optimal policy halve the cost of best-of-N? compute_optimal.py PROCESS_MODEL

Half easy and half hard chains of arithmetic (2 and 4 steps) and the embedded model. The policy is
fitted on validation problems: it chooses among best-of-N, weighted and majority votes by the
difficulty that 4 pilot samples show, whose tokens are charged. It is then measured on test problems
beside best-of-N with twice its tokens. A trained process model scores (recipes/reward_models); no
search reads the gold. Means over seeds; the difference is paired by problem, with a 95 % interval
over problems.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from figures import HERE

import posttrain as pt
from posttrain.config import Component
from posttrain.evaluation.statistics import mean_interval

RESULTS = HERE / "results" / "compute_optimal.json"
BUDGETS = (200, 400)


def mixed(split: str, number: int) -> Any:
    """Easy and hard problems in turn."""
    easy, hard = (
        pt.task.arithmetic(num_steps=steps, num_examples=number // 2, split=split, seed=1)
        for steps in (2, 4)
    )
    pairs = zip(easy.examples, hard.examples, strict=True)
    examples = [
        replace(example, id=f"{level}-{example.id}")
        for pair in pairs
        for level, example in zip(("easy", "hard"), pair, strict=True)
    ]
    return replace(hard, name="easy and hard chains", examples=examples)


def main() -> None:
    """Fit, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="folder of the process model")
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    scorer = Component("reward_model", {"path": arguments.model, "aggregation": "min"})
    model = pt.load("embedded")
    strategies = [
        make(num_samples=number)
        for make in (pt.best_of_n, pt.weighted_vote, pt.majority_vote)
        for number in (4, 16)
    ]
    path = Path(tempfile.mkdtemp()) / "policy.json"
    validation = mixed("validation", arguments.problems)
    policy = pt.fit_policy(
        model, validation, strategies, BUDGETS, scorer=scorer, num_examples=len(validation.examples)
    )
    policy.save(path)
    print(policy)
    test = mixed("test", arguments.problems)
    ours = pt.strategy.scored_compute_optimal(path=str(path))
    rows: list[dict[str, Any]] = []

    def measured(search: Any, budget: int) -> tuple[np.ndarray, float]:
        results = [
            pt.evaluate(model, test, search=search, scorer=scorer, budget=budget, seed=seed)
            for seed in range(arguments.seeds)
        ]
        tokens = [r.metrics()["mean_tokens"] for r in results]
        return np.mean([r.means() for r in results], axis=0), float(np.mean(tokens))

    for budget in BUDGETS:
        optimal, cost = measured(ours, budget)
        best, best_cost = measured(pt.best_of_n(num_samples=16), 2 * budget)
        gain = mean_interval(list(optimal - best), are_shares=False)
        rows.append(
            {
                "budget": budget,
                "compute_optimal": float(optimal.mean()),
                "tokens": cost,
                "best_of_n_at_twice_the_budget": float(best.mean()),
                "best_of_n_tokens": best_cost,
                "difference": [gain.estimate, gain.low, gain.high],
            }
        )
        print(
            f"compute-optimal {optimal.mean():.1%} with {cost:.0f} tokens, best-of-N "
            f"{best.mean():.1%} with {best_cost:.0f}: {gain.estimate:+.1%} ({gain.low:+.1%} to "
            f"{gain.high:+.1%})",
            flush=True,
        )
    if arguments.write:
        about = {"problems": arguments.problems, "seeds": arguments.seeds, "rows": rows}
        RESULTS.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
