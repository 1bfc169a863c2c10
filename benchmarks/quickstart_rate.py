"""GRPO's learning rate and number of steps in the quickstart, chosen on validation problems.

    .venv/bin/python benchmarks/quickstart_rate.py [--seeds 1] [--rates 5e-5,1e-4,2e-4]
    .venv/bin/python benchmarks/quickstart_rate.py --table

The SFT stage of recipes/quickstart.yaml is run once per seed, its GRPO stage from there: with every
rate for the most steps, then with the best rate for the other numbers of steps. Each model is
measured on problems of the validation split, at the recipe's difficulty. No recipe trains on that
split, and none reports figures on it. The choice is the setting with the highest mean accuracy over
seeds. Results go to results/quickstart_rate.json as they come. A run that is there is not repeated.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import machine
import yaml
from figures import Figures, interval_of, machine_text, percent
from recipe_runs import HERE, ROOT, counts_of, posttrain

RECIPE = ROOT / "recipes" / "quickstart.yaml"
RESULTS = HERE / "results" / "quickstart_rate.json"
WORK = HERE / ".work" / "quickstart_rate"
NUM_PROBLEMS, NUM_SAMPLES = 300, 4
VALIDATION_SEED = 3


def validation(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe's evaluation, on problems of the validation split."""
    task = recipe["evaluation"]["task"]
    task = {
        **task,
        "split": "validation",
        "num_examples": NUM_PROBLEMS,
        "seed": VALIDATION_SEED,
    }
    return {"task": task, "num_examples": NUM_PROBLEMS, "num_samples": NUM_SAMPLES}


def stage_recipe(recipe: dict[str, Any], name: str, folder: Path, seed: int) -> dict[str, Any]:
    """A stage of the pipeline as a recipe of its own, measured on validation problems."""
    stage = next(stage for stage in recipe["stages"] if stage["name"] == name)
    own = {key: value for key, value in stage.items() if key != "name"}
    shared = {"model": recipe["model"], "seed": seed, "output": str(folder)}
    return {**shared, "evaluation": validation(recipe), **own}


def execute(recipe: dict[str, Any]) -> float:
    """Run a recipe in its folder, anew; returns the seconds of processor time."""
    folder = Path(recipe["output"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return posttrain("run", str(path))


def setting_name(rate: float, steps: int) -> str:
    """The name under which the runs of a setting are kept."""
    return f"learning_rate={rate:g} max_steps={steps}"


def add(figures: Figures, name: str, seed: int, folder: Path, seconds: float) -> None:
    """Store what a run measured."""
    run = {"cpu_seconds": round(seconds, 1), "machine": machine_text(machine.describe())}
    figures.add(name, seed, {**run, "models": {"": counts_of(folder)}})
    print(f"{time.strftime('%H:%M:%S')} {name} seed {seed}: {seconds:.0f} s", flush=True)


def measure_before(seed: int, figures: Figures) -> Path:
    """The folder of the SFT stage of a seed, run where it is missing."""
    folder = WORK / f"sft-{seed}"
    if not (folder / "evaluation.json").exists() or str(seed) not in figures.runs.get("SFT", {}):
        recipe = yaml.safe_load(RECIPE.read_text())
        add(figures, "SFT", seed, folder, execute(stage_recipe(recipe, "sft", folder, seed)))
    return folder


def measure(rate: float, steps: int, seeds: int, figures: Figures) -> None:
    """Run what is missing of a setting."""
    name = setting_name(rate, steps)
    recipe = yaml.safe_load(RECIPE.read_text())
    for seed in range(seeds):
        if str(seed) in figures.runs.get(name, {}):
            continue
        before = measure_before(seed, figures)
        folder = WORK / f"grpo-{rate:g}-{steps}-{seed}"
        tried = stage_recipe(recipe, "grpo", folder, seed)
        tried |= {"learning_rate": rate, "max_steps": steps}
        tried["model"] = {**recipe["model"], "path": str(before / "model")}
        add(figures, name, seed, folder, execute(tried))


def measure_all(seeds: int, rates: list[float], steps: list[int], figures: Figures) -> None:
    """Every rate with the most steps, then the other numbers of steps with the best rate."""
    most = max(steps)
    for rate in rates:
        measure(rate, most, seeds, figures)
    best = max(rates, key=lambda rate: mean_accuracy(setting_name(rate, most), figures))
    for number in sorted(set(steps) - {most}):
        measure(best, number, seeds, figures)


def mean_accuracy(name: str, figures: Figures) -> float:
    """Of a setting, over its seeds."""
    return interval_of(figures.means(name))[0]


def choice(figures: Figures) -> str:
    """The setting with the highest mean accuracy, of those with the most seeds."""
    names = [name for name in figures.runs if name != "SFT"]
    most = max(len(figures.runs[name]) for name in names)
    complete = [name for name in names if len(figures.runs[name]) == most]
    return max(complete, key=lambda name: mean_accuracy(name, figures))


def table(figures: Figures) -> str:
    """The settings as Markdown, the chosen one in bold."""
    rows = [
        "| setting | seeds | accuracy on validation problems | seconds of one core |",
        "| --- | --- | --- | --- |",
    ]
    chosen = choice(figures)
    for name in ["SFT", *[name for name in figures.runs if name != "SFT"]]:
        mean, half = interval_of(figures.means(name))
        text = f"{percent(mean)} ({percent(mean - half)} to {percent(mean + half)})"
        title = f"**{name}**" if name == chosen else name
        seeds, seconds = len(figures.runs[name]), figures.cpu_seconds(name)
        rows.append(f"| {title} | {seeds} | {text} | {seconds:.0f} |")
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rates", default="5e-5,1e-4,2e-4", help="learning rates, by comma")
    parser.add_argument("--steps", default="60,100", help="numbers of steps, by comma")
    parser.add_argument("--table", action="store_true", help="print the table of what is measured")
    options = parser.parse_args(arguments)
    figures = Figures(RESULTS)
    if not options.table:
        rates = [float(rate) for rate in options.rates.split(",")]
        steps = [int(number) for number in options.steps.split(",")]
        measure_all(options.seeds, rates, steps, figures)
    print(table(figures))


if __name__ == "__main__":
    main()
