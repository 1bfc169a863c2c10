"""`posttrain tradeoff MODEL`: strategies at budgets, as a table, a file and a plot."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from posttrain import registry
from posttrain.cli.arguments import component_named
from posttrain.cli.libraries import prepare_libraries
from posttrain.cli.runs import notice
from posttrain.cli.writer import amateur_config, model_place, split_settings
from posttrain.config import Component
from posttrain.errors import ConfigError
from posttrain.overrides import apply_overrides
from posttrain.terminal import echo

_OWN = (
    "task",
    "scorer",
    "oracle",
    "amateur",
    "num_examples",
    "seed",
    "pilot",
    "num_bins",
    "endpoint",
)
_OF_POLICY = ("pilot", "num_bins")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.usage = (
        "posttrain tradeoff MODEL --search NAME[:key=value,...] ... --budgets N,N,...\n"
        "                   --task T|--data FILE [key=value ...]"
    )
    parser.epilog = (
        "changes: task.KEY=, scorer=, amateur=, num_examples=, temperature=, max_tokens=; with "
        "--policy pilot= and num_bins=. MODEL may be the address of a server, with "
        "endpoint.model=NAME."
    )
    parser.add_argument(
        "--search",
        action="append",
        default=[],
        help="a strategy with its settings, such as majority_vote:num_samples=16; may be repeated",
    )
    parser.add_argument("--budgets", default="", help="tokens per problem, with commas between")
    parser.add_argument("--task", help="task whose problems are answered")
    parser.add_argument("--data", help="file of prompts and answers")
    parser.add_argument("--output", help="folder of table, JSON and plot (runs/tradeoff)")
    parser.add_argument(
        "--policy",
        help="fit a compute-optimal policy of these strategies on the task, into this file",
    )


def tradeoff(options: argparse.Namespace) -> int:
    """Measure, print the table, and write the files; or fit a policy.

    Raises:
        ConfigError: no strategies, budgets or problems, or a wrong key.
    """
    budgets = budgets_of(options.budgets)
    strategies = [strategy_of(text) for text in options.search]
    if not strategies:
        raise ConfigError(
            f"tradeoff needs --search NAME: one of {', '.join(registry.searches.names())}"
        )
    output = Path(options.output or "runs/tradeoff")
    if not options.policy and (output / "tradeoff.json").exists():
        raise ConfigError(f"--output: {output} holds a tradeoff; choose another folder")
    model, task, more = _settings(options)
    if options.policy:
        from posttrain.methods.compute_optimal import fit_policy

        policy = fit_policy(model, task, strategies, budgets, path=options.policy, **more)
        for budget, e in policy.record["estimates"].items():
            echo(
                f"budget {budget}: {e['accuracy']:.1%} [{e['low']:.1%}, {e['high']:.1%}] "
                f"cross-fitted, {e['gain']:+.1%} [{e['gain_low']:+.1%}, {e['gain_high']:+.1%}] "
                f"over the best single strategy, {e['tokens']:.0f} tokens per problem"
            )
        notice(f"wrote {options.policy}")
        return 0
    from posttrain.methods.tradeoff import tradeoff as measure

    for name in _OF_POLICY:
        if name in more:
            raise ConfigError(f"{name}: only with --policy, which fits one")
    echo(str(measure(model, task, strategies, budgets, output=output, **more)))
    notice(f"wrote {output}: tradeoff.json, tradeoff.svg, tradeoff.txt")
    return 0


def budgets_of(text: str) -> list[int]:
    """Budgets from a text: "64,256".

    Raises:
        ConfigError: none, or one that is no whole number above 0.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise ConfigError(
            f"--budgets: {text!r}; give whole numbers of tokens per problem, such as 64,256"
        )
    return [int(word) for word in words]


def strategy_of(text: str) -> Component:
    """A strategy from a text: "majority_vote:num_samples=16".

    Raises:
        ConfigError: no such strategy, or no setting behind the colon.
    """
    return component_named(text, registry.searches)


def _settings(options: argparse.Namespace) -> tuple[Any, Any, dict[str, Any]]:
    """The model, the task, and the keyword arguments of the call."""
    if bool(options.task) == bool(options.data):
        raise ConfigError("tradeoff needs --task NAME or --data FILE, one of them")
    task: dict[str, Any] = {"name": options.task}
    if options.data:
        task = {"name": "jsonl", "path": options.data}
    is_served = options.model.startswith(("http://", "https://"))
    raw: dict[str, Any] = {"task": task, "endpoint": {"url": options.model}}
    rest = []
    for text in options.overrides:
        own = text.partition("=")[0].strip().partition(".")[0] in _OWN
        if own:
            raw = apply_overrides(raw, [text])
        else:
            rest.append(text)
    config, sampling = split_settings("embedded" if is_served else options.model, rest)
    place = "" if is_served else model_place(config.path)
    prepare_libraries(names=[place])
    model: Any = dataclasses.replace(config, path=place)
    if is_served:
        from posttrain.config import EndpointConfig
        from posttrain.typecheck import check

        model = check(raw["endpoint"], EndpointConfig, "endpoint")
    more = {key: raw[key] for key in _OWN if key in raw and key not in ("task", "endpoint")}
    if "amateur" in more:
        more["amateur"] = amateur_config(more["amateur"])
    more["sampling"] = sampling
    return model, Component.of(raw["task"]), more
