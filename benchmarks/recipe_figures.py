"""Held-out accuracy of recipes over several seeds, and the sentence that says it in their headers.

    .venv/bin/python benchmarks/recipe_figures.py recipes/policy_gradient [--seeds 5] [--jobs 2]
    .venv/bin/python benchmarks/recipe_figures.py recipes/policy_gradient --write

Every run is a process of one thread: `posttrain run RECIPE seed=S`. A recipe with `evaluation` is
measured as it says, each stage of a pipeline by itself; any other on 300 problems of its task's
test split, which no recipe trains on. Results go to results/recipes.json as they come. A run that
is there is not repeated. `--write` puts the figures into the headers.

The interval is of the mean accuracy over seeds and problems,

    mean +- sqrt((t s_seeds / sqrt(S))^2 + (1.96 s_problems / sqrt(P))^2)

with S seeds (t: Student's quantile of S - 1 degrees of freedom), P problems, and the standard
deviations of the seeds' and of the problems' means.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results" / "recipes.json"
MARK = "# Held-out accuracy"
NUM_PROBLEMS, NUM_SAMPLES = 300, 4
LEAST_SEEDS = 5  # for a header
# Two-sided 95 % quantiles of Student's t by degrees of freedom.
STUDENT = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
    8: 2.306,
    9: 2.262,
}
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"

Counts = dict[str, Any]
"""Of one model: `samples` of each problem, and how many were correct, one digit a problem."""


def recipes_in(places: Iterable[Path]) -> list[Path]:
    """The YAML files of files and folders, sorted."""
    files = [f for p in places for f in (sorted(p.glob("*.yaml")) if p.is_dir() else [p])]
    return [f.resolve() for f in files]


def evaluation_of(recipe: dict[str, Any]) -> dict[str, Any]:
    """What a recipe's model is measured on: its own evaluation, else its task's test split."""
    if "evaluation" in recipe:
        return recipe["evaluation"]
    task = recipe["task"] if isinstance(recipe["task"], dict) else {"name": recipe["task"]}
    held_out = {**task, "split": "test", "num_examples": NUM_PROBLEMS, "seed": 1}
    return {"task": held_out, "num_examples": NUM_PROBLEMS, "num_samples": NUM_SAMPLES}


def counts_of(folder: Path) -> Counts:
    """Correct samples of each problem, from evaluation.json."""
    outcomes = json.loads((folder / "evaluation.json").read_text())["examples"]
    digits = "".join(DIGITS[sum(o["correct"])] for o in outcomes)
    return {"samples": len(outcomes[0]["correct"]), "correct": digits}


def models_of(folder: Path) -> dict[str, Counts]:
    """The models that a run measured, by title: a pipeline's stages, or the one model."""
    if not (folder / "summary.json").exists():
        return {"": counts_of(folder)}
    rows = json.loads((folder / "summary.json").read_text())["rows"]
    return {row["stage"]: counts_of(folder / row["folder"]) for row in rows}


def means_of(counts: Counts) -> list[float]:
    """Mean correctness of each problem."""
    return [DIGITS.index(c) / counts["samples"] for c in counts["correct"]]


def interval_of(means: list[list[float]]) -> tuple[float, float]:
    """Mean accuracy and half the width of its 95 % interval. means [S][P]: of seeds and
    problems.
    """
    by_seed = [statistics.fmean(row) for row in means]
    by_problem = [statistics.fmean(column) for column in zip(*means, strict=True)]
    half = 1.96 * statistics.stdev(by_problem) / math.sqrt(len(by_problem))
    if len(means) > 1:
        of_seeds = STUDENT[len(means) - 1] * statistics.stdev(by_seed) / math.sqrt(len(means))
        half = math.hypot(half, of_seeds)
    return statistics.fmean(by_seed), half


def range_of(means: list[list[float]]) -> tuple[float, float]:
    """Where the accuracy of one more seed on these problems lies, with probability 95 %.

    mean +- t s sqrt(1 + 1/S), with the standard deviation s of S seeds.
    """
    by_seed = [statistics.fmean(row) for row in means]
    spread = statistics.stdev(by_seed) * math.sqrt(1 + 1 / len(means))
    half = STUDENT[len(means) - 1] * spread
    return statistics.fmean(by_seed) - half, statistics.fmean(by_seed) + half


def posttrain(*arguments: str) -> float:
    """Run the command in one thread; returns the seconds of processor time that it took."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "posttrain", *arguments]
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{output[-3000:]}")
    return usage.ru_utime + usage.ru_stime


class Figures:
    """results/recipes.json: runs by recipe and seed, written after each."""

    def __init__(self, path: Path = RESULTS) -> None:
        self.path = path
        self.runs: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
        self._lock = threading.Lock()

    def add(self, name: str, seed: int, models: dict[str, Counts], seconds: float) -> None:
        """Store one run."""
        with self._lock:
            run = {"cpu_seconds": round(seconds, 1), "models": models}
            self.runs.setdefault(name, {})[str(seed)] = run
            ordered = {k: dict(sorted(v.items())) for k, v in sorted(self.runs.items())}
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps(ordered, indent=1) + "\n")
            partial.replace(self.path)

    def titles(self, name: str) -> list[str]:
        """Titles of the models that the runs of a name measured."""
        return list(next(iter(self.runs[name].values()))["models"])

    def means(self, name: str, title: str = "") -> list[list[float]]:
        """Mean correctness of each problem [S][P], of the model of a title."""
        return [means_of(run["models"][title]) for run in self.runs[name].values()]

    def cpu_seconds(self, name: str) -> float:
        """Median of the runs of a name."""
        return statistics.median(run["cpu_seconds"] for run in self.runs[name].values())


def base_name(evaluation: dict[str, Any]) -> str:
    """The name under which the base model's figure for an evaluation is kept."""
    task = evaluation["task"]
    left_out = ("name", "split", "seed", "num_examples")
    settings = [f"{k}={v}" for k, v in sorted(task.items()) if k not in left_out]
    counts = f"{evaluation['num_examples']}x{evaluation['num_samples']}"
    return " ".join(["base", task["name"], *settings, counts])


