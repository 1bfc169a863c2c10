"""The command line. Parsing imports nothing heavy: `posttrain --help` answers at once."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from posttrain import __version__
from posttrain.errors import ConfigError, PosttrainError, nearest
from posttrain.registry import methods
from posttrain.terminal import echo, visible, write

DESCRIPTION = (
    "From base model to reasoner: fine-tuning, reinforcement learning and test-time scaling."
)

EPILOG = """\
examples:
  posttrain run recipes/quickstart.yaml                      a whole pipeline on the embedded model
  posttrain run recipes/grpo_gsm8k_qwen3.yaml seed=1 model.path=Qwen/Qwen3-1.7B
  posttrain sft --model ./my-model --data rows.jsonl learning_rate=1e-5
  posttrain check recipes/grpo_gsm8k_qwen3.yaml              every check that needs no weights
  posttrain explain losses clipped
"""


class _Parser(argparse.ArgumentParser):
    """Names a flag that it does not know before it asks for one that is missing, which is often
    the same one.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does; an unknown flag ends the process with status 2."""
        for given in sys.argv[1:] if args is None else args:
            flag = given.partition("=")[0]
            if flag == "--" or (self._subparsers is not None and not flag.startswith("-")):
                break  # what follows is no flag, or the command's own
            known = [option for option in self._option_string_actions if option.startswith("--")]
            if flag.startswith("--") and not any(option.startswith(flag) for option in known):
                keys = any(action.dest == "overrides" for action in self._actions)
                hint = f". A key of the recipe is given as {flag.lstrip('-')}=VALUE" if keys else ""
                self.error(f"there is no flag {flag}: {nearest(flag, known)}{hint}")
        return super().parse_known_args(args, namespace)


def build_parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    parser = _Parser(
        "posttrain",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"posttrain {__version__}")
    parser.add_argument(
        "--traceback", action="store_true", help="show the whole traceback of an error"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    for name, text in (
        ("run", "run a recipe"),
        ("check", "check a recipe without loading weights: keys, files, masks, rewards"),
        ("preview", "show what a recipe trains on, token by token, in colour"),
    ):
        sub = command(name, text)
        sub.add_argument("recipe", help="a YAML file")
        sub.add_argument(
            "overrides",
            nargs="*",
            metavar="key=value",
            help="changes to the recipe; dotted keys reach inside",
        )
        if name == "preview":
            sub.add_argument("--num", type=int, default=3, help="rows to show")
    sub = command(
        "resume",
        "go on with a run from its last checkpoint; a finished one is trained on with "
        "max_steps=...",
    )
    sub.add_argument("run", help="the run's folder")
    sub.add_argument(
        "--accept",
        action="append",
        default=[],
        metavar="NAME",
        help="make a change from here on that an undisturbed run would not have made, such as "
        "learning_rate or data",
    )
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="changes, such as max_steps")
    for name, entry in methods.entries().items():
        if not {"data", "task"} & entry.settings.keys():
            continue
        sub = command(name, entry.summary)
        sub.add_argument("--model", help="folder or hub id of the model", required=True)
        needs_data = "data" in entry.settings and "task" not in entry.settings
        sub.add_argument("--data", help="file, folder or hub id of the rows", required=needs_data)
        if "task" in entry.settings:
            sub.add_argument("--task", help="task that gives prompts and reward")
        sub.add_argument("--output", help="folder of the run", default=f"runs/{name}")
        sub.add_argument(
            "overrides", nargs="*", metavar="key=value", help="any other key of a recipe"
        )
    sub = command("eval", "measure a model on a task: accuracy, pass@k, maj@k with intervals")
    sub.add_argument("--model", required=True, help="folder or hub id of the model")
    sub.add_argument("--task", required=True, help="task name; its settings as task.KEY=VALUE")
    sub.add_argument("--output", help="folder for evaluation.json")
    sub.add_argument("overrides", nargs="*", metavar="key=value")
    sub = command("compare", "compare two evaluations of the same problems, paired")
    sub.add_argument("first", help="run folder or evaluation.json")
    sub.add_argument("second", help="run folder or evaluation.json")
    sub = command("report", "write report.html of a run")
    sub.add_argument("run", help="the run's folder")
    sub = command("ls", "list what can be named in a recipe")
    sub.add_argument(
        "kind", nargs="?", help="losses, advantages, rewards, searches, tasks or methods"
    )
    sub.add_argument("--plugin", action="append", default=[], help="a user's file to include")
    sub = command("explain", "explain one function: equation, paper, inputs, settings")
    sub.add_argument("kind", help="losses, advantages, rewards, searches, tasks or methods")
    sub.add_argument("name")
    sub.add_argument("--plugin", action="append", default=[], help="a user's file to include")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status (0 done, 1 failed, 2 wrong input, 130 interrupted)."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        return COMMANDS.get(options.command, _method)(options)
    except PosttrainError as error:
        if options.traceback:
            raise
        echo(f"\n{type(error).__name__}: {error}", error=True)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt as stop:
        echo(f"\n{stop or 'interrupted'}", error=True)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has gone. Close quietly.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        # A full disk, a folder that may not be written, a file where a folder should be: the
        # system's words say it.
        if options.traceback:
            raise
        echo(f"\n{type(error).__name__}: {error}", error=True)
        return 1


def _quiet_libraries() -> None:
    """Settings of libraries that must be made before they are imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def _execute(raw_or_recipe: Any, overrides: list[str], *, checking: bool = False) -> int:
    from posttrain.recipe import apply_overrides, load_recipe, parse_recipe

    if isinstance(raw_or_recipe, dict):
        recipe = parse_recipe(apply_overrides(raw_or_recipe, overrides))
    else:
        recipe = load_recipe(raw_or_recipe, overrides)
    _quiet_libraries()
    from posttrain.methods.run import Run

    run = Run(recipe, command=_command_line())
    if checking:
        run.check()
        return 0
    return _finish(run)


