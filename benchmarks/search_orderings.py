"""Which search is best at which budget? search_orderings.py PROCESS_MODEL [--write]

The embedded model solves held-out chains of arithmetic, easy ones (2 steps) and hard ones (4). A
trained process model (recipes/reward_models/process.yaml) scores; no search reads the gold. Every
search has the same number of tokens per problem. Accuracies are means over seeds; differences from
best-of-N are paired by problem, with 95 % intervals over problems.

The literature leads one to expect (Snell et al., arXiv 2408.03314): on hard problems and small
budgets tree search >= beam >= best-of-N; on easy problems and large budgets best-of-N >= beam.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
from figures import HERE

import posttrain as pt
from posttrain.config import Component
from posttrain.evaluation.statistics import mean_interval

RESULTS = HERE / "results" / "search_orderings.json"
BINS = {"easy": 2, "hard": 4}
BUDGETS = {4: 200, 16: 800}
"""Number of samples -> tokens per problem, about 50 for a sample."""


def strategies(number: int) -> dict[str, Any]:
    """Searches of a budget, by name."""
    width = min(4, number)
    return {
        "best_of_n": pt.best_of_n(num_samples=number),
        "weighted_vote": pt.weighted_vote(num_samples=number),
        "majority_vote": pt.majority_vote(num_samples=number),
        "step_beam": pt.strategy.step_beam(num_beams=number, beam_width=width),
        "particle_filter": pt.strategy.particle_filter(num_particles=number),
        "mcts": pt.strategy.mcts(num_simulations=4 * number),
    }


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="folder of the process model")
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", action="append", help="a search; may be repeated")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    scorer = Component("reward_model", {"path": arguments.model, "aggregation": "min"})
    model = pt.load("embedded")
    rows: list[dict[str, Any]] = []
    started = time.time()
    for level, num_steps in BINS.items():
        task = pt.task.arithmetic(
            num_steps=num_steps, num_examples=arguments.problems, split="test", seed=1
        )
        for number, budget in BUDGETS.items():
            means: dict[str, np.ndarray] = {}
            for name, search in strategies(number).items():
                if arguments.only and name not in (*arguments.only, "best_of_n"):
                    continue
                options = {"scorer": scorer} if search.needs_score else {}
                results = [
                    pt.evaluate(model, task, search=search, budget=budget, seed=seed, **options)
                    for seed in range(arguments.seeds)
                ]
                means[name] = np.mean([r.means() for r in results], axis=0)
                gain = mean_interval(list(means[name] - means["best_of_n"]), are_shares=False)
                rows.append(
                    {
                        "bin": level,
                        "budget": budget,
                        "search": name,
                        "accuracy": float(means[name].mean()),
                        "against_best_of_n": [gain.estimate, gain.low, gain.high],
                        "tokens": float(np.mean([r.metrics()["mean_tokens"] for r in results])),
                    }
                )
                print(
                    f"{level:5} {budget:5} tokens  {name:18} {means[name].mean():6.1%}  "
                    f"{gain.estimate:+.1%} ({gain.low:+.1%} to {gain.high:+.1%})  "
                    f"{rows[-1]['tokens']:.0f} tokens  {time.time() - started:.0f} s",
                    flush=True,
                )
    if arguments.write:
        about = {"problems": arguments.problems, "seeds": arguments.seeds, "rows": rows}
        RESULTS.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
