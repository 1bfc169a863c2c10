"""`posttrain plan`: memory and seconds of a recipe's step on other devices, predicted."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from posttrain.cli.parser import Command
from posttrain.errors import ConfigError
from posttrain.recipe import load_recipe
from posttrain.terminal import echo


def arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.usage = (
        "posttrain plan RECIPE [key=value ...] [--devices N[,N...]] [--device-kind KIND]\n"
        "       [--replicated] [--prompt-tokens N] [--completion-tokens N] [--shape SHAPE]\n"
        "       [--json]"
    )
    parser.epilog = (
        "Nothing is loaded but the model's config and the data. The figures are those of a small "
        "cost model (docs/scale.md says what it counts and how far it is off)."
    )
    parser.add_argument("--devices", default="1", help="how many, or several with commas (1)")
    parser.add_argument("--device-kind", default="h100", help="a100, h100, h200, b200, rtx4090")
    parser.add_argument(
        "--replicated",
        action="store_true",
        help="every device holds all weights; else they are split over the devices",
    )
    parser.add_argument(
        "--prompt-tokens", type=int, default=256, help="of a prompt that is sampled from (256)"
    )
    parser.add_argument(
        "--completion-tokens", type=int, help="of a completion (sampling.max_tokens, the most)"
    )
    parser.add_argument(
        "--shape",
        help="as if the model had this shape: qwen3-0.6b, qwen3-1.7b, qwen3-8b, qwen3-32b, "
        "llama3-70b",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def call(options: argparse.Namespace) -> int:
    """Predict, and print a table."""
    counts = _counts(options.devices)
    recipe = load_recipe(options.recipe, options.overrides)
    from posttrain.runs.prediction import recipe_costs

    costs = recipe_costs(
        recipe,
        counts,
        device_kind=options.device_kind,
        sharded=False if options.replicated else None,
        prompt_tokens=options.prompt_tokens,
        completion_tokens=options.completion_tokens,
        shape=options.shape,
    )
    if options.json:
        echo(json.dumps({str(n): as_json(cost) for n, cost in costs.items()}, indent=1))
    else:
        echo(table(costs))
    return 0


def _counts(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"--devices {text!r} must be a number above 0, or several: 1,8,64")
    return [int(part) for part in parts]


def as_json(cost: Any) -> dict[str, Any]:
    """The figures of a cost as plain values, in bytes and seconds."""
    return {
        "device": cost.device.name,
        "peak_bytes": cost.peak,
        "step_seconds": cost.step_seconds,
        "memory": dict(cost.memory),
        "seconds": dict(cost.seconds),
        "traffic": dict(cost.traffic),
        "breaks_first": cost.breaks_first,
    }


def table(costs: Mapping[int, Any]) -> str:
    """Costs by number of devices, as Markdown: a column each."""
    first = next(iter(costs.values()))
    rows = [("devices", [str(count) for count in costs])]
    for title, part, unit in (
        ("memory", "memory", "GiB"),
        ("time", "seconds", "s"),
        ("sent by a device", "traffic", "GiB"),
    ):
        names = dict.fromkeys(name for cost in costs.values() for name in getattr(cost, part))
        for name in names:
            values = [getattr(cost, part).get(name) for cost in costs.values()]
            rows.append((f"{title}: {name}", [_shown(value, unit) for value in values]))
    rows.append(("peak memory", [_shown(cost.peak, "GiB") for cost in costs.values()]))
    rows.append(("step", [_shown(cost.step_seconds, "s") for cost in costs.values()]))
    rows.append(("breaks first", [cost.breaks_first for cost in costs.values()]))
    lines = [f"per device of {first.device.name}, per step", ""]
    lines.append(f"| {rows[0][0]} | {' | '.join(rows[0][1])} |")
    lines.append(f"| --- |{' --- |' * len(costs)}")
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows[1:]]
    return "\n".join(lines)


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value / 2**30:.3g} GiB" if unit == "GiB" else f"{value:.3g} s"


COMMAND = Command(
    "recipes",
    "predict memory and seconds of a recipe's step on one or many devices",
    call,
    arguments,
    ("recipe",),
    changes=True,
)
