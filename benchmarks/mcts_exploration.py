"""How much should mcts explore? mcts_exploration.py PROCESS_MODEL [--write]

The embedded model solves chains of arithmetic of the validation split, easy ones (2 steps) and hard
ones (4), by mcts under a trained process model (recipes/reward_models/process.yaml) at equal tokens
per problem. Accuracies are means over seeds and both levels; differences from exploration 1 are
paired by problem, with 95 % intervals. The default of `mcts` was chosen by this sweep; figures of
searches are of the test split.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from figures import HERE

import posttrain as pt
from posttrain.config import Component
from posttrain.evaluation.statistics import mean_interval

RESULTS = HERE / "results" / "mcts_exploration.json"
EXPLORATIONS = (0.0, 0.1, 0.2, 0.5, 1.0)
NUM_STEPS = (2, 4)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="folder of the process model")
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=400, help="tokens per problem")
    parser.add_argument("--simulations", type=int, default=32)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    scorer = Component("reward_model", {"path": arguments.model, "aggregation": "min"})
    model = pt.load("embedded")
    started = time.time()
    means: dict[float, np.ndarray] = {}
    for exploration in sorted(EXPLORATIONS, reverse=True):  # 1 first: others are compared with it
        search = pt.strategy.mcts(num_simulations=arguments.simulations, exploration=exploration)
        levels = []
        for num_steps in NUM_STEPS:
            task = pt.task.arithmetic(
                num_steps=num_steps, num_examples=arguments.problems, split="validation"
            )
            results = [
                pt.evaluate(
                    model, task, search=search, scorer=scorer, budget=arguments.budget, seed=seed
                ).means()
                for seed in range(arguments.seeds)
            ]
            levels.append(np.mean(results, axis=0))
        means[exploration] = np.concatenate(levels)
        parts = ", ".join(
            f"{n} steps {x.mean():.1%}" for n, x in zip(NUM_STEPS, levels, strict=True)
        )
        gain = mean_interval(list(means[exploration] - means[1.0]), are_shares=False)
        print(
            f"exploration {exploration:4}: {means[exploration].mean():6.1%}  "
            f"{gain.estimate:+.1%} ({gain.low:+.1%} to {gain.high:+.1%})  "
            f"{parts}  {time.time() - started:.0f} s",
            flush=True,
        )
    if arguments.write:
        rows = {str(e): float(x.mean()) for e, x in means.items()}
        about = {
            "problems": arguments.problems,
            "seeds": arguments.seeds,
            "budget": arguments.budget,
            "accuracy": rows,
        }
        RESULTS.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
