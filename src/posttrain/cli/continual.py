"""`posttrain continual RECIPE`: a sequence of trainings under several methods, as one table."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from posttrain.cli.parser import Command
from posttrain.config import Recipe
from posttrain.errors import ConfigError
from posttrain.recipe import load_recipe

METHOD = "continual_learning"

Perform = Callable[[Recipe, argparse.Namespace], int]
"""Runs a recipe, or checks or shows it as the flags say."""


def command(perform: Perform, arguments: Callable[[argparse.ArgumentParser], None]) -> Command:
    """The command. arguments: adds the flags that every recipe's command has."""
    return Command(
        "evaluate",
        "train a sequence of stages under several methods against forgetting, and compare them",
        partial(continual, perform),
        partial(_arguments, arguments),
        ("recipe",),
        changes=True,
    )


def _arguments(
    arguments: Callable[[argparse.ArgumentParser], None], parser: argparse.ArgumentParser
) -> None:
    parser.usage = "posttrain continual RECIPE [key=value ...] [--check | --dry-run]"
    parser.epilog = (
        "The recipe has the method continual_learning, stages with names, and retentions; "
        "`posttrain explain methods continual_learning` lists its keys. `posttrain resume RUN` "
        "goes on after an interruption."
    )
    arguments(parser)


def continual(perform: Perform, options: argparse.Namespace) -> int:
    """Run the recipe.

    Raises:
        ConfigError: it is one of another method.
    """
    recipe = load_recipe(options.recipe, options.overrides)
    if recipe.method != METHOD:
        raise ConfigError(
            f"{options.recipe}: its method is {recipe.method!r}, and this command runs a sequence "
            f"of stages; set method: {METHOD}, or use `posttrain run`"
        )
    return perform(recipe, options)
