"""`posttrain hacking MODEL`: proxy and gold reward of best-of-N, as a table, a file and a plot."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from posttrain.cli import dicl, forgetting, icl, reward_distance
from posttrain.cli.arguments import reward_named
from posttrain.cli.forgetting import task_named
from posttrain.cli.libraries import prepare_libraries
from posttrain.cli.parser import Command
from posttrain.cli.runs import notice
from posttrain.cli.writer import model_place, split_settings
from posttrain.errors import ConfigError
from posttrain.overrides import apply_overrides
from posttrain.terminal import echo
from posttrain.typecheck import check

_OWN = {
    "num_samples": int,
    "num_examples": int,
    "seed": int,
    "kl_weights": list[float],
    "length_weights": list[float],
}


def commands() -> dict[str, Command]:
    """What measures beside `eval`: forgetting, proxies, rewards, labels and dynamics in context."""
    own = Command(
        "evaluate",
        "how far a proxy reward can be trusted: proxy and gold against N and KL",
        hacking,
        arguments,
        ("model",),
        changes=True,
    )
    return {
        "forgetting": forgetting.command(),
        "hacking": own,
        "reward-distance": reward_distance.command(),
        "icl": icl.command(),
        "dicl": dicl.command(),
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.usage = (
        "posttrain hacking MODEL --task T --proxy FOLDER|NAME[:key=value,...] ... --gold NAME\n"
        "                  [--output FOLDER] [key=value ...]"
    )
    parser.epilog = (
        "changes: num_samples=, num_examples=, seed=, kl_weights=[0.01], length_weights=, "
        "temperature=, max_tokens=. A proxy is the folder of a reward model, or a reward: "
        "reward_model:path=[a,b],ensemble=min. The gold reward is watched and chooses nothing."
    )
    parser.add_argument("--task", help="NAME or NAME:key=value,...: the task of the prompts")
    parser.add_argument("--proxy", action="append", default=[], help="a reward; may be repeated")
    parser.add_argument("--gold", help="the reward that is really wanted, such as task")
    parser.add_argument("--output", help="folder of table, JSON and plot (runs/hacking)")


def hacking(options: argparse.Namespace) -> int:
    """Measure, print the table, and write the files.

    Raises:
        ConfigError: no task, proxy or gold reward, or a wrong key.
    """
    for flag in ("task", "proxy", "gold"):
        if not getattr(options, flag):
            raise ConfigError(
                f"hacking needs --{flag}: a task, at least one proxy reward, and the gold reward "
                "that they stand for; `posttrain ls rewards` lists rewards"
            )
    output = Path(options.output or "runs/hacking")
    if (output / "hacking.json").exists():
        raise ConfigError(f"--output: {output} holds such curves; choose another folder")
    task, gold = task_named(options.task), reward_named(options.gold)
    proxies = {text: reward_named(text) for text in options.proxy}
    own, rest = _settings(options.overrides)
    config, sampling = split_settings(options.model, rest)
    place = model_place(config.path)
    prepare_libraries(names=[place])
    from rich.console import Console

    from posttrain.methods.hacking import hacking as measure

    result = measure(
        dataclasses.replace(config, path=place),
        task,
        proxies=proxies,
        gold=gold,
        sampling=sampling,
        console=Console(stderr=True),
        output=output,
        **own,
    )
    echo(str(result))
    notice(f"wrote {output}: hacking.json, hacking.svg, hacking.txt")
    return 0


def _settings(overrides: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The command's own settings, and the texts that are settings of model and sampling."""
    own: dict[str, Any] = {}
    rest = []
    for text in overrides:
        if text.partition("=")[0].strip() in _OWN:
            own = apply_overrides(own, [text])
        else:
            rest.append(text)
    return {key: check(value, _OWN[key], key) for key, value in own.items()}, rest
