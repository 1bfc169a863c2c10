"""The commands: what each takes and does. All of them are thin callers of the modules beside."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from posttrain import registry
from posttrain.cli import continual, data, explain, hacking, init, plan, runs, search, serve
from posttrain.cli import help as pages
from posttrain.cli.arguments import MODEL, evaluation_recipe, own_recipe, recipe_of
from posttrain.cli.parser import Command
from posttrain.config import Recipe
from posttrain.recipe import load_recipe
from posttrain.registry import Entry
from posttrain.terminal import echo

_MODES = (
    ("--check", "make every check that needs no weights, then stop"),
    ("--dry-run", "check, show the whole recipe with its defaults, then stop"),
)


def command_line() -> str:
    """The command as the user wrote it, for the run's folder."""
    return " ".join(["posttrain", *sys.argv[1:]])


def _add_modes(parser: argparse.ArgumentParser, *, preview: bool = True) -> None:
    for flag, text in _MODES:
        parser.add_argument(flag, action="store_true", help=text)
    if preview:
        parser.add_argument(
            "--preview", action="store_true", help="show what is trained on, then stop"
        )
        parser.add_argument("--num", type=int, default=3, help="rows that --preview shows")


def _perform(recipe: Recipe, options: argparse.Namespace) -> int:
    """Run a recipe, or only check or show it as the flags say."""
    if getattr(options, "preview", False):
        runs.preview(recipe, options.num)
    elif options.dry_run:
        runs.dry_run(recipe)
    elif options.check:
        runs.check(recipe)
    else:
        runs.execute(recipe, command_line())
    return 0


# -- recipes


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "posttrain run RECIPE [key=value ...] [--check | --preview | --dry-run]"
    _add_modes(parser)


def _run(options: argparse.Namespace) -> int:
    return _perform(load_recipe(options.recipe, options.overrides), options)


def _mode_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    call = f"posttrain {name}"
    parser.usage = f"{call} RECIPE [key=value ...]\n       {call} METHOD --model M ..."
    parser.add_argument("--model", help=MODEL)
    parser.add_argument("--data", help="rows: a file, a folder or a hub id")
    parser.add_argument("--task", help="task that gives prompts and grades")
    parser.add_argument("--output", help="folder of the run")
    if name == "preview":
        parser.add_argument("--num", type=int, default=3, help="rows to show")


def _check(options: argparse.Namespace) -> int:
    runs.check(recipe_of(options))
    return 0


def _preview(options: argparse.Namespace) -> int:
    runs.preview(recipe_of(options), options.num)
    return 0


def _resume_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "posttrain resume RUN [key=value ...] [--accept NAME] [--check]"
    parser.add_argument(
        "--accept",
        action="append",
        default=[],
        metavar="NAME",
        help="accept a change that an uninterrupted run would not have, such as learning_rate "
        "or data",
    )
    parser.add_argument("--check", action="store_true", help=_MODES[0][1])


def _resume(options: argparse.Namespace) -> int:
    runs.resume(
        Path(options.run),
        options.overrides,
        options.accept,
        command_line(),
        only_check=options.check,
    )
    return 0


# -- methods


def _method_arguments(entry: Entry, parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help=MODEL)
    parser.add_argument("--data", help="rows: a file, a folder or a hub id")
    if "task" in entry.settings:
        parser.add_argument("--task", help="task that gives prompts and grades")
    parser.add_argument("--output", help=f"folder of the run (runs/{entry.name})")
    _add_modes(parser)


def _method_page(entry: Entry) -> str:
    """The help of a method's command."""
    needs = "--model M"
    if "task" in entry.settings and "data" in entry.settings:
        needs += " --data FILE|--task T"
    elif "task" in entry.settings:
        needs += " --task T|--data FILE"
    else:
        needs += " --data FILE"
    parser = argparse.ArgumentParser(add_help=False)
    _method_arguments(entry, parser)
    flags = [
        (f"{a.option_strings[0]}{'' if a.nargs == 0 else f' {a.dest.upper()}'}", a.help or "")
        for a in parser._actions
    ]
    return pages.method_page(entry, f"{needs} [key=value ...]", flags)


