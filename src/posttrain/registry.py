"""A function's signature is its contract: registries that read signatures without importing code.

    @losses.register(per="token")
    def cispo(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_max: float = 5.0):
        '''Equation, paper, shapes.'''

Positional parameters are inputs, keyword-only parameters are settings, the docstring is the help,
and the decorator's keyword values say what a signature cannot. The function stays an ordinary one.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, overload

from posttrain import inputs
from posttrain.annotations import PACKAGE_FOLDER
from posttrain.checked import checked, unchecked
from posttrain.component import Component
from posttrain.declarations import (
    ADVANTAGE_DECLARES,
    LOSS_DECLARES,
    REWARD_DECLARES,
    SELECTOR_DECLARES,
)
from posttrain.entry import (
    REQUIRED,
    Declaration,
    Entry,
    Setting,
    entries_of_file,
    entry_of_function,
    source_file,
    unwrapped,
)
from posttrain.errors import ConfigError, nearest
from posttrain.typecheck import check

__all__ = ["REGISTRIES", "REQUIRED", "Declaration", "Entry", "Registry", "Setting"]

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass
class Registry:
    """The functions of one kind: those of a package of posttrain, and those of users.

    Attributes:
        kind: singular noun for messages. variable: the registry's name in this module.
        package: sub-package that holds the built-in functions. also: another one that does.
        inputs: the closed vocabulary of positional parameters; None where any name is allowed (a
            reward's parameters may name columns of the data).
        declares: the keyword values that the decorator takes; None where it takes any.
    """

    kind: str
    variable: str
    package: str
    inputs: Collection[str] | None = None
    declares: Mapping[str, Declaration] | None = None
    also: str = ""
    _plugins: list[Path] = field(default_factory=list)
    _functions: dict[str, Callable[..., Any]] = field(default_factory=dict)
    _declared: Any = field(default_factory=weakref.WeakKeyDictionary, repr=False)
    _of_functions: Any = field(default_factory=weakref.WeakKeyDictionary, repr=False)
    _of_files: dict[Any, dict[str, Entry]] = field(default_factory=dict, repr=False)

    @overload
    def register(self, function: Function, /) -> Function: ...

    @overload
    def register(self, /, **declared: Any) -> Callable[[Function], Function]: ...

    def register(self, function: Any = None, /, **declared: Any) -> Any:
        """Decorator: register the function under its own name, and return it.

        A function of the package is returned with its settings checked (`checked`), any other
        unchanged.

        A second function of the same name replaces the first, as when a notebook cell runs again.
        A lambda is not listed, as it has no name; it can be used where functions are accepted.

        Args:
            declared: values that the registry asks for, such as per="token" of a loss.
        Raises:
            ConfigError: the name is that of a built-in function or of a plugin's, or the signature
                breaks the registry's rules. Nothing is registered then.
        """
        if function is None:
            return functools.partial(self.register, **declared)
        if not self._is_scanned(function):
            entry = entry_of_function(function, self.kind, declared)
            entry = self._checked(entry, self._entries_of_files())
            self._of_functions[function] = entry
        name = getattr(function, "__name__", "")
        if name.isidentifier() and source_file(function).is_relative_to(PACKAGE_FOLDER):
            function = checked(function, functools.partial(self.entry, name))
        self._declared[function] = declared
        if name.isidentifier():
            self._functions[name] = function
        return function

    def entries(self) -> dict[str, Entry]:
        """All entries by name."""
        scanned = self._entries_of_files()
        others = {
            name: self._entry_of_function(function, scanned)
            for name, function in self._functions.items()
            if not self._is_scanned(function)
        }
        return dict(sorted({**others, **scanned}.items()))

    def names(self) -> list[str]:
        """Sorted names."""
        return list(self.entries())

    def entry(self, name: str) -> Entry:
        """The entry of a name.

        Raises:
            ConfigError: no function has the name; the message suggests the nearest one.
        """
        scanned = self._entries_of_files()
        function = self._functions.get(name)
        if function is not None and not self._is_scanned(function):
            return self._entry_of_function(function, scanned)
        if name not in scanned:
            raise ConfigError(f"unknown {self.kind} {name!r}: {nearest(name, self.entries())}")
        return scanned[name]

    def get(self, name: str) -> Callable[..., Any]:
        """The function of a name; imports its file on first use."""
        entry = self.entry(name)
        if name not in self._functions:
            if entry.file.is_relative_to(PACKAGE_FOLDER):
                place = f"posttrain.{entry.file.parent.name}.{entry.file.stem}"
                # Registered by the import, if this is the first one.
                self._functions.setdefault(name, getattr(importlib.import_module(place), name))
            else:
                import_plugin(entry.file)
        return self._functions[name]

    def entry_of(self, component: Component) -> Entry:
        """The entry of a component, which holds a name or the function itself.

        Raises:
            ConfigError: as `entry` and `register`.
        """
        if component.function is None:
            return self.entry(component.name)
        return self._entry_of_function(component.function, {})

    def bind_of(self, component: Component, where: str = "") -> Callable[..., Any]:
        """The component's function with its settings checked and fixed."""
        settings = self.check_of(component, where or self.kind)
        function = component.function or self.get(component.name)
        return functools.partial(unchecked(function), **settings)

    def check(self, name: str, settings: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Settings, converted to the types of the signature.

        Raises:
            ConfigError: an unknown, missing or wrong setting; names the place, value and rule.
        """
        return self.check_of(Component(name, dict(settings)), where)

    def check_of(self, component: Component, where: str) -> dict[str, Any]:
        """As `check`, of a component."""
        entry, settings = self.entry_of(component), component.settings
        for key in settings:
            if key not in entry.settings:
                raise ConfigError(
                    f"{where}: {self.kind} {entry.name!r} has no setting {key!r}: "
                    f"{nearest(key, entry.settings)}"
                )
        for key, setting in entry.settings.items():
            if setting.default is REQUIRED and key not in settings:
                raise ConfigError(
                    f"{where}: {self.kind} {entry.name!r} needs the setting {key!r}; see: "
                    f"{entry.signature()}"
                )
        return {k: check(v, entry.settings[k].hint, f"{where}.{k}") for k, v in settings.items()}

    def bind(self, name: str, settings: Mapping[str, Any] | None = None) -> Callable[..., Any]:
        """The function with its settings checked and fixed."""
        return self.bind_of(Component(name, dict(settings or {})))

    def add_plugin(self, path: Path) -> None:
        """Add the functions of a user's file."""
        if path not in self._plugins:
            self._plugins.append(path)

    def _entries_of_files(self) -> dict[str, Entry]:
        """Entries of the built-in functions and of the plugins; read again where a plugin
        changed.
        """
        plugins = tuple((path, path.stat().st_mtime_ns) for path in self._plugins)
        key = (self.package, plugins)
        if key not in self._of_files:
            entries: dict[str, Entry] = {}
            built_in = [*_files_of(self.package), *(_files_of(self.also) if self.also else ())]
            for path in (*built_in, *self._plugins):
                for entry in entries_of_file(path, self.variable, self.kind):
                    entries[entry.name] = self._checked(entry, entries)
            self._of_files.clear()
            self._of_files[key] = entries
        return self._of_files[key]

    def _is_scanned(self, function: Callable[..., Any]) -> bool:
        """Whether the function is in a file that is read as text; others come from a notebook,
        a script or a test.
        """
        code = getattr(unchecked(function), "__code__", None)
        if code is None and not isinstance(function, type):
            return False
        file = source_file(function) if code is None else Path(code.co_filename)
        if file in self._plugins:
            entries = entries_of_file(file, self.variable, self.kind)
            return any(entry.name == function.__name__ for entry in entries)
        return file.is_relative_to(PACKAGE_FOLDER)

    def _entry_of_function(
        self, function: Callable[..., Any], others: Mapping[str, Entry]
    ) -> Entry:
        try:
            entry = self._of_functions.get(function)
        except TypeError:  # an object that cannot be hashed or referenced
            entry = None
        if entry is not None:
            return self._checked(entry, others)
        declared: Mapping[str, Any] = {}
        for candidate in (function, unwrapped(function)):
            try:
                declared = declared or self._declared.get(candidate, {})
            except TypeError:
                continue
        return self._checked(entry_of_function(function, self.kind, declared), others)

    def _checked(self, entry: Entry, others: Mapping[str, Entry]) -> Entry:
        """The entry with defaults of what its decorator left out.

        Raises:
            ConfigError: a name that is taken, an unknown input, or a missing or wrong declaration.
        """
        if entry.name in others:
            other = others[entry.name]
            built_in = " (built in)" if other.file.is_relative_to(PACKAGE_FOLDER) else ""
            raise ConfigError(
                f"{self.kind} {entry.name!r} is defined twice: {other.place}{built_in} and "
                f"{entry.place}; rename the function at {entry.place}"
            )
        for name in entry.inputs if self.inputs is not None else ():
            if name not in self.inputs:  # type: ignore[operator]
                raise ConfigError(
                    f"{entry.place}: {self.kind} {entry.name!r} asks for the input {name!r}, which "
                    f"does not exist: {nearest(name, self.inputs or ())}. Settings go after '*'."
                )
        if self.declares is None:
            return entry
        for key, value in entry.declared.items():
            choices = self.declares[key].choices if key in self.declares else {}
            if not any(value == c and type(value) is type(c) for c in choices):
                raise ConfigError(
                    f"{entry.place}: {self.kind} {entry.name!r} declares {key}={value!r}, which "
                    f"is not known. {self._shown_choices()}"
                )
        for key, declaration in self.declares.items():
            if declaration.default is REQUIRED and key not in entry.declared:
                lines = [
                    f"@{self.variable}.register({key}={value!r}) ({meaning})"
                    for value, meaning in declaration.choices.items()
                ]
                raise ConfigError(
                    f"{entry.place}: {self.kind} {entry.name!r} does not declare {key}. Write one "
                    f"of these above it: {', '.join(lines)}"
                )
        defaults = {key: declaration.default for key, declaration in self.declares.items()}
        return replace(entry, declared={**defaults, **entry.declared})

    def _shown_choices(self) -> str:
        lines = [
            f"{key}={value!r} ({meaning})"
            for key, declaration in (self.declares or {}).items()
            for value, meaning in declaration.choices.items()
        ]
        return ", ".join(lines) or "There is nothing to declare."


@functools.cache
def _files_of(package: str) -> tuple[Path, ...]:
    return tuple(sorted((PACKAGE_FOLDER / package).glob("*.py")))


def import_plugin(path: Path) -> None:
    """Run a user's file once, so that its decorators register.

    Raises:
        ConfigError: the file is not Python, or raised on import.
    """
    name = f"posttrain_plugin_{path.stem}_{abs(hash(str(path)))}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"plugin {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(
            f"plugin {path} failed on import: {type(error).__name__}: {error}"
        ) from error


losses = Registry("loss", "losses", "losses", inputs.LOSS_INPUTS, LOSS_DECLARES)
advantages = Registry(
    "advantage", "advantages", "advantages", inputs.ADVANTAGE_INPUTS, ADVANTAGE_DECLARES
)
rewards = Registry("reward", "rewards", "rewards", declares=REWARD_DECLARES)
searches = Registry("search strategy", "searches", "search", inputs.SEARCH_INPUTS)
tasks = Registry("task", "tasks", "tasks", ())
environments = Registry("environment", "environments", "episodes", ())
methods = Registry("method", "methods", "methods", (), also="loops")
penalties = Registry("penalty", "penalties", "penalties", frozenset({"parameter", "start"}))
retentions = Registry("retention method", "retentions", "retentions", ())
qualities = Registry("quality measure", "qualities", "qualities", inputs.QUALITY_INPUTS)
selectors = Registry(
    "selector", "selectors", "selectors", inputs.SELECTOR_INPUTS, SELECTOR_DECLARES
)
labellers = Registry("labeller", "labellers", "labellers", ())
selections = Registry("selection", "selections", "incontext", inputs.SELECTION_INPUTS)
orders = Registry("order", "orders", "incontext", inputs.ORDER_INPUTS)
calibrations = Registry("calibration", "calibrations", "incontext", inputs.CALIBRATION_INPUTS)

REGISTRIES: dict[str, Registry] = {
    registry.variable: registry
    for registry in (
        *(losses, penalties, advantages, rewards, searches, tasks, environments, methods),
        *(retentions, qualities, selectors, labellers, selections, orders, calibrations),
    )
}


def load_plugins(paths: list[str], base: Path) -> None:
    """Add user files to every registry.

    Args:
        paths: as written in the recipe, relative to `base`.
    Raises:
        ConfigError: a file does not exist or registers nothing.
    """
    for text in paths:
        path = (base / text).resolve()
        if not path.is_file():
            raise ConfigError(
                f"plugins: no file {text!r} (looked for {path}); paths are relative to the recipe"
            )
        users = [r for r in REGISTRIES.values() if entries_of_file(path, r.variable, r.kind)]
        if not users:
            raise ConfigError(
                f"plugins: {text} registers nothing; decorate a function with e.g. "
                "@rewards.register"
            )
        for registry in users:
            registry.add_plugin(path)
