"""`posttrain dicl ACTION MODEL --data FILE`: forecasts of series in context, and their worth."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Literal

from posttrain.cli.libraries import prepare_libraries
from posttrain.cli.parser import Command
from posttrain.cli.runs import notice
from posttrain.cli.writer import model_place
from posttrain.errors import ConfigError, nearest
from posttrain.overrides import apply_overrides
from posttrain.terminal import echo
from posttrain.typecheck import check

_SHARED: dict[str, Any] = {"digits": int | None, "seed": int}
_WINDOWS: dict[str, Any] = {"window": int | None, "num_windows": int, "burn_in": int, **_SHARED}
ACTIONS: dict[str, dict[str, Any]] = {
    "forecast": {
        "steps": int,
        "how": Literal["mean", "mode", "sample"],
        "num_paths": int,
        "temperature": float,
        "last": int,
        **_SHARED,
    },
    "evaluate": {
        "learners": list[str],
        "map": Literal["identity", "pca", "ica", "autoencoder"],
        "num_components": int | None,
        "num_samples": int,
        "temperature": float,
        **_WINDOWS,
    },
    "calibrate": _WINDOWS,
}
"""Settings of each action, by name, with their types."""


def command() -> Command:
    """The command."""
    return Command(
        "evaluate",
        "forecast series in context, and measure and calibrate such forecasts",
        dicl,
        arguments,
        ("action", "model"),
        changes=True,
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.usage = (
        "posttrain dicl forecast|evaluate|calibrate MODEL --data FILE [--column NAME ...]\n"
        "                 [--output FOLDER] [key=value ...]"
    )
    parser.epilog = "; ".join(f"{name}: {', '.join(keys)}" for name, keys in ACTIONS.items())
    parser.add_argument("--data", help="a .csv, .csv.gz or .npz file of series or episodes")
    parser.add_argument("--column", action="append", help="of a CSV file; may be repeated")
    parser.add_argument("--output", help="folder of table, JSON and plot (runs/dicl-ACTION)")


def dicl(options: argparse.Namespace) -> int:
    """Do the action, print its table, and write its files.

    Raises:
        ConfigError: no such action, no data, a wrong key, or a folder that is taken.
    """
    if options.action not in ACTIONS:
        raise ConfigError(
            f"dicl has no action {options.action!r}: {nearest(options.action, ACTIONS)}"
        )
    if not options.data:
        raise ConfigError("dicl needs --data: a .csv, .csv.gz or .npz file of series or episodes")
    settings = _settings(options.action, options.overrides)
    output = Path(options.output or f"runs/dicl-{options.action}")
    if output.exists():
        raise ConfigError(f"--output: {output} is there already; choose another folder")
    from posttrain.dynamics.trajectory_files import read_trajectories

    data = read_trajectories(options.data, columns=options.column)
    place = model_place(options.model)
    prepare_libraries(names=[place])
    from posttrain.dynamics import measurement

    result: Any
    if options.action == "forecast":
        last = settings.pop("last", None)
        states = data[0].states if last is None else data[0].states[-max(1, last) :]
        result = measurement.dicl_forecast(place, states, **settings)
    elif options.action == "evaluate":
        result = measurement.dicl_evaluate(place, data, **settings)
    else:
        result = measurement.dicl_calibrate(place, data, **settings)
    echo(str(result))
    result.save(output)
    notice(f"wrote {output}")
    return 0


def _settings(action: str, overrides: list[str]) -> dict[str, Any]:
    known = ACTIONS[action]
    values = apply_overrides({}, list(overrides))
    for key in values:
        if key not in known:
            raise ConfigError(f"dicl {action} has no setting {key!r}: {nearest(key, known)}")
    return {key: check(value, known[key], key) for key, value in values.items()}
