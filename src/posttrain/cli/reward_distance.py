"""`posttrain reward-distance RUN`: how different rewards are on completions that are there."""

from __future__ import annotations

import argparse

from posttrain.cli.arguments import reward_named
from posttrain.cli.forgetting import task_named
from posttrain.cli.parser import Command
from posttrain.cli.runs import notice
from posttrain.terminal import echo


def command() -> Command:
    """The command."""
    return Command(
        "evaluate",
        "how different rewards are, by the EPIC distance, before anything is trained",
        reward_distance,
        arguments,
        ("samples",),
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.usage = (
        "posttrain reward-distance RUN|FILE [--reward NAME[:key=value,...] ...] [--task T]\n"
        "                          [--output FILE]"
    )
    parser.epilog = (
        "RUN is a folder with rollouts.jsonl; FILE has such lines, or rows with prompt and "
        "completions. The rewards that are recorded there are compared too."
    )
    parser.add_argument("--reward", action="append", default=[], help="a reward; may be repeated")
    parser.add_argument("--task", help="NAME or NAME:key=value,...: what the reward task asks")
    parser.add_argument("--output", help="file for the distances as JSON")


def reward_distance(options: argparse.Namespace) -> int:
    """Measure and print.

    Raises:
        ConfigError: there are fewer than two rewards.
    """
    from posttrain.methods.reward_distance import reward_distance as measure

    task = task_named(options.task) if options.task else None
    rewards = [reward_named(text) for text in options.reward]
    echo(str(measure(options.samples, rewards=rewards, task=task, output=options.output)))
    if options.output:
        notice(f"wrote {options.output}")
    return 0
