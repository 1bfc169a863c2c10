"""Every key that a method accepts is read by it, and every key that it reads is accepted: shown on
the source text.

A key is read where the method's function loads the parameter of its name, or where a function that
it can reach reads the field of the recipe (`run.recipe.KEY`). What can be reached is followed by
name, through functions of `methods/` and the methods of its classes, which errs on the side of too
much; the fields of a `data` section are watched while a run prepares its job (`keys.Watch`), so
nothing has to be shown of them here.
"""

from __future__ import annotations

import ast
import dataclasses
from functools import cache
from pathlib import Path

import pytest

from posttrain import config, registry
from posttrain.keys import keys_read

SOURCE = Path(__file__).parent.parent.parent / "src" / "posttrain"
FIELDS = {f.name for f in dataclasses.fields(config.Recipe)} - {"settings", "base"}
Function = ast.FunctionDef | ast.AsyncFunctionDef
RUN = ("Run", "RunModels")  # a run and its base class

# Read by `Run` for whatever method; the title stands in recipe.yaml, where the report reads it.
OF_RUN = {"method", "model", "output", "plugins", "title"}


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A function, in a module and (a method) in a class."""

    module: str
    owner: str
    node: Function


@cache
def places() -> dict[tuple[str, str, str], Place]:
    """Functions of methods/ and recipe.py by module, class and name."""
    table = {}
    for path in [*sorted((SOURCE / "methods").glob("*.py")), SOURCE / "recipe.py"]:
        tree = ast.parse(path.read_text())
        owners = [
            ("", tree.body),
            *((c.name, c.body) for c in tree.body if isinstance(c, ast.ClassDef)),
        ]
        for owner, body in owners:
            for node in body:
                if isinstance(node, Function):
                    table[path.stem, owner, node.name] = Place(path.stem, owner, node)
    return table


@cache
def imported(module: str) -> dict[str, str]:
    """Names that a module imports from another of these, and which."""
    path = SOURCE / "recipe.py" if module == "recipe" else SOURCE / "methods" / f"{module}.py"
    found = {}
    for node in ast.parse(path.read_text()).body:
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.startswith(("posttrain.methods.", "posttrain.recipe"))
        ):
            found |= {alias.name: node.module.rpartition(".")[2] for alias in node.names}
    return found


def called(place: Place) -> list[Place]:
    """Functions that a function names: its module's, those imported, and methods of the objects
    that it handles.
    """
    out = []
    for node in ast.walk(place.node):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            module = imported(place.module).get(node.id, place.module)
            out.append(places().get((module, "", node.id)))
            out.append(places().get((module, node.id, "__init__")))
        elif isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            for (module, kind, name), other in places().items():
                if not kind or name != node.attr:
                    continue
                of_run = owner.endswith("run") or (
                    owner in ("self", "super()") and place.owner in RUN
                )
                of_self = owner == "self" and (module, kind) == (place.module, place.owner)
                if (kind in RUN) == of_run or of_self:
                    out.append(other)
    return [other for other in out if other is not None]


def method(name: str) -> Place:
    """The function of a method."""
    return places()[registry.methods.entry(name).file.stem, "", name]


def reachable(start: Place) -> list[Function]:
    """The function, and those that it can call."""
    todo, done = [start], [start]
    while todo:
        fresh = [place for place in called(todo.pop()) if place not in done]
        for place in fresh:
            if place not in done:
                todo.append(place)
                done.append(place)
    return [place.node for place in done]


def recipe_fields(function: Function) -> set[str]:
    """Fields of the recipe that a function reads."""
    recipes = {"recipe"}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and ast.unparse(node.value).endswith(".recipe"):
            recipes |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    fields = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and node.attr in FIELDS:
            owner = ast.unparse(node.value)
            if owner in recipes or owner.endswith(".recipe"):
                fields.add(node.attr)
    return fields


def parameters_read(function: Function) -> set[str]:
    """Keyword parameters that the body loads."""
    loads = {n.id for part in function.body for n in ast.walk(part) if isinstance(n, ast.Name)}
    return {p.arg for p in function.args.kwonlyargs} & loads


@pytest.mark.parametrize("name", registry.methods.names())
def test_a_method_reads_each_key_that_it_accepts(name: str) -> None:
    place = method(name)
    read = parameters_read(place.node) | {
        field for f in reachable(place) for field in recipe_fields(f)
    }
    assert keys_read(registry.methods.entry(name)) - OF_RUN - read == set()


@pytest.mark.parametrize("name", registry.methods.names())
def test_a_method_accepts_each_key_that_it_reads(name: str) -> None:
    if "stages" in registry.methods.entry(name).settings:
        pytest.skip(
            "it reads the recipes of its stages too, and their methods are shown by themselves"
        )
    read = {field for f in reachable(method(name)) for field in recipe_fields(f)}
    # A job of training is read here too: the loader of a model passes the seed of fresh weights,
    # which an evaluation has not, and a resumed run looks whether its evaluation is left to do,
    # which reward_model has not.
    assert read - keys_read(registry.methods.entry(name)) - {"seed", "evaluation"} == set()


def test_the_proof_can_fail() -> None:
    """A parameter that the body passes over is not read; one that it hands on is."""
    (function,) = ast.parse(
        "def f(run, *, a: int = 1, b: int = 2):\n    return run.train(b, run.recipe.seed)"
    ).body
    assert isinstance(function, ast.FunctionDef)
    assert parameters_read(function) == {"b"} and recipe_fields(function) == {"seed"}
    assert any(f.name == "_optimizer" for f in reachable(Place("sft", "", function)))
    silent = ast.parse("def f(run, *, a: int = 1):\n    return run.open()").body[0]
    assert isinstance(silent, ast.FunctionDef)
    assert "learning_rate" not in {
        name for f in reachable(Place("sft", "", silent)) for name in recipe_fields(f)
    }


def test_every_field_of_a_section_is_read_somewhere() -> None:
    attributes: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        if path.name != "config.py":
            attributes |= {
                n.attr
                for n in ast.walk(ast.parse(path.read_text()))
                if isinstance(n, ast.Attribute)
            }
    sections = [c for c in vars(config).values() if dataclasses.is_dataclass(c)]
    assert len(sections) >= 10
    unread = [
        f"{c.__name__}.{f.name}"
        for c in sections
        for f in dataclasses.fields(c)
        if f.name not in attributes
    ]
    assert unread == []
