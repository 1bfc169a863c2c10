"""Does a trained revision model gain by revising? revision.py [--seeds 0,1,2,3,4] [--write]

The embedded model samples training problems; `pt.revision_rows` makes rows of wrong attempts and a
right one, and a fit on them gives a revision model (Snell et al., arXiv 2408.03314, section 6.1).
On held-out problems at equal tokens, all with the trained model: one chain of revisions, chains and
samples in balance, and parallel samples alone (a majority vote); beside them the untrained model's
vote. Differences from the trained model's parallel samples are paired over the problems of all
seeds, with 95 % intervals. No search reads the gold; the rows do, as training data may.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
from figures import HERE

import posttrain as pt
from posttrain.evaluation.statistics import mean_interval
from posttrain.search.base import Selection

RESULTS = HERE / "results" / "revision.json"
TASK = {"num_steps": 3, "max_operand": 60, "max_value": 249}
PARALLEL = "parallel, trained"


def searches(number: int) -> dict[str, Any]:
    """Searches of the trained model, by name."""
    return {
        PARALLEL: pt.strategy.revise(num_samples=number, sequential_ratio=1 / number),
        "balanced, trained": pt.strategy.revise(num_samples=number, sequential_ratio=1.0),
        "sequential, trained": pt.strategy.revise(
            num_samples=number, sequential_ratio=float(number)
        ),
    }


def trained(seed: int, arguments: argparse.Namespace) -> Any:
    """A revision model, and the number of its rows."""
    model = pt.load("embedded", seed=seed)
    task = pt.task.arithmetic(split="train", num_examples=arguments.train, seed=seed, **TASK)
    selections = pt.run_search(
        model, task, pt.majority_vote(num_samples=arguments.generations), seed=seed
    )
    samples = [
        {
            "prompt": example.prompt,
            "completion": candidate.text,
            "reward": float(task.score(candidate.text, example)),
        }
        for example, selection in zip(task.examples, selections, strict=True)
        if isinstance(selection, Selection)
        for candidate in selection.candidates
        if candidate.ended
    ]
    rows = pt.revision_rows(samples, seed=seed)
    pt.fit(model, pt.sft(rows, batch_size=16), steps=arguments.steps, seed=seed)
    return model, len(rows)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--problems", type=int, default=60, help="held-out")
    parser.add_argument("--train", type=int, default=150, help="training problems")
    parser.add_argument("--generations", type=int, default=8, help="samples per training problem")
    parser.add_argument("--steps", type=int, default=60, help="of the fit")
    parser.add_argument("--samples", type=int, default=8, help="attempts per problem")
    parser.add_argument("--budget", type=int, default=300, help="tokens per problem")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    test = pt.task.arithmetic(split="test", num_examples=arguments.problems, seed=1, **TASK)
    outcomes: dict[str, list[float]] = {}
    tokens: dict[str, list[float]] = {}
    started = time.time()
    for seed in map(int, arguments.seeds.split(",")):
        model, num_rows = trained(seed, arguments)
        plain = pt.majority_vote(num_samples=arguments.samples)
        runs = [("parallel, untrained", pt.load("embedded"), plain)]
        runs += [(name, model, search) for name, search in searches(arguments.samples).items()]
        for name, measured, search in runs:
            result = pt.evaluate(measured, test, search=search, budget=arguments.budget, seed=seed)
            outcomes.setdefault(name, []).extend(result.means())
            tokens.setdefault(name, []).append(result.metrics()["mean_tokens"])
        print(f"seed {seed}: {num_rows} rows, {time.time() - started:.0f} s", flush=True)
    rows = {}
    for name, values in outcomes.items():
        gain = mean_interval(list(np.subtract(values, outcomes[PARALLEL])), are_shares=False)
        rows[name] = {
            "accuracy": float(np.mean(values)),
            "gain": [gain.estimate, gain.low, gain.high],
            "tokens_per_problem": float(np.mean(tokens[name])),
        }
        print(
            f"{name:22} {np.mean(values):6.1%}  {gain.estimate:+.1%} ({gain.low:+.1%} to "
            f"{gain.high:+.1%})  {np.mean(tokens[name]):.0f} tokens per problem"
        )
    if arguments.write:
        about = {name: getattr(arguments, name) for name in vars(arguments) if name != "write"}
        RESULTS.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
