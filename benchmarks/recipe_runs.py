"""Runs of recipes with a seed, what they need first, and what is measured on them."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import machine
import yaml
from figures import DIGITS, HERE, Counts, Figures, Run, machine_text

ROOT = HERE.parent
WORK = HERE / ".work" / "recipes"
NUM_PROBLEMS, NUM_SAMPLES = 300, 4
EMBEDDED = ("embedded", "embedded-tools")
RUNS = "runs/"
"""Where recipes leave what other recipes read."""
COMMAND = re.compile(r"#\s{2,}((?:posttrain|python) .*)")
REMARK = re.compile(r"\s{2,}[#(].*$")
"""What stands behind a command: "  # why" or "  (how long)"."""


def recipes_in(places: Iterable[Path]) -> list[Path]:
    """The YAML files of files and folders, sorted."""
    files = [f for p in places for f in (sorted(p.glob("*.yaml")) if p.is_dir() else [p])]
    return [f.resolve() for f in files]


def name_of(recipe: Path) -> str:
    """A recipe's path below the repository, by which its runs are kept."""
    return str(recipe.resolve().relative_to(ROOT))


def evaluation_of(recipe: dict[str, Any]) -> dict[str, Any] | None:
    """What a recipe's model is measured on: its own evaluation, else its task's test split.

    None: held-out rows (`eval_data`) are its measure, or it has none.
    """
    if "evaluation" in recipe:
        return recipe["evaluation"]
    if "task" not in recipe or "eval_data" in recipe or recipe["method"] not in TRAINED_ON_TASKS:
        return None
    task = recipe["task"] if isinstance(recipe["task"], dict) else {"name": recipe["task"]}
    held_out = {**task, "split": "test", "num_examples": NUM_PROBLEMS, "seed": 1}
    return {"task": held_out, "num_examples": NUM_PROBLEMS, "num_samples": NUM_SAMPLES}


TRAINED_ON_TASKS = ("sft", "grpo", "ppo", "distill", "online_dpo", "spin", "self_training")


def unmeasured(recipe: dict[str, Any], settings: dict[str, str]) -> str | None:
    """Why a recipe cannot be measured, None where it can.

    A model or a file of the user's has to be named in the settings; a recipe that only writes rows
    has nothing to measure.
    """
    if (recipe.get("model") or {}).get("init") == "random":
        return "it builds the model that the others start from"
    for place in ("model.path", "teacher.path", "data.path", "eval_data.path", "task.path"):
        key, part = place.split(".")
        value = recipe.get(key)
        path = value.get(part) if isinstance(value, dict) else value if key != "task" else None
        if path is None or place in settings:
            continue
        if path not in EMBEDDED and not path.startswith(RUNS):
            return f"{place}: {path} is the user's; set {place}=..."
    measured = recipe["method"] == "evaluate_reward" or "eval_data" in recipe
    return None if measured or evaluation_of(recipe) else "it has no held-out measure"


def inputs_of(value: Any, key: str = "") -> list[str]:
    """The paths below runs/ that a recipe reads."""
    if isinstance(value, dict):
        return [path for k, v in value.items() for path in inputs_of(v, k)]
    if isinstance(value, list):
        return [path for part in value for path in inputs_of(part)]
    return [value] if key != "output" and isinstance(value, str) and value.startswith(RUNS) else []


def commands_before(text: str, name: str) -> list[str]:
    """The commands that a recipe's header shows before the first one that runs the recipe."""
    commands: list[str] = []
    goes_on = False
    for row in text.split("\n"):
        if not row.startswith("#"):
            break
        match = COMMAND.match(row)
        if match is None and not goes_on:
            continue
        part = REMARK.sub("", match[1] if match else row.removeprefix("#").strip())
        whole = f"{commands.pop()} {part.strip()}" if goes_on else part.strip()
        goes_on = whole.endswith("\\")
        commands.append(whole.removesuffix("\\").strip())
    own = next((i for i, c in enumerate(commands) if name in c), len(commands))
    return commands[:own]


def prepare(recipe: Path) -> None:
    """Make what a recipe reads from runs/, where it is missing, by the commands of its header.

    Raises:
        SystemExit: a command failed, or the commands leave something out.
    """
    paths = inputs_of(yaml.safe_load(recipe.read_text()))
    if all((ROOT / path).exists() for path in paths):
        return
    for command in commands_before(recipe.read_text(), name_of(recipe)):
        for named in re.findall(r"recipes/\S+\.yaml", command):
            prepare(ROOT / named)
        program, *arguments = shlex.split(command)
        module = ["-m", "posttrain"] if program == "posttrain" else []
        print(f"{time.strftime('%H:%M:%S')} {command}", flush=True)
        process([sys.executable, *module, *arguments])
    if missing := [path for path in paths if not (ROOT / path).exists()]:
        raise SystemExit(
            f"{name_of(recipe)}: {missing[0]} is missing, and the commands of its header do not "
            "leave it; show there how it is made"
        )


