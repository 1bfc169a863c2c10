"""`posttrain icl MODEL DATA`: label texts in context, as a table, files and intervals."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any, Literal

from posttrain import registry
from posttrain.cli.arguments import component_named
from posttrain.cli.libraries import prepare_libraries
from posttrain.cli.parser import Command
from posttrain.cli.runs import notice
from posttrain.cli.writer import model_place, split_settings
from posttrain.config import Component, EndpointConfig
from posttrain.errors import ConfigError
from posttrain.overrides import apply_overrides
from posttrain.terminal import echo
from posttrain.typecheck import check

_COMPONENTS = ("selection", "order", "calibration")
_OWN: dict[str, Any] = {
    "num_shots": int,
    "num_examples": int,
    "max_pool": int,
    "max_tokens": int,
    "seed": int,
    "labels": list[str],
    "normalization": Literal["sum", "token", "byte"],
    "remove_prior": bool,
    "text_column": str,
    "label_column": str,
    "template": dict[str, Any],
    "endpoint": EndpointConfig,
}


def command() -> Command:
    """The command."""
    return Command(
        "evaluate",
        "label texts in context: accuracy, ECE and confusion, by demonstrations",
        icl,
        arguments,
        ("model", "rows"),
        changes=True,
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.usage = (
        "posttrain icl MODEL ROWS [--demonstrations ROWS] [--output FOLDER] [key=value ...]\n"
        "       posttrain icl endpoint ROWS endpoint.url=URL endpoint.model=NAME [key=value ...]"
    )
    parser.epilog = (
        "ROWS is a file of the columns text and label (CSV, TSV, JSONL, ...), or a task as "
        "NAME or NAME:key=value,... changes: num_shots=, selection=, order=, calibration=, "
        "num_examples=, max_pool=, labels=[a,b], normalization=, remove_prior=, template.input=, "
        "template.instruction=, text_column=, label_column=, seed=, dtype=, device= ... `posttrain "
        "ls selections` lists selections, so do orders and calibrations; one with settings is "
        "selection={name: dpp, relevance: 1}."
    )
    parser.add_argument(
        "--demonstrations", help="rows to choose from (the rows behind the first num_examples)"
    )
    parser.add_argument("--output", help="folder of in_context.json and rows.jsonl (runs/icl)")


def icl(options: argparse.Namespace) -> int:
    """Label, print the table, and write the files.

    Raises:
        ConfigError: a wrong key, or a folder that holds such a result.
    """
    output = Path(options.output or "runs/icl")
    if (output / "in_context.json").exists():
        raise ConfigError(f"--output: {output} holds such a result; choose another folder")
    own, rest = settings_of(options.overrides)
    model: Any = own.pop("endpoint", None)
    if model is None:
        config, _ = split_settings(options.model, rest)
        place = model_place(config.path)
        prepare_libraries(names=[place])
        model = dataclasses.replace(config, path=place)
    elif rest:
        raise ConfigError(f"{rest[0]}: a model behind a server has no such key here")
    from posttrain.incontext.icl import icl as label

    result = label(
        model,
        rows_named(options.rows),
        demonstrations=rows_named(options.demonstrations) if options.demonstrations else None,
        output=output,
        **own,
    )
    echo(str(result))
    notice(f"wrote {output}: in_context.json, rows.jsonl")
    return 0


def rows_named(text: str) -> Component | str:
    """Rows from a text: the name of a task with its settings, or a place."""
    name = text.partition(":")[0]
    if name in registry.tasks.names() and not Path(text).exists():
        return component_named(text, registry.tasks)
    return text


def settings_of(overrides: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The command's own settings, and the texts that are settings of the model."""
    own: dict[str, Any] = {}
    rest = []
    for text in overrides:
        if text.partition("=")[0].partition(".")[0].strip() in (*_OWN, *_COMPONENTS):
            own = apply_overrides(own, [text])
        else:
            rest.append(text)
    # A selection, order or calibration is checked by its registry.
    return {k: check(v, _OWN[k], k) if k in _OWN else v for k, v in own.items()}, rest
