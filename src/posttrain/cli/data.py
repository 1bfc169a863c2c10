"""`posttrain data report|dedup|mix|filter FILES...`: rows before they are trained on."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain.cli.parser import Command
from posttrain.cli.runs import notice
from posttrain.errors import ConfigError, nearest
from posttrain.overrides import apply_overrides
from posttrain.terminal import echo
from posttrain.typecheck import check

_KEYS: dict[str, dict[str, Any]] = {
    "report": {"threshold": float, "near": bool, "embeddings": str, "max_length": int},
    "dedup": {"threshold": float, "near": bool, "n": int, "seed": int},
    "mix": {
        "weights": list[float],
        "temperature": float,
        "max_examples": int,
        "num_rows": int,
        "easiest": str,
        "difficulty": str,
        "seed": int,
    },
    "filter": {"num_rows": int, "embeddings": str, "unmeasured": str, "max_length": int},
}
"""The `key=value` settings of each tool, with their types."""

_FLAGS = {
    "report": ("against", "column", "measure", "model", "output"),
    "dedup": ("against", "column", "output", "force"),
    "mix": ("model", "output", "force"),
    "filter": ("where", "model", "output", "force"),
}


def command() -> Command:
    """The command."""
    return Command(
        "make data",
        "report, deduplicate, mix or filter files of rows",
        data,
        arguments,
        ("tool", "file+"),
        changes=True,
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.usage = (
        "posttrain data report FILE ... [--against NAME=FILE] [--model M] [--output P.html]\n"
        "       posttrain data dedup  FILE ... --output OUT.jsonl [--against NAME=FILE]\n"
        "       posttrain data mix    FILE ... --output OUT.jsonl [weights=[2,1]]\n"
        "       posttrain data filter FILE ... --output OUT.jsonl --where BOUND ... [--model M]"
    )
    parser.epilog = "changes: " + ". ".join(
        f"{tool}: {', '.join(f'{key}=' for key in keys)}" for tool, keys in _KEYS.items()
    )
    repeated: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument(
        "--against", metavar="NAME=FILE", help="an evaluation; may be repeated", **repeated
    )
    parser.add_argument(
        "--column", help="a column of the evaluations to look for; may be repeated", **repeated
    )
    parser.add_argument(
        "--measure", help="a quality measure (`posttrain ls qualities`); repeat", **repeated
    )
    parser.add_argument(
        "--where", metavar="BOUND", help="such as 'ifd<1' or 'perplexity<p95'; repeat", **repeated
    )
    parser.add_argument("--model", help="a folder, hub id or embedded, for tokens and measures")
    parser.add_argument("--output", help="the file that is written")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")


def data(options: argparse.Namespace) -> int:
    """Run one tool.

    Raises:
        ConfigError: an unknown tool, or a flag or key that the tool does not take.
    """
    tools: dict[str, Callable[[argparse.Namespace, dict[str, Any]], None]] = {
        "report": _report,
        "dedup": _dedup,
        "mix": _mix,
        "filter": _filter,
    }
    if options.tool not in tools:
        raise ConfigError(f"there is no tool {options.tool!r}: {nearest(options.tool, tools)}")
    for flag in ("against", "column", "measure", "where", "model", "force"):
        if getattr(options, flag) and flag not in _FLAGS[options.tool]:
            raise ConfigError(f"data {options.tool} does not read --{flag}; leave it out")
    if options.tool != "report" and not options.output:
        raise ConfigError(f"data {options.tool} needs --output OUT.jsonl, where the rows go")
    if options.model:
        from posttrain.cli.libraries import prepare_libraries
        from posttrain.cli.writer import model_place

        options.model = model_place(options.model)
        prepare_libraries(names=[options.model])
    tools[options.tool](options, _settings(options.tool, options.overrides))
    if options.output:
        notice(f"wrote {options.output}")
    return 0


def _report(options: argparse.Namespace, settings: dict[str, Any]) -> None:
    from posttrain.curation.summary import data_report

    if options.output and Path(options.output).suffix != ".html":
        raise ConfigError(f"--output: {options.output} must end in .html")
    if options.measure:
        settings["measures"] = options.measure
    report = data_report(
        options.file,
        against=_against(options.against),
        model=options.model,
        evaluation_columns=options.column or None,
        output=options.output,
        **settings,
    )
    echo(str(report))


def _dedup(options: argparse.Namespace, settings: dict[str, Any]) -> None:
    from posttrain.curation.copies import deduplicate

    done = deduplicate(
        options.file,
        against=_against(options.against),
        evaluation_columns=options.column or None,
        output=options.output,
        force=options.force,
        **settings,
    )
    echo(str(done))


def _mix(options: argparse.Namespace, settings: dict[str, Any]) -> None:
    from posttrain.curation.mix import mix

    echo(
        str(
            mix(
                options.file,
                model=options.model,
                output=options.output,
                force=options.force,
                **settings,
            )
        )
    )


def _filter(options: argparse.Namespace, settings: dict[str, Any]) -> None:
    from posttrain.curation.selection import filter_rows

    done = filter_rows(
        options.file,
        options.where,
        model=options.model,
        output=options.output,
        force=options.force,
        **settings,
    )
    echo(str(done))


def _against(items: list[str]) -> dict[str, str]:
    """Files of evaluations by name; a file without a name has its own."""
    named = {}
    for text in items:
        name, sign, path = text.partition("=")
        named[name if sign else Path(text).stem] = path if sign else text
    return named


def _settings(tool: str, overrides: list[str]) -> dict[str, Any]:
    """The keyword arguments from `key=value` texts."""
    raw = apply_overrides({}, overrides)
    for key in raw:
        if key not in _KEYS[tool]:
            raise ConfigError(f"data {tool} has no setting {key!r}: {nearest(key, _KEYS[tool])}")
    return {key: check(value, _KEYS[tool][key], key) for key, value in raw.items()}
