"""Does OREO's critic help a search? oreo_beam.py [--seeds 0,1,2,3,4] [--write]

Trains recipes/offline/oreo.yaml with each seed, and measures its policy on 300 held-out problems:
one sample, a vote of 16, the value-guided beam with the trained critic, the best of 16 samples by
the critic, and the same beam and best-of-16 with exact values in the critic's place: 1 where all
lines so far are right. The exact values read the problem, and are an oracle. Differences are paired
with one sample, over all problems of all seeds.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from figures import HERE

import posttrain as pt
from posttrain.evaluation.statistics import mean_interval
from posttrain.search.base import Selection, select
from posttrain.search.steps import is_ended
from posttrain.search.value_beam import value_beam

WORK = HERE / ".work" / "oreo_beam"
RESULTS = HERE / "results" / "oreo_beam.json"
TASK = {"num_steps": 5, "max_operand": 60, "max_value": 249, "num_examples": 300, "seed": 1}
STEP = re.compile(r"(-?\d+)([+*-])(-?\d+)=(-?\d+)")


async def best_of_values(prompt, ask, extract, value, *, num_samples: int = 16) -> Selection:
    """Best-of-N by the critic's value of the last state."""
    candidates = await ask(prompt, num_samples)
    states = [(*prompt, *(c.ids[:-1] if is_ended(c, "") else c.ids)) for c in candidates]
    values = await value(states)
    return select(candidates, int(np.argmax(values)), extract)


def exact(problem: str, text: str) -> float:
    """1 where every line of a chain so far is right and follows from the one before."""
    operations = re.findall(r"([+*-]?)\s*(-?\d+)", problem.split("=")[0].replace(" ", ""))
    numbers = [int(n) for _, n in operations]
    result = numbers[0]
    lines = [line.replace(" ", "") for line in text.splitlines() if line.strip()]
    for (sign, _), number, line in zip(operations[1:], numbers[1:], lines, strict=False):
        match = STEP.fullmatch(line)
        if match is None or int(match[1]) != result or match[2] != sign or int(match[3]) != number:
            return 0.0
        result = {"+": result + number, "-": result - number, "*": result * number}[sign]
        if int(match[4]) != result:
            return 0.0
    return 1.0


async def exact_beam(prompt, ask, extract, decode, problem) -> Selection:
    """The beam with exact values in the critic's place."""

    async def value(states: Any) -> list[float]:
        return [exact(problem, decode(state[len(prompt) :])) for state in states]

    return await value_beam(prompt, ask, extract, value, decode)


async def best_of_exact(prompt, ask, extract, decode, problem) -> Selection:
    """Best-of-16 with exact values of the last state."""
    candidates = await ask(prompt, 16)
    values = [exact(problem, c.text) for c in candidates]
    return select(candidates, int(np.argmax(values)), extract)


def trained(seed: int) -> Path:
    """The folder of the recipe's last stage, run with a seed."""
    output = WORK / f"seed-{seed}"
    if not (output / "done").exists():
        recipe = HERE.parent / "recipes" / "offline" / "oreo.yaml"
        command = [sys.executable, "-m", "posttrain.cli", "run", str(recipe)]
        subprocess.run(
            [*command, f"output={output}", f"seed={seed}"], check=True, stdout=subprocess.DEVNULL
        )
        (output / "done").touch()
    return output / "oreo"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    task = pt.task.arithmetic(split="test", **TASK)
    outcomes: dict[str, list[float]] = {}
    tokens: dict[str, list[float]] = {}
    started = time.time()
    for seed in map(int, arguments.seeds.split(",")):
        folder = trained(seed)
        for name, options in strategies().items():
            result = pt.evaluate(
                str(folder), task, num_examples=arguments.problems, seed=seed, **options
            )
            outcomes.setdefault(name, []).extend(result.means())
            tokens.setdefault(name, []).append(result.metrics()["mean_tokens"])
            print(seed, name, f"{result.accuracy().estimate:.1%}", f"{time.time() - started:.0f} s")
    rows = {}
    for name, values in outcomes.items():
        gain = mean_interval(list(np.subtract(values, outcomes["one sample"])), are_shares=False)
        rows[name] = {
            "accuracy": float(np.mean(values)),
            "gain": [gain.estimate, gain.low, gain.high],
            "tokens_per_problem": float(np.mean(tokens[name])),
        }
        print(
            f"{name:28} {np.mean(values):6.1%}  {gain.estimate:+.1%} ({gain.low:+.1%} to "
            f"{gain.high:+.1%})  {np.mean(tokens[name]):.0f} tokens per problem"
        )
    if arguments.write:
        RESULTS.write_text(
            json.dumps(
                {"seeds": arguments.seeds, "problems": arguments.problems, "rows": rows}, indent=1
            )
            + "\n"
        )


def strategies() -> dict[str, dict[str, Any]]:
    """Options of pt.evaluate, by what they are called."""
    return {
        "one sample": {},
        "vote of 16": {"search": pt.majority_vote(num_samples=16)},
        "beam, critic": {"search": value_beam},
        "best of 16, critic": {"search": best_of_values},
        "beam, exact values": {"search": exact_beam},
        "best of 16, exact values": {"search": best_of_exact},
    }


if __name__ == "__main__":
    main()
