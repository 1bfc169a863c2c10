"""Every search strategy on three tasks at equal tokens, with intervals, as a page of the reference.

    .venv/bin/python benchmarks/search_table.py [--model embedded] [--budget 256] [--problems 200]
        [--critic FOLDER] [--amateur MODEL]

Arithmetic of three steps, countdown and Game of 24. A strategy runs with its default settings, and
samples at most the budget per problem, all its discarded tokens included, at temperature 0.8; what
is cut counts as not ended. Strategies that ask for a score run with the reward of `--scorer`, and
say so; a reward model is `--scorer '{name: reward_model, path: FOLDER}'`. `--critic` names a model
beside which a critic was trained, such as `runs/oreo/oreo` of recipes/offline/oreo.yaml, and
value_beam and best_of_actions run with that critic; `--amateur` is the weaker model of
contrastive_decoding. What cannot run on the model is listed with the reason. The difference to
plain sampling is paired over problems. Writes docs/results/search_table.md, and the numbers into
`--folder`.
(docs/reference is written anew by every build of the site.)
Every evaluation is kept in `--folder`, so that an interrupted table goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import yaml
from machine import describe

import posttrain as pt
from posttrain import registry
from posttrain.errors import PosttrainError
from posttrain.evaluation.comparison import compare
from posttrain.evaluation.outcomes import read_evaluation
from posttrain.models.spec import model_spec

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "search_table.md"
BASELINE = "sample"

TASKS: dict[str, dict[str, Any]] = {
    "arithmetic": {"name": "arithmetic", "num_steps": 3, "split": "test"},
    "countdown": {"name": "countdown", "num_numbers": 3, "seed": 1},
    "game24": {"name": "game24", "split": "test"},
}


def strategies_of(names: list[str] | None) -> list[str]:
    """All registered strategies, the baseline first."""
    every = registry.searches.names()
    unknown = sorted(set(names or ()) - set(every))
    if unknown:
        raise SystemExit(f"no such strategies: {', '.join(unknown)}")
    chosen = [n for n in every if not names or n in names]
    return [BASELINE, *(n for n in chosen if n != BASELINE)]


def cell(model: Any, task: str, search: str, options: argparse.Namespace) -> Any:
    """The evaluation of a strategy on a task, with its seconds, or why there is none."""
    settings = {**TASKS[task], "num_examples": options.problems}
    if task == "game24" and options.game24:
        settings |= {"path": options.game24, "split": "all", "first_row": 900}
    kept = options.folder / f"{task}-{search}.json"
    if kept.is_file():
        return read_evaluation(kept), json.loads(kept.read_text())["seconds"]
    inputs = registry.searches.entry(search).inputs
    started = time.process_time()
    try:
        result = pt.evaluate(
            model,
            settings,
            search=search,
            scorer=options.scorer if "score" in inputs else None,
            amateur=options.amateur if "amateur" in inputs else None,
            budget=options.budget,
            num_examples=options.problems,
            sampling={"temperature": options.temperature},
            seed=options.seed,
        )
    except PosttrainError as error:
        return str(error)
    if result.failures:
        return f"{len(result.failures)} searches failed: {result.failures[0]}"
    seconds = time.process_time() - started
    options.folder.mkdir(parents=True, exist_ok=True)
    result.save(kept, seconds=seconds)
    return result, seconds


def critic_of(folder: str) -> Any:
    """The critic that was trained with the model of a folder."""
    spec = model_spec(folder)
    if not spec.has_critic:
        raise SystemExit(
            f"--critic: there is no {spec.place}/critic; train one with method offline"
        )
    return spec.load_critic()


def row_of(name: str, done: Any, baseline: Any) -> tuple[str, dict[str, Any]]:
    """A row of a task's table, and its numbers."""
    result, seconds = done
    x = result.accuracy()
    tokens = result.accounts["sampled_tokens"]
    values = {
        "accuracy": x.estimate,
        "low": x.low,
        "high": x.high,
        "tokens": tokens,
        "seconds": seconds / max(len(result.outcomes), 1),
        "scorer": None if result.scorer is None else result.scorer["name"],
        "oracle": bool(result.oracle),
    }
    against = ""
    if name != BASELINE and baseline is not None:
        found = compare(baseline, result)
        d = found.difference
        against = f"{d.estimate:+.1%} [{d.low:+.1%}, {d.high:+.1%}]"
        values["against_sample"] = {"estimate": d.estimate, "p_value": found.p_value}
    shown = name if result.scorer is None else f"{name} (by {result.scorer['name']})"
    row = (
        f"| {shown} | {x.estimate:.1%} [{x.low:.1%}, {x.high:.1%}] | {against} | {tokens:.0f} | "
        f"{values['seconds']:.2g} |"
    )
    return row, values


def page_of(sections: dict[str, list[str]], absent: dict[str, str], text: str) -> str:
    """The page: a table per task, and what could not run."""
    lines = ["---", "orphan: true", "---", "", "# Every search at equal tokens", "", text, ""]
    for task, rows in sections.items():
        lines += [f"## {task}", ""]
        lines += ["| Strategy | Accuracy [95 %] | Against one sample, paired | Tokens | s |"]
        lines += ["|---|---|---|---|---|", *rows, ""]
    if absent:
        lines += ["## Not run", "", *(f"- {name}: {why}" for name, why in absent.items()), ""]
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the page after each task."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--budget", type=int, default=256, help="sampled tokens per problem")
    parser.add_argument("--problems", type=int, default=200, help="per task")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--scorer", default="length", help="of strategies that ask for a score")
    parser.add_argument("--critic", help="folder of a model with a critic beside it")
    parser.add_argument("--amateur", help="weaker model of the same vocabulary")
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--only", action="append", help="a strategy; may be repeated")
    parser.add_argument("--game24", help="file of puzzles, of which rows 900 on are taken")
    parser.add_argument("--output", type=Path, default=PAGE)
    parser.add_argument("--folder", type=Path, help="of evaluations (runs/search_table/...)")
    options = parser.parse_args()
    options.scorer = yaml.safe_load(options.scorer)
    if options.folder is None:
        name = f"{Path(options.model).name}-{options.budget}-{options.problems}-{options.seed}"
        options.folder = ROOT / "runs" / "search_table" / name
    model = pt.load(options.model)
    if options.critic:
        model.critic = critic_of(options.critic)
    sections: dict[str, list[str]] = {}
    numbers: dict[str, Any] = {}
    absent: dict[str, str] = {}
    text = (
        f"Model {options.model}, {options.problems} problems per task, at most {options.budget} "
        f"sampled tokens per problem with all that is discarded, temperature "
        f"{options.temperature:g}, default settings, seed {options.seed}. Searches that ask for a "
        f"score choose by the reward `{options.scorer}`. Critic: {options.critic or 'none'}; "
        f"amateur: {options.amateur or 'none'}. Seconds are processor seconds per problem, "
        f"all problems side by side, on {describe()['processor']}. Made by "
        "`benchmarks/search_table.py`."
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        baseline = None
        sections[task] = []
        for name in strategies_of(options.only):
            done = cell(model, task, name, options)
            if isinstance(done, str):
                absent[name] = " ".join(done.split())[:200]
                continue
            if name == BASELINE:
                baseline = done[0]
            row, numbers[f"{task} {name}"] = row_of(name, done, baseline)
            sections[task].append(row)
            print(row, flush=True)
        options.output.write_text(page_of(sections, absent, text))
        options.folder.mkdir(parents=True, exist_ok=True)
        (options.folder / "table.json").write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