def run(recipe: Path, seed: int, figures: Figures, work: Path) -> None:
    """Train a recipe with a seed and measure its models."""
    name = str(recipe.relative_to(ROOT))
    folder = work / f"{recipe.stem}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # left by a measurement that was stopped
    raw = yaml.safe_load(recipe.read_text())
    own = [] if "evaluation" in raw else [f"evaluation={json.dumps(evaluation_of(raw))}"]
    seconds = posttrain("run", name, f"seed={seed}", f"output={folder}", *own)
    figures.add(name, seed, models_of(folder), seconds)
    print(f"{time.strftime('%H:%M:%S')} {name} seed {seed}: {seconds:.0f} s", flush=True)


def measure_base(recipe: Path, figures: Figures, work: Path) -> None:
    """The base model's accuracy where the recipe does not measure it itself."""
    raw = yaml.safe_load(recipe.read_text())
    evaluation = evaluation_of(raw)
    name = base_name(evaluation)
    if name in figures.runs or "stages" in raw:
        return
    folder = work / name.replace(" ", "_")
    shutil.rmtree(folder, ignore_errors=True)
    settings = [f"task.{k}={v}" for k, v in evaluation["task"].items() if k != "name"]
    counts = [f"evaluation.{k}={evaluation[k]}" for k in ("num_examples", "num_samples")]
    task, model = evaluation["task"]["name"], ["--model", "embedded", "--output", str(folder)]
    seconds = posttrain("eval", "--task", task, *model, *settings, *counts, "model.dtype=float32")
    figures.add(name, 0, models_of(folder), seconds)


def percent(share: float) -> str:
    """Such as "93.2 %"."""
    return f"{min(max(share, 0.0), 1.0):.1%}".replace("%", " %")


def sentence(recipe: Path, figures: Figures) -> list[str]:
    """The lines of a header that say what was measured."""
    name = str(recipe.resolve().relative_to(ROOT))
    raw = yaml.safe_load(recipe.read_text())
    evaluation = evaluation_of(raw)
    if (seeds := len(figures.runs.get(name, {}))) < LEAST_SEEDS:
        raise SystemExit(
            f"{name}: {seeds} of {LEAST_SEEDS} seeds are measured; run this without --write first"
        )
    rows = [(title, figures.means(name, title)) for title in figures.titles(name)]
    if "stages" not in raw:
        rows = [("base model", figures.means(base_name(evaluation))), (raw["title"], rows[0][1])]
    texts = []
    for title, means in rows:
        mean, half = interval_of(means)
        texts.append(f"{title} {percent(mean)} ({percent(mean - half)} to {percent(mean + half)})")
    text = (
        f"{MARK[2:]}, {len(figures.runs[name])} seeds, with 95 % intervals: {', '.join(texts)}. "
        f"{evaluation['num_samples']} samples at temperature 1 for each of "
        f"{evaluation['num_examples']} problems of the test "
        f"split; {figures.cpu_seconds(name):.0f} s of one CPU core for each seed "
        "(benchmarks/recipe_figures.py)."
    )
    return [f"# {line}" for line in textwrap.wrap(text, 98)]


def with_sentence(text: str, lines: list[str]) -> str:
    """A recipe's text with its paragraph of figures replaced, or put at the end of its header."""
    rows = text.split("\n")
    end = next(i for i, row in enumerate(rows) if not row.startswith("#"))
    start = next((i for i in range(end) if rows[i].startswith(MARK)), None)
    if start is None:
        return "\n".join([*rows[:end], "#", *lines, *rows[end:]])
    stop = next((i for i in range(start, end) if rows[i].rstrip() == "#"), end)
    return "\n".join([*rows[:start], *lines, *rows[stop:]])


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, or write the headers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("places", nargs="+", type=Path, help="recipes, or folders of them")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--write", action="store_true", help="put the figures into the recipes' headers"
    )
    options = parser.parse_args(arguments)
    figures, recipes = Figures(), recipes_in(options.places)
    if options.write:
        for recipe in recipes:
            recipe.write_text(with_sentence(recipe.read_text(), sentence(recipe, figures)))
        return
    work = HERE / ".work" / "recipes"
    for recipe in recipes:
        measure_base(recipe, figures, work)
    # Seed by seed, so that an interrupted measurement has the same seeds of all recipes.
    jobs = [(r, s) for s in range(options.seeds) for r in recipes]
    jobs = [(r, s) for r, s in jobs if str(s) not in figures.runs.get(str(r.relative_to(ROOT)), {})]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda job: run(*job, figures, work), jobs))


if __name__ == "__main__":
    main()