def _method(options: argparse.Namespace) -> int:
    return _perform(own_recipe(options.command, options), options)


# -- evaluation


def _eval_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "posttrain eval --model M --task T [key=value ...]"
    parser.epilog = (
        "changes: task.KEY=VALUE for a setting of the task, num_examples=, num_samples=, "
        "temperature=, max_tokens=, search=, scorer= ... `posttrain explain settings "
        "EvaluationConfig` lists the keys of evaluation."
    )
    parser.add_argument("--model", help=MODEL)
    parser.add_argument("--task", help="task whose problems are answered")
    parser.add_argument("--output", help="folder for evaluation.json (runs/evaluate)")
    _add_modes(parser, preview=False)


def _eval(options: argparse.Namespace) -> int:
    return _perform(evaluation_recipe(options), options)


def _compare(options: argparse.Namespace) -> int:
    from posttrain.evaluation.comparison import compare_files

    echo(compare_files(Path(options.first), Path(options.second)))
    return 0


# -- using a model


def _writing_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system", help="system message")
    parser.add_argument("--seed", type=int, default=0, help="seed of the completions (0)")


def _chat_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "posttrain chat MODEL [--system TEXT] [key=value ...]"
    parser.epilog = (
        "changes: temperature=, top_p=, top_k=, min_p=, max_tokens=, dtype=, device= ..."
    )
    _writing_arguments(parser)


def _chat(options: argparse.Namespace) -> int:
    from posttrain.cli import chat

    return chat.chat(options.model, options.overrides, system=options.system, seed=options.seed)


def _generate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "posttrain generate MODEL --prompt TEXT | --data FILE [key=value ...]"
    parser.epilog = (
        "changes: temperature=, top_p=, top_k=, min_p=, max_tokens=, dtype=, device= ..."
    )
    parser.add_argument("--prompt", action="append", default=[], help="a prompt; may be repeated")
    parser.add_argument("--data", help="rows with a column prompt, question or messages")
    parser.add_argument("--limit", type=int, help="rows of --data to read")
    parser.add_argument("--num", type=int, default=1, help="completions per prompt (1)")
    parser.add_argument("--output", help="file for the rows, as JSONL (standard output)")
    _writing_arguments(parser)


def _generate(options: argparse.Namespace) -> int:
    from posttrain.cli import generate

    return generate.generate(options)


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "posttrain report RUN [RUN ...] [--output FILE]"
    parser.add_argument("--output", help="file to write (report.html in the run's folder)")


def _report(options: argparse.Namespace) -> int:
    from posttrain.report.html import write_report

    target = Path(options.output) if options.output else None
    echo(f"wrote {write_report([Path(run) for run in options.run], target)}")
    return 0


def _init_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "posttrain init METHOD [FILE] [--model M] [--data D | --task T] [--force]"
    parser.add_argument("--model", help="folder, run, hub id, or embedded")
    parser.add_argument("--data", help="your rows, in place of a few sample rows")
    parser.add_argument("--task", help="the task, where the method takes one")
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")


def _init(options: argparse.Namespace) -> int:
    flags = {name: getattr(options, name) for name in ("model", "data", "task")}
    values = {name: value for name, value in flags.items() if value is not None}
    return init.init(options.method, options.file, force=options.force, values=values)


def _lookup_arguments(usage: str, parser: argparse.ArgumentParser) -> None:
    parser.usage = usage
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="a Python file to include"
    )


def _usage(text: str, parser: argparse.ArgumentParser) -> None:
    parser.usage = text


def _commands() -> dict[str, Command]:
    return {**_recipe_commands(), **_method_commands(), **_model_commands(), **_lookup_commands()}


