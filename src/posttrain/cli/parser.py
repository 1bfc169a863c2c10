"""Parsing of the command line: flags and `key=value` changes in any order."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from posttrain import __version__
from posttrain.cli import help as pages
from posttrain.errors import nearest

_NUM_NEAR = 5  # flags that an error names

_KEY_VALUE = re.compile(r"[A-Za-z_][\w.\-]*\s*=")


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        group: heading under which help lists it.
        summary: what it does, on one line.
        call: runs it; returns the exit status.
        arguments: adds its flags and positional arguments.
        positionals: names of the arguments before the `key=value` changes.
        changes: whether it takes `key=value` changes.
        page: makes its help text; None is argparse's.
    """

    group: str
    summary: str
    call: Callable[[argparse.Namespace], int]
    arguments: Callable[[argparse.ArgumentParser], None]
    positionals: tuple[str, ...] = ()
    changes: bool = False
    page: Callable[[], str] | None = None


class Parser(argparse.ArgumentParser):
    """Names an unknown flag before a missing one, which is often the same flag misspelt."""

    command: Command | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does; an unknown flag ends the process with status 2."""
        for argument in args or []:
            flag = argument.partition("=")[0]
            if flag == "--":
                break  # what follows is no flag
            flags = [option for option in self._option_string_actions if option.startswith("--")]
            if flag.startswith("--") and not any(option.startswith(flag) for option in flags):
                key = flag.lstrip("-")
                changes = self.command is not None and self.command.changes
                near = _nearest_flags(flag, flags)
                stop = "" if near.endswith("?") else "."
                hint = f"{stop} A key of the recipe is given as {key}=VALUE" if changes else ""
                self.error(f"there is no flag {flag}: {near}{hint}")
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        if self.command is not None and self.command.page is not None:
            return self.command.page()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Print the message, without the usage of some lines, and end with status 2."""
        self.exit(2, f"{self.prog}: {message}\n`{self.prog} --help` lists what there is.\n")


def _nearest_flags(flag: str, flags: Iterable[str]) -> str:
    """The tail of an error about an unknown flag: the nearest ones. Help lists the others."""
    near = difflib.get_close_matches(flag, flags, n=_NUM_NEAR, cutoff=0.6)
    if not near:
        return "none is near"
    others = f" Near as well: {', '.join(near[1:])}" if near[1:] else ""
    return f"did you mean '{near[0]}'?{others}"


class _MainParser(Parser):
    commands: Mapping[str, Command] = {}

    def format_help(self) -> str:
        listed = [(c.group, name, c.summary) for name, c in self.commands.items()]
        return pages.overview(listed)


def main_parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser of the flags before a command; its help lists the commands."""
    parser = _MainParser("posttrain", add_help=True)
    parser.commands = commands
    parser.add_argument("--version", action="version", version=f"posttrain {__version__}")
    parser.add_argument("--traceback", action="store_true", default=False)
    return parser


def split_command(arguments: list[str]) -> tuple[list[str], str | None, list[str]]:
    """Flags before the command, the command, and what follows it."""
    for index, argument in enumerate(arguments):
        if not argument.startswith("-"):
            return arguments[:index], argument, arguments[index + 1 :]
    return arguments, None, []


def command_parser(
    name: str, commands: Mapping[str, Command], main: argparse.ArgumentParser
) -> Parser:
    """The parser of one command; an unknown one ends the process with status 2."""
    if name not in commands:
        main.error(f"there is no command {name!r}: {nearest(name, commands)}")
    command = commands[name]
    parser = Parser(f"posttrain {name}", description=command.summary)
    parser.command = command
    parser.set_defaults(call=command.call, command=name)
    parser.add_argument(
        "--traceback", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    command.arguments(parser)
    for positional in command.positionals:
        parser.add_argument(positional.rstrip("?+"), nargs="*", help=argparse.SUPPRESS)
    if command.changes:
        parser.add_argument("overrides", nargs="*", metavar="key=value", help=argparse.SUPPRESS)
    return parser


def parse_command(
    parser: Parser, arguments: list[str], options: argparse.Namespace
) -> argparse.Namespace:
    """The options of a command. Positional arguments and `key=value` may stand anywhere."""
    command = parser.command
    if command is None or not (command.changes or command.positionals):
        return parser.parse_args(arguments, options)
    flags, words = _flags_and_words(parser, arguments)
    options = parser.parse_args(flags, options)
    rest = []
    options.overrides = []
    for word in words:
        if command.changes and _KEY_VALUE.match(word) and not Path(word).exists():
            options.overrides.append(word)
        else:
            rest.append(word)
    for positional in command.positionals:
        name = positional.rstrip("?+")  # "?" may be left out, "+" takes all that follow
        if not rest and not positional.endswith("?"):
            parser.error(f"{name.upper()} is missing")
        if positional.endswith("+"):
            setattr(options, name, rest)
            rest = []
        else:
            setattr(options, name, rest.pop(0) if rest else None)
    if rest and command.changes:
        parser.error(f"{rest[0]!r} is not of the form key=value")
    if rest:
        parser.error(f"unexpected argument {rest[0]!r}")
    return options


def _flags_and_words(parser: Parser, arguments: list[str]) -> tuple[list[str], list[str]]:
    """Flags with their values, and the other arguments in their order."""
    flags: list[str] = []
    words: list[str] = []
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        if argument == "--":
            words += arguments[position:]
            break
        if not argument.startswith("-") or argument == "-":
            words.append(argument)
            continue
        flags.append(argument)
        if "=" not in argument and _takes_value(parser, argument) and position < len(arguments):
            flags.append(arguments[position])
            position += 1
    return flags, words


def _takes_value(parser: Parser, flag: str) -> bool:
    """Whether a flag, or the only flag that begins so, is followed by a value."""
    options = parser._option_string_actions
    exact = [options[flag]] if flag in options else []
    matches = exact or [action for name, action in options.items() if name.startswith(flag)]
    return bool(matches) and matches[0].nargs != 0
