"""The paragraph of a recipe's header that says what was measured."""

from __future__ import annotations

import re
import statistics
import textwrap
from pathlib import Path
from typing import Any

import yaml
from figures import Figures, half_of_seeds, interval_of, percent
from recipe_runs import base_name, evaluation_of, name_of

MARK = re.compile(r"# Held-out (accuracy|rows|problems), \d+ seeds, ")
LEAST_SEEDS, LEAST_SEEDS_LONG, LONG_SECONDS = 5, 3, 180
"""Seeds that a header needs, also where one run takes more seconds of processor time."""
WORDS = {
    "eval_loss": "loss",
    "eval_accuracy": "accuracy",
    "eval_auc": "area under the curve",
    "eval_first_error_f1": "F1 of the first error",
}
"""Metrics that a header shows, in its order."""


def least_seeds(name: str, figures: Figures) -> int:
    """How many seeds a header of a recipe needs."""
    long = name in figures.runs and figures.cpu_seconds(name) > LONG_SECONDS
    return LEAST_SEEDS_LONG if long else LEAST_SEEDS


def sentence(recipe: Path, figures: Figures) -> list[str]:
    """The lines of a header that say what was measured.

    Raises:
        SystemExit: too few seeds are measured.
    """
    name, raw = name_of(recipe), yaml.safe_load(recipe.read_text())
    seeds, least = len(figures.runs.get(name, {})), least_seeds(name, figures)
    if seeds < least:
        raise SystemExit(
            f"{name}: {seeds} of {least} seeds are measured; run this without --write first"
        )
    evaluation = evaluation_of(raw)
    if evaluation is not None:
        text = _accuracy_text(name, raw, evaluation, figures)
    elif raw["method"] == "evaluate_reward":
        text = _best_of_text(name, raw, figures)
    else:
        text = _rows_text(name, figures)
    return [f"# {line}" for line in textwrap.wrap(f"{text} {_cost_text(name, figures)}", 98)]


def with_sentence(text: str, lines: list[str]) -> str:
    """A recipe's text with its paragraph of figures replaced, or put at the end of its header."""
    rows = text.split("\n")
    end = next(i for i, row in enumerate(rows) if not row.startswith("#"))
    start = next((i for i in range(end) if MARK.match(rows[i])), None)
    if start is None:
        return "\n".join([*rows[:end], "#", *lines, *rows[end:]])
    stop = next((i for i in range(start, end) if rows[i].rstrip() == "#"), end)
    return "\n".join([*rows[:start], *lines, *rows[stop:]])


def _accuracy_text(
    name: str, raw: dict[str, Any], evaluation: dict[str, Any], figures: Figures
) -> str:
    rows = [(title, figures.means(name, title)) for title in figures.titles(name)]
    if "stages" not in raw:
        rows = [("base model", figures.means(base_name(evaluation))), (raw["title"], rows[0][1])]
    texts = []
    for title, means in rows:
        mean, half = interval_of(means)
        texts.append(f"{title} {percent(mean)} ({percent(mean - half)} to {percent(mean + half)})")
    number = evaluation.get("num_samples", 1)
    unit = "episode" if evaluation.get("environment") else "sample"
    split = evaluation["task"].get("split")
    return (
        f"Held-out accuracy, {len(figures.runs[name])} seeds, means with 95 % intervals: "
        f"{', '.join(texts)}. {number} {unit}{'s' * (number > 1)} at temperature 1 for each of "
        f"{evaluation['num_examples']} problems{f' of the {split} split' if split else ''};"
    )


def _rows_text(name: str, figures: Figures) -> str:
    numbers = figures.first(name)["numbers"]
    texts = []
    for key in [key for key in WORDS if key in numbers["after"]]:
        before = statistics.fmean(figures.numbers(name, "before", key))
        after = _with_interval(figures.numbers(name, "after", key), key)
        texts.append(f"{WORDS[key]} {_number(before, key)} before training and {after} after")
    settings = figures.first(name).get("with", {})
    named = " ".join(f"{key}={value}" for key, value in settings.items())
    return (
        f"Held-out rows, {len(figures.runs[name])} seeds, means with 95 % intervals over seeds"
        f"{f', with {named}' if named else ''}: {'; '.join(texts)}."
    )


def _best_of_text(name: str, raw: dict[str, Any], figures: Figures) -> str:
    keys = [key for key in figures.first(name)["numbers"]["after"] if key.startswith("best_of_")]
    texts = []
    for key in sorted(keys, key=lambda key: int(key.rpartition("_")[2])):
        mean = _with_interval(figures.numbers(name, "after", key), "eval_accuracy")
        texts.append(f"N = {key.rpartition('_')[2]} {mean}")
    return (
        f"Held-out problems, {len(figures.runs[name])} seeds, means with 95 % intervals over "
        f"seeds of sampling, with one reward model: accuracy of the best of N by score, "
        f"{', '.join(texts)}. {raw['task']['num_examples']} problems of the test split;"
    )


def _with_interval(values: list[float], key: str) -> str:
    mean, half = statistics.fmean(values), half_of_seeds(values)
    return f"{_number(mean, key)} ({_number(mean - half, key)} to {_number(mean + half, key)})"


def _number(value: float, key: str) -> str:
    return percent(value) if key == "eval_accuracy" else f"{value:.3f}"


def _cost_text(name: str, figures: Figures) -> str:
    return (
        f"about {figures.cpu_seconds(name):.0f} s of one core of an "
        f"{' and an '.join(figures.machines(name))} for each seed, evaluation included "
        "(benchmarks/recipe_figures.py)."
    )
