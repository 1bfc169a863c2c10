"""The command line. Parsing imports nothing heavy, so `posttrain --help` answers at once."""

from __future__ import annotations

import argparse
import os
import sys

from posttrain.cli.commands import COMMANDS
from posttrain.cli.parser import command_parser, main_parser, parse_command, split_command
from posttrain.errors import ConfigError, PosttrainError, RankError
from posttrain.terminal import echo
from posttrain.world import rank_of_environment

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """The parser of the flags before a command; its help lists the commands."""
    return main_parser(COMMANDS)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status (0 done, 1 failed, 2 wrong input, 130 interrupted)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = build_parser()
    flags, name, rest = split_command(arguments)
    options = parser.parse_args(flags)
    if name is None:
        parser.print_help()
        return 0
    options = parse_command(command_parser(name, COMMANDS, parser), rest, options)
    # Of several processes the main one prints what has ended all of them. The others print what
    # it may not know: that another one has ended.
    is_main = rank_of_environment() == 0
    try:
        return options.call(options)
    except PosttrainError as error:
        if options.traceback:
            raise
        if is_main or isinstance(error, RankError):
            echo(f"\n{type(error).__name__}: {error}", error=True)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt as stop:
        if is_main:
            echo(f"\n{stop or 'interrupted'}", error=True)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) is gone. Close quietly.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        # A full disk, a folder without write permission, a file where a folder should be: the
        # system's message says it.
        if options.traceback:
            raise
        echo(f"\n{type(error).__name__}: {error}", error=True)
        return 1
