"""The judge's side of a test: assertions over a program that runs in another sandbox."""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from posttrain.sandbox.guest.values import Channel, NotPlain, decoded, encoded


class ProgramError(Exception):
    """The program raised an exception of its own kind, or gives no answers any more."""


class Program:
    """The names of a program, over a channel."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def ask(self, *request: Any) -> Any:
        """The answer to a request, as plain data or `Remote` objects.

        Raises:
            Exception: of the built-in kind that the program raised, or ProgramError.
        """
        try:
            self.channel.send(list(request))
            answer = self.channel.receive()
            if "value" in answer:
                return decoded(answer["value"], lambda number: Remote(self, number))
            kind, text = answer["error"]
        except (EOFError, OSError, NotPlain, TypeError, KeyError, ValueError) as error:
            raise ProgramError(f"{type(error).__name__}: {error}") from error
        known = getattr(builtins, str(kind), None)
        # The end of an iteration would end the tests' own loops, such as all(map(f, values)).
        ends = (StopIteration, StopAsyncIteration)
        if isinstance(known, type) and issubclass(known, Exception) and known not in ends:
            raise known(str(text))
        raise ProgramError(f"{kind}: {text}")


class Remote:
    """An object of the program that is no plain data, such as a class or an instance.

    It is equal to nothing but the same object: the program has no say in that.
    """

    __slots__ = ("_number", "_program")

    def __init__(self, program: Program, number: int) -> None:
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        sent = [_sent(value) for value in arguments]
        named = {name: _sent(value) for name, value in keywords.items()}
        return self._program.ask("call", _sent(self), sent, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._program.ask("get", _sent(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.ask("set", _sent(self), name, _sent(value))

    def __iter__(self) -> Any:
        return iter(self._program.ask("list", _sent(self)))

    def __eq__(self, other: object) -> bool:
        return type(other) is Remote and other._number == self._number

    def __hash__(self) -> int:
        return hash(self._number)


class Named:
    """A global name of the program, asked for when it is used."""

    __slots__ = ("_name", "_program")

    def __init__(self, program: Program, name: str) -> None:
        self._program, self._name = program, name

    def _value(self) -> Any:
        return self._program.ask("name", self._name)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._value()(*arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._value(), name)

    def __iter__(self) -> Any:
        return iter(self._value())


def _sent(value: Any) -> Any:
    if type(value) is Named:
        value = value._value()
    return encoded(value, _number)


def _number(value: Any) -> int:
    if type(value) is Remote:
        return int(value._number)
    raise NotPlain(f"a value of type {type(value).__name__} cannot be given to the program")


class _Counted(ast.NodeTransformer):
    """Makes each assertion a call of `check`, so that a failed one does not end the test."""

    def __init__(self) -> None:
        self.num_asserts = 0

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        if isinstance(node.test, ast.Constant) and node.test.value:
            return ast.copy_location(ast.Pass(), node)  # says nothing of the program
        self.num_asserts += 1
        empty = ast.arguments([], [], None, [], [], None, [])
        condition = ast.Lambda(args=empty, body=node.test)
        call = ast.Call(ast.Name("__check", ast.Load()), [condition], [])
        return ast.copy_location(ast.Expr(call), node)


def run_tests(program: Program, tests: dict[str, Any], report: Callable[[Any], None]) -> None:
    """Run the tests of a program and report each assertion.

    Reports are [unit, "start", assertions], then [unit, passed] each, then [unit, "end"], where a
    unit is the place of a test in tests["units"]. A unit that raises has no end.

    Args:
        tests: {"setup": code, "units": [code], "names": names of the program}.
    """
    space: dict[str, Any] = {"__name__": "tests"}
    setup, names = tests["setup"], tests["names"]
    _provide(space, program, names, [setup, *tests["units"]])
    started = True
    try:
        exec(compile(setup, "<setup>", "exec"), space)
        for name in names:  # the setup may hold a stub of it
            space[name] = Named(program, name)
    except Exception:
        started = False
    for unit, code in enumerate(tests["units"]):
        counted = _Counted()
        tree = ast.fix_missing_locations(counted.visit(ast.parse(code)))
        report([unit, "start", counted.num_asserts])
        if not started:
            continue

        def check(condition: Callable[[], Any], unit: int = unit) -> None:
            try:
                passed = bool(condition())
            except Exception:
                passed = False
            report([unit, passed])

        space["__check"] = check
        try:
            exec(compile(tree, f"<test {unit}>", "exec"), space)
        except Exception:
            continue
        report([unit, "end"])


def _provide(space: dict[str, Any], program: Program, names: list[str], codes: list[str]) -> None:
    """Names that the tests read and do not define: modules of the library, else the program's."""
    read: set[str] = set(names)
    defined: set[str] = set()
    for code in codes:
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Name):
                (read if isinstance(node.ctx, ast.Load) else defined).add(node.id)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.arg):
                defined.add(node.arg)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                defined.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
    for name in read - defined - (set(dir(builtins)) - set(names)):
        if name in sys.stdlib_module_names and name not in names:
            space[name] = importlib.import_module(name)
        else:
            space[name] = Named(program, name)


def reporter(file: int) -> Callable[[Any], None]:
    """Writes reports as lines of JSON, each at once: what comes later may never come."""

    def report(line: Any) -> None:
        os.write(file, json.dumps(line).encode() + b"\n")

    return report
