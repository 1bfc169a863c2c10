"""Every parameter of a method is read by it, and every key of a recipe by what it is for.

A method is one function: its parameters are keys of a recipe. A key that no code reads would do
nothing in silence.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import typing
from pathlib import Path
from typing import Any

import pytest

from posttrain import config, keys, registry
from posttrain.training.settings import TrainingSettings

METHODS = registry.methods.names()
SOURCE = Path(__file__).parent.parent.parent / "src" / "posttrain"


def unread(function: ast.FunctionDef) -> set[str]:
    """Parameters that the body never loads."""
    arguments = [*function.args.args, *function.args.kwonlyargs]
    loaded = {
        node.id
        for statement in function.body
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    return {argument.arg for argument in arguments} - loaded


def function_of(name: str) -> ast.FunctionDef:
    entry = registry.methods.entry(name)
    for node in ast.parse(entry.file.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    raise AssertionError(name)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_reads_each_parameter(name: str) -> None:
    assert unread(function_of(name)) == set()


def test_the_proof_can_fail() -> None:
    text = "def f(data, *, beta=0.1, size=1):\n    settings = dict(locals())\n    return size"
    (function,) = ast.parse(text).body
    assert isinstance(function, ast.FunctionDef)
    assert unread(function) == {"data", "beta"}


@pytest.mark.parametrize("name", METHODS)
def test_each_default_has_its_annotated_type(name: str) -> None:
    """Called by hand a method gets its defaults as they are."""
    method = registry.methods.get(name)
    hints = typing.get_type_hints(method)
    for parameter in inspect.signature(method).parameters.values():
        if parameter.default is not parameter.empty:
            assert fits(parameter.default, hints[parameter.name]), parameter


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type, as `isinstance` would say it of generic types."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is typing.Literal:
        return value in arguments
    if origin is None:
        is_float = hint is float and isinstance(value, float)
        return is_float or (hint is not float and isinstance(value, hint))
    if type(hint).__name__ in ("UnionType", "_UnionGenericAlias") or origin is typing.Union:
        return any(fits(value, option) for option in arguments)
    if not isinstance(value, origin):
        return False
    if isinstance(value, list | tuple) and arguments:
        return all(fits(item, arguments[0]) for item in value)
    return True


def test_a_default_of_another_type_is_found() -> None:
    assert not fits(("nll",), list[str]) and not fits(1, float) and not fits("x", int | None)
    assert fits(("nll",), typing.Sequence[str]) and fits(None, int | None)


def test_no_method_is_silenced_for_the_type_checker() -> None:
    for path in (*(SOURCE / "methods").glob("*.py"), *(SOURCE / "loops").glob("*.py")):
        assert "type: ignore[assignment]" not in path.read_text(), path


def test_keys_of_training_are_its_settings() -> None:
    """`fit` reads the settings that no method chooses, and `max_steps`; the command, `launch`."""
    settings = {field.name for field in dataclasses.fields(TrainingSettings)}
    chosen = {"max_steps", "learning_rate", "lr_scheduler_type", "launch"}
    assert set(keys.OF_TRAINING) == settings | chosen
    for name in METHODS:
        entry = registry.methods.entry(name)
        if keys.trains(entry):
            assert {"learning_rate", "lr_scheduler_type"} <= entry.settings.keys(), name


def test_limits_are_keys_of_methods_that_take_them() -> None:
    limits = {field.name for field in dataclasses.fields(config.Limits)}
    assert limits == {*keys.OF_REWARDS, *keys.OF_PROMPTS}


def test_settings_of_training_are_read_by_fit() -> None:
    """Each field of the settings stands as an attribute in the code of the training."""
    names = ("session.py", "optimizers.py", "roles.py", "saving.py", "sharded.py")
    text = "".join((SOURCE / "training" / name).read_text() for name in names)
    text = text.replace("from __future__ import annotations", "")
    read = {node.attr for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)}
    assert {field.name for field in dataclasses.fields(TrainingSettings)} <= read