def process(command: list[str]) -> float:
    """Run a command in one thread; returns the seconds of processor time that it took.

    Raises:
        SystemExit: it failed; with its last lines.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(ROOT / "src")
    started = subprocess.Popen(
        command,
        env=environment,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert started.stdout is not None
    output = started.stdout.read()
    _, status, usage = os.wait4(started.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{output[-3000:]}")
    return usage.ru_utime + usage.ru_stime


def posttrain(*arguments: str) -> float:
    """Run the command line; returns the seconds of processor time that it took."""
    return process([sys.executable, "-m", "posttrain", *arguments])


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


def held_out_numbers(folder: Path) -> dict[str, dict[str, float]]:
    """The metrics of held-out rows before the first and after the last step, from metrics.jsonl."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    measured = [{k: v for k, v in x.items() if k.startswith("eval_")} for x in lines]
    with_values = [numbers for numbers in measured if numbers]
    return {"before": with_values[0], "after": with_values[-1]}


def reward_numbers(folder: Path) -> dict[str, dict[str, float]]:
    """Accuracy on rows, and gold reward of the best of N, from reward_evaluation.json."""
    measured = json.loads((folder / "reward_evaluation.json").read_text())
    numbers = {f"best_of_{point['n']}": point["gold"] for point in measured["best_of"]["curve"]}
    if "data" in measured:
        numbers["eval_accuracy"] = measured["data"]["accuracy"]["estimate"]
    return {"after": numbers}


def measured_in(recipe: dict[str, Any], folder: Path) -> Run:
    """What a finished run of a recipe measured."""
    if evaluation_of(recipe) is not None:
        return {"models": models_of(folder)}
    if recipe["method"] == "evaluate_reward":
        return {"numbers": reward_numbers(folder)}
    return {"numbers": held_out_numbers(folder)}


def base_name(evaluation: dict[str, Any]) -> str:
    """The name under which the base model's figure for an evaluation is kept."""
    task = evaluation["task"]
    left_out = ("name", "split", "seed", "num_examples")
    settings = [f"{k}={v}" for k, v in sorted(task.items()) if k not in left_out]
    counts = f"{evaluation['num_examples']}x{evaluation['num_samples']}"
    return " ".join(["base", task["name"], *settings, counts])


def run(recipe: Path, seed: int, figures: Figures, settings: dict[str, str]) -> None:
    """Train a recipe with a seed and measure it. settings: keys in place of the recipe's own."""
    name, raw = name_of(recipe), yaml.safe_load(recipe.read_text())
    folder = WORK / f"{recipe.stem}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # left by a measurement that was stopped
    own = [f"{key}={value}" for key, value in settings.items()]
    if "evaluation" not in raw and (evaluation := evaluation_of(raw)) is not None:
        own.append(f"evaluation={json.dumps(evaluation)}")
    seconds = posttrain("run", name, f"seed={seed}", f"output={folder}", *own)
    record: Run = {
        "cpu_seconds": round(seconds, 1),
        "machine": machine_text(machine.describe()),
        **measured_in(raw, folder),
    }
    if settings:
        record["with"] = {key: Path(value).name for key, value in settings.items()}
    figures.add(name, seed, record)
    print(f"{time.strftime('%H:%M:%S')} {name} seed {seed}: {seconds:.0f} s", flush=True)


def measure_base(recipe: Path, figures: Figures) -> None:
    """The base model's accuracy where the recipe does not measure it itself."""
    raw = yaml.safe_load(recipe.read_text())
    evaluation = evaluation_of(raw)
    if evaluation is None or "stages" in raw or base_name(evaluation) in figures.runs:
        return
    name = base_name(evaluation)
    folder = WORK / name.replace(" ", "_")
    shutil.rmtree(folder, ignore_errors=True)
    settings = [f"task.{k}={v}" for k, v in evaluation["task"].items() if k != "name"]
    counts = [f"evaluation.{k}={evaluation[k]}" for k in ("num_examples", "num_samples")]
    task, model = evaluation["task"]["name"], ["--model", "embedded", "--output", str(folder)]
    seconds = posttrain("eval", "--task", task, *model, *settings, *counts, "model.dtype=float32")
    record = {"cpu_seconds": round(seconds, 1), "machine": machine_text(machine.describe())}
    figures.add(name, 0, {**record, "models": models_of(folder)})