def _finish(run: Any) -> int:
    """Execute a run, then write its report and say where everything is."""
    from posttrain import kernels

    kernels.setup()  # this process is the command's own, so its switches may be set
    run.execute()
    return _write_report(run)


def _write_report(run: Any) -> int:
    folder = run.folder
    from posttrain.report.html import write_picture, write_report
    from posttrain.report.tables import print_summary

    print_summary(folder, run.console)
    if (folder / "summary.json").is_file():
        write_picture(folder, folder / "summary.svg")
    report = write_report(folder)
    write(run.console, f"\nrun folder  {visible(folder)}\nreport      {visible(report)}")
    return 0


def _command_line() -> str:
    return " ".join(["posttrain", *sys.argv[1:]])


def _run(options: argparse.Namespace) -> int:
    return _execute(options.recipe, options.overrides)


def _check(options: argparse.Namespace) -> int:
    return _execute(options.recipe, options.overrides, checking=True)


def _preview(options: argparse.Namespace) -> int:
    from posttrain.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.overrides)
    _quiet_libraries()
    from posttrain.methods.run import Run

    Run(recipe, command=_command_line()).preview(options.num)
    return 0


def _resume(options: argparse.Namespace) -> int:
    from posttrain.recipe import load_recipe

    folder = Path(options.run)
    if not (folder / "recipe.yaml").is_file():
        raise ConfigError(f"{folder} holds no run (no recipe.yaml)")
    recipe = load_recipe(folder / "recipe.yaml", options.overrides)
    _quiet_libraries()
    from posttrain.methods.run import Run

    recipe.output = str(folder)
    run = Run(recipe, command=_command_line(), resume=True, accept=options.accept)
    if run.finished and not options.overrides:
        echo(
            f"{folder} is finished. To train on, raise its length (max_steps=...), or start a new "
            f"run from {folder}/model"
        )
        return _write_report(run)  # a run that was killed after its last file has none yet
    return _finish(run)


def _method(options: argparse.Namespace) -> int:
    raw: dict[str, Any] = {
        "method": options.command,
        "model": options.model,
        "output": options.output,
    }
    settings = methods.entry(options.command).settings
    if options.data and "data" in settings:
        raw["data"] = options.data
    elif options.data:
        raw["task"] = {"name": "jsonl", "path": options.data}
    if getattr(options, "task", None):
        raw["task"] = options.task
    if not {"data", "task"} & raw.keys() and not any(
        o.startswith(("data", "task")) for o in options.overrides
    ):
        raise ConfigError(
            f"{options.command} needs --task NAME, or --data FILE"
            + ("" if "data" in settings else " with prompts and answers")
        )
    return _execute(raw, options.overrides)


def _eval(options: argparse.Namespace) -> int:
    raw: dict[str, Any] = {
        "method": "evaluate",
        "model": options.model,
        "evaluation": {"task": {"name": options.task}},
    }
    if options.output:
        raw["output"] = options.output
    overrides = [f"evaluation.{o}" if o.startswith("task.") else o for o in options.overrides]
    return _execute(raw, overrides)


def _compare(options: argparse.Namespace) -> int:
    from posttrain.evaluation.run import compare_files

    echo(compare_files(Path(options.first), Path(options.second)))
    return 0


def _report(options: argparse.Namespace) -> int:
    from posttrain.report.html import write_report

    echo(f"wrote {write_report(Path(options.run))}")
    return 0


def _registry(kind: str, plugins: list[str]) -> Any:
    from posttrain.registry import REGISTRIES, load_plugins

    load_plugins(plugins, Path())
    singular = {r.kind.split()[0]: name for name, r in REGISTRIES.items()} | {"search": "searches"}
    name = singular.get(kind, kind)
    if name not in REGISTRIES:
        raise ConfigError(f"unknown kind {kind!r}: {nearest(kind, REGISTRIES)}")
    return REGISTRIES[name]


def _ls(options: argparse.Namespace) -> int:
    from posttrain.registry import REGISTRIES

    for kind in [options.kind] if options.kind else REGISTRIES:
        entries = _registry(kind, options.plugin).entries()
        width = max((len(name) for name in entries), default=0)
        echo(f"{kind}")
        for name, entry in entries.items():
            echo(f"  {name:<{width}}  {entry.summary}")
        echo()
    echo("`posttrain explain KIND NAME` shows the equation, the paper and the settings.")
    return 0


def _explain(options: argparse.Namespace) -> int:
    from posttrain.registry import REQUIRED

    registry = _registry(options.kind, options.plugin)
    entry = registry.entry(options.name)
    echo(f"{registry.kind} {entry.name}   ({entry.file}:{entry.line})\n\n{entry.doc}\n")
    echo(f"inputs:   {', '.join(entry.inputs) or '(none)'}")
    if entry.settings:
        echo("settings:")
        width = max(len(name) for name in entry.settings)
        for name, setting in entry.settings.items():
            default = "required" if setting.default is REQUIRED else f"default {setting.default!r}"
            echo(f"  {name:<{width}}  {setting.annotation}, {default}")
    return 0


COMMANDS = {
    "run": _run,
    "check": _check,
    "preview": _preview,
    "resume": _resume,
    "eval": _eval,
    "compare": _compare,
    "report": _report,
    "ls": _ls,
    "explain": _explain,
}

if __name__ == "__main__":
    sys.exit(main())