def _recipe_commands() -> dict[str, Command]:
    recipe = ("recipe",)
    return {
        "run": Command("recipes", "run a recipe", _run, _run_arguments, recipe, changes=True),
        "check": Command(
            "recipes",
            "check a recipe or a method's arguments without loading weights",
            _check,
            partial(_mode_arguments, "check"),
            recipe,
            changes=True,
        ),
        "preview": Command(
            "recipes",
            "show what is trained on, token by token",
            _preview,
            partial(_mode_arguments, "preview"),
            recipe,
            changes=True,
        ),
        "plan": plan.COMMAND,
        "resume": Command(
            "recipes",
            "continue a run from its last checkpoint, or train it longer",
            _resume,
            _resume_arguments,
            ("run",),
            changes=True,
        ),
        "init": Command(
            "recipes",
            "write a commented recipe of a method",
            _init,
            _init_arguments,
            ("method", "file?"),
        ),
    }


def _method_commands() -> dict[str, Command]:
    commands = {}
    for name, entry in registry.methods.entries().items():
        if {"data", "task"} & entry.settings.keys():
            commands[name] = Command(
                _group(entry),
                pages.summary(entry.doc),
                _method,
                partial(_method_arguments, entry),
                ("recipe?",),
                changes=True,
                page=partial(_method_page, entry),
            )
    return commands


def _model_commands() -> dict[str, Command]:
    return {
        "data": data.command(),
        "eval": Command(
            "evaluate",
            "measure a model on a task: accuracy, pass@k, maj@k",
            _eval,
            _eval_arguments,
            changes=True,
        ),
        **search.commands(_perform),
        **hacking.commands(),
        "continual": continual.command(_perform, partial(_add_modes, preview=False)),
        "compare": Command(
            "evaluate",
            "compare two evaluations of the same problems, paired",
            _compare,
            partial(_usage, "posttrain compare EVALUATION EVALUATION"),
            ("first", "second"),
        ),
        "chat": Command(
            "use a model",
            "talk to a model in the terminal",
            _chat,
            _chat_arguments,
            ("model",),
            changes=True,
        ),
        "serve": Command(
            "use a model",
            "answer requests of OpenAI's protocol over HTTP",
            serve.serve,
            serve.arguments,
            ("model",),
            changes=True,
        ),
        "generate": Command(
            "use a model",
            "write completions of prompts as JSONL",
            _generate,
            _generate_arguments,
            ("model",),
            changes=True,
        ),
    }


def _lookup_commands() -> dict[str, Command]:
    return {
        "report": Command(
            "look up",
            "write report.html of a run, or a page that compares several",
            _report,
            _report_arguments,
            ("run+",),
        ),
        "ls": Command(
            "look up",
            "list losses, advantages, rewards, searches, tasks, environments, methods",
            explain.ls,
            partial(_lookup_arguments, "posttrain ls [KIND] [--plugin FILE]"),
            ("kind?",),
        ),
        "explain": Command(
            "look up",
            "explain a function or a section of settings",
            explain.explain,
            partial(_lookup_arguments, "posttrain explain KIND NAME [--plugin FILE]"),
            ("kind", "name"),
        ),
    }


_EXAMPLES = ("sft", "classifier", "distill", "sdft", "self_training", "weak_data", "offline")
_LOOPS = ("active", "continual_pretraining")
_LEARNING = dict.fromkeys(_EXAMPLES + _LOOPS, "learn from examples")
_LEARNING |= dict.fromkeys(("grpo", "ppo"), "learn from rewards")


def _group(entry: Entry) -> str:
    """The heading of a method in help, by what it learns from or writes."""
    if entry.name.startswith("evaluate"):
        return "evaluate"
    writes = "trains" not in entry.declared
    return _LEARNING.get(entry.name, "make data" if writes else "learn from preferences")


COMMANDS = _commands()
"""All commands by name, in the order of their groups."""
