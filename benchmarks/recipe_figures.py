"""Held-out figures of recipes over several seeds, and the sentence that says them in their headers.

    .venv/bin/python benchmarks/recipe_figures.py recipes/policy_gradient [--seeds 5] [--jobs 2]
    .venv/bin/python benchmarks/recipe_figures.py recipes/sft_text.yaml --set data.path=FILE ...
    .venv/bin/python benchmarks/recipe_figures.py recipes --write

Every run is a process of one thread: `posttrain run RECIPE seed=S`. A recipe with `evaluation` is
measured as it says, each stage of a pipeline by itself; one with `eval_data` on those rows, before
and after training; a reward model's evaluation by what it reports; any other on 300 problems of its
task's test split, which no recipe trains on. What a recipe reads from runs/ is made by the commands
that its header shows, once for all seeds.

Results go to results/recipes.json as they come. A run that is there is not repeated. `--write` puts
the figures into the headers of the recipes that have enough seeds: five, or three where a run takes
more than three minutes. A recipe that needs the user's model or rows is left out, unless --set
names them.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from figures import Figures
from recipe_header import least_seeds, sentence, with_sentence
from recipe_runs import measure_base, name_of, prepare, recipes_in, run, unmeasured


def write(recipes: list[Path], figures: Figures) -> None:
    """Put the figures into the headers of the recipes that have enough seeds."""
    for recipe in recipes:
        name = name_of(recipe)
        seeds, least = len(figures.runs.get(name, {})), least_seeds(name, figures)
        if seeds >= least:
            recipe.write_text(with_sentence(recipe.read_text(), sentence(recipe, figures)))
        else:
            print(f"{name}: not written, {seeds} of {least} seeds are measured")


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, or write the headers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("places", nargs="+", type=Path, help="recipes, or folders of them")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="in place of the recipe's values"
    )
    parser.add_argument(
        "--write", action="store_true", help="put the figures into the recipes' headers"
    )
    options = parser.parse_args(arguments)
    figures, recipes = Figures(), recipes_in(options.places)
    if options.write:
        write(recipes, figures)
        return
    settings = dict(item.split("=", 1) for item in options.set)
    chosen = []
    for recipe in recipes:
        reason = unmeasured(yaml.safe_load(recipe.read_text()), settings)
        if reason is None:
            chosen.append(recipe)
        else:
            print(f"{name_of(recipe)}: not measured: {reason}", flush=True)
    for recipe in chosen:
        prepare(recipe)
        measure_base(recipe, figures)
    # Seed by seed, so that an interrupted measurement has the same seeds of all recipes.
    jobs = [(r, s) for s in range(options.seeds) for r in chosen]
    jobs = [(r, s) for r, s in jobs if str(s) not in figures.runs.get(name_of(r), {})]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda job: run(*job, figures, settings), jobs))


if __name__ == "__main__":
    main()
