"""A function's signature is its contract: registries that read signatures without importing the
code.

    @losses.register
    def cispo(logprobs, old_logprobs, advantages, *, clip_max: float = 5.0) -> PerToken:
        '''Equation, paper, shapes.'''

Positional parameters are inputs, keyword-only parameters are the settings that a recipe may set,
the docstring is the help. Names, signatures and help are read from the source text (`ast`), so that
listing, explaining and checking a recipe costs milliseconds and imports no torch; `get` imports the
file and returns the plain function.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from posttrain.config import Component
from posttrain.errors import ConfigError, nearest
from posttrain.typecheck import check

Function = TypeVar("Function", bound=Callable[..., Any])

REQUIRED: Any = inspect.Parameter.empty
_PACKAGE_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Setting:
    """A keyword-only parameter: annotation as written, default (REQUIRED where there is none)."""

    annotation: str
    default: Any


@dataclass(frozen=True, slots=True)
class Entry:
    """A registered function as its source text tells it."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    settings: Mapping[str, Setting]
    returns: str
    doc: str
    file: Path
    line: int
    accepts_columns: bool = False

    @property
    def result(self) -> str:
        """Name of the type that is returned; of a tuple, of its first: "PerPair" of
        tuple[PerPair, Metrics].
        """
        return _result_name(self.returns)

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return self.doc.strip().partition("\n")[0]

    def signature(self) -> str:
        """The call as a user would write it."""
        settings = [
            f"{name}: {s.annotation}" + ("" if s.default is REQUIRED else f" = {s.default!r}")
            for name, s in self.settings.items()
        ]
        return f"{self.name}({', '.join([*self.inputs, *(['*', *settings] if settings else [])])})"


@dataclass
class Registry:
    """The functions of one kind: those of a package of posttrain, and those of user files.

    kind: singular noun for messages. package: sub-package that holds the built-in ones. inputs: the
    closed vocabulary of positional parameters; None where any name is allowed (a reward's extra
    parameters name dataset columns).
    results: the types that a function may declare to return, where the caller acts on them, each
    with what it means; empty where it does not.
    """

    kind: str
    variable: str
    package: str
    inputs: frozenset[str] | None = None
    results: Mapping[str, str] = field(default_factory=dict)
    results_from: str = ""
    _plugins: list[Path] = field(default_factory=list)
    _functions: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def register(self, function: Function) -> Function:
        """Decorator: make the function known under its own name. It stays an ordinary function.

        A second function of the same name replaces the first, as when a notebook cell runs again.

        Raises:
            ConfigError: the name is that of a built-in function or of a plugin's, or the signature
                breaks the registry's rules. Nothing is registered then.
        """
        if not self._is_scanned(function):
            self._check_entry(self._runtime_entry(function), self._entries_of_files())
        self._functions[function.__name__] = function
        return function

    def entries(self) -> dict[str, Entry]:
        """All entries by name, read from source text and from functions registered at run time."""
        scanned = self._entries_of_files()
        own = {}
        for name, function in self._functions.items():
            if not self._is_scanned(function):
                own[name] = self._runtime_entry(function)
                self._check_entry(own[name], scanned)
        return dict(sorted({**own, **scanned}.items()))

    def names(self) -> list[str]:
        """Sorted names."""
        return list(self.entries())

    def entry(self, name: str) -> Entry:
        """The entry, or ConfigError with the nearest name."""
        entries = self.entries()
        if name not in entries:
            raise ConfigError(f"unknown {self.kind} {name!r}: {nearest(name, entries)}")
        return entries[name]

    def get(self, name: str) -> Callable[..., Any]:
        """The function itself; imports its file on first use."""
        if name not in self._functions:
            entry = self.entry(name)
            if entry.file.is_relative_to(_PACKAGE_FOLDER):
                importlib.import_module(f"posttrain.{self.package}.{entry.file.stem}")
            else:
                import_plugin(entry.file)
        return self._functions[name]

    def entry_of(self, component: Component) -> Entry:
        """The entry of a component, whose function may be given itself."""
        if component.function is None:
            return self.entry(component.name)
        entry = self._runtime_entry(component.function)
        self._check_entry(entry, {})
        return entry

    def bind_of(self, component: Component) -> Callable[..., Any]:
        """The component's function with its settings fixed."""
        if component.function is None:
            return self.bind(component.name, component.settings)
        return functools.partial(component.function, **component.settings)

    def check(self, name: str, settings: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Settings with their types checked against the signature; ConfigError names the place,
        value and rule.
        """
        entry = self.entry(name)
        for key in settings:
            if key not in entry.settings:
                raise ConfigError(
                    f"{where}: {self.kind} {name!r} has no setting {key!r}: "
                    f"{nearest(key, entry.settings)}"
                )
        missing = [
            k for k, s in entry.settings.items() if s.default is REQUIRED and k not in settings
        ]
        if missing:
            raise ConfigError(
                f"{where}: {self.kind} {name!r} needs the setting {missing[0]!r}; see: "
                f"{entry.signature()}"
            )
        return {
            k: check(v, entry.settings[k].annotation, f"{where}.{k}") for k, v in settings.items()
        }

    def bind(self, name: str, settings: Mapping[str, Any] | None = None) -> Callable[..., Any]:
        """The function with its settings fixed."""
        checked = self.check(name, settings or {}, self.kind)
        return functools.partial(self.get(name), **checked)

    def add_plugin(self, path: Path) -> None:
        """Make the functions of a user's file known."""
        if path not in self._plugins:
            self._plugins.append(path)

    def _entries_of_files(self) -> dict[str, Entry]:
        """Entries of the built-in functions and of the plugins."""
        entries: dict[str, Entry] = {}
        folder = _PACKAGE_FOLDER / self.package
        for path in [*sorted(folder.glob("*.py")), *self._plugins]:
            for entry in _scan(path, self.variable, self.kind):
                self._check_entry(entry, entries)
                entries[entry.name] = entry
        return entries

    def _is_scanned(self, function: Callable[..., Any]) -> bool:
        """Whether the function is in a file that is read as text; others come from a notebook,
        a script or a test.
        """
        file = _source_file(function)
        if file in self._plugins:
            return any(e.name == function.__name__ for e in _scan(file, self.variable, self.kind))
        return file.is_relative_to(_PACKAGE_FOLDER)

    def _runtime_entry(self, function: Callable[..., Any]) -> Entry:
        return _entry_of_function(function, self.kind, _source_file(function))

    def _check_entry(self, entry: Entry, others: Mapping[str, Entry]) -> None:
        """Refuse a name that is taken, an unknown input, and a return type that does not say
        what is compared.
        """
        place = f"{entry.file}:{entry.line}"
        if entry.name in others:
            other = others[entry.name]
            built_in = other.file.is_relative_to(_PACKAGE_FOLDER)
            raise ConfigError(
                f"{self.kind} {entry.name!r} is defined twice: {other.file}:{other.line}"
                f"{' (built in)' if built_in else ''} and {place}; rename the function at {place}"
            )
        unknown = [
            name for name in entry.inputs if self.inputs is not None and name not in self.inputs
        ]
        if unknown:
            raise ConfigError(
                f"{place}: {self.kind} {entry.name!r} asks for the input {unknown[0]!r}, which "
                "does not "
                f"exist: {nearest(unknown[0], self.inputs or ())}. Settings go after '*'."
            )
        if self.results and entry.result not in self.results:
            declared = (
                f"declares '-> {entry.returns}'" if entry.returns else "has no return annotation"
            )
            choices = ", ".join(f"-> {name} ({what})" for name, what in self.results.items())
            raise ConfigError(
                f"{place}: {self.kind} {entry.name!r} {declared}, which does not say what it "
                "returns. "
                f"Write one of {choices}{self.results_from}"
            )


def _source_file(function: Callable[..., Any]) -> Path:
    return Path(inspect.getsourcefile(function) or "")


def _result_name(annotation: str) -> str:
    """See `Entry.result`; "" where there is none."""
    if not annotation:
        return ""
    try:
        node = ast.parse(annotation, mode="eval").body
    except SyntaxError:
        return annotation
    if isinstance(node, ast.Constant) and isinstance(node.value, str):  # written in quotes
        return _result_name(node.value)
    if (
        isinstance(node, ast.Subscript)
        and ast.unparse(node.value).rpartition(".")[2].lower() == "tuple"
    ):
        first = node.slice.elts[0] if isinstance(node.slice, ast.Tuple) else node.slice
        return _result_name(ast.unparse(first))
    return (
        ast.unparse(node).rpartition(".")[2]
        if isinstance(node, ast.Name | ast.Attribute)
        else annotation
    )


def _entry_of_function(function: Callable[..., Any], kind: str, file: Path) -> Entry:
    parameters = inspect.signature(function).parameters.values()
    keyword = {
        p.name: Setting(
            "Any" if p.annotation is p.empty else _annotation_text(p.annotation), p.default
        )
        for p in parameters
        if p.kind is p.KEYWORD_ONLY
    }
    inputs = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
    columns = any(p.kind is p.VAR_KEYWORD for p in parameters)
    returns = inspect.signature(function).return_annotation
    returns = "" if returns is inspect.Signature.empty else _annotation_text(returns)
    line = function.__code__.co_firstlineno
    return Entry(
        kind,
        function.__name__,
        inputs,
        keyword,
        returns,
        inspect.getdoc(function) or "",
        file,
        line,
        columns,
    )


def _annotation_text(annotation: Any) -> str:
    """An annotation as it is written in source: a notebook without postponed annotations holds
    objects.
    """
    if isinstance(annotation, str):
        return annotation
    if annotation is None or annotation is type(None):
        return "None"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None:
        name = getattr(annotation, "__name__", None)
        return name or ("..." if annotation is Ellipsis else str(annotation))
    if origin is typing.Annotated:
        # Such as losses.inputs.PerPair = Annotated[Tensor, "PerPair"].
        named = annotation.__metadata__[0]
        return named if isinstance(named, str) else _annotation_text(arguments[0])
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_annotation_text, arguments))
    return f"{_annotation_text(origin)}[{', '.join(map(_annotation_text, arguments))}]"


@functools.lru_cache(maxsize=512)
def _parse(path: Path, modified: int) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except SyntaxError as error:
        raise ConfigError(f"{path}:{error.lineno}: not valid Python: {error.msg}") from error


def _scan(path: Path, variable: str, kind: str) -> list[Entry]:
    """Entries of the functions under `@<variable>.register` at the top level of a file."""
    entries = []
    for node in _parse(path, path.stat().st_mtime_ns).body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if not any(ast.unparse(d).endswith(f"{variable}.register") for d in node.decorator_list):
            continue
        a = node.args
        settings = {
            p.arg: Setting(
                ast.unparse(p.annotation) if p.annotation else "Any",
                REQUIRED if d is None else _literal(d),
            )
            for p, d in zip(a.kwonlyargs, a.kw_defaults, strict=True)
        }
        inputs = tuple(p.arg for p in (*a.posonlyargs, *a.args))
        returns = ast.unparse(node.returns) if node.returns else ""
        doc = ast.get_docstring(node) or ""
        entries.append(
            Entry(
                kind,
                node.name,
                inputs,
                settings,
                returns,
                doc,
                path,
                node.lineno,
                a.kwarg is not None,
            )
        )
    return entries


def _literal(node: ast.expr) -> Any:
    """The value of a default; expressions such as `2 * 3` or `()` are evaluated, anything else
    is shown as written.
    """
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def import_plugin(path: Path) -> None:
    """Run a user's file once, so that its decorators register. Errors in it are told with its
    own traceback.
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


# What each of these is: `losses.inputs`.
_LOSS_INPUTS = """
logprobs old_logprobs engine_logprobs ref_logprobs teacher_logprobs entropy forward_kl
reverse_kl log_collision distribution ref_distribution teacher_distribution foreign_distribution
aligned advantages scores values old_values returns labels target sequence num_sequences logprob
ref_logprob old_logprob engine_logprob length score reward label group kl shift given chosen
ref_chosen chosen_length chosen_score chosen_forward_kl rejected ref_rejected rejected_length
rejected_score rejected_forward_kl gold ref_gold gold_length margin probability step
entropy_weight reward_variance
"""

_SEARCH_INPUTS = frozenset({"prompts", "generate", "extract", "score", "value", "decode"})

# How its values are averaged hangs on what a loss declares to return (`training.objective`).
_LOSS_RESULTS = {
    "PerToken": "one value per target",
    "PerSequence": "one per sequence",
    "PerPair": "one per chosen and rejected pair",
    "PerGroup": "one per prompt",
    "PerBatch": "values that depend on the whole batch",
}
_LOSS_RESULTS_FROM = (
    ", or with metrics such as -> tuple[PerToken, Metrics]; import them: from "
    "posttrain.losses.inputs import PerToken, Metrics"
)
# A pipeline hands the model on from the stages that return a TrainingJob.
_METHOD_RESULTS = {"TrainingJob": "trains a model", "Job": "anything else"}
_METHOD_RESULTS_FROM = "; import it: from posttrain.methods.run import TrainingJob, Job"

losses = Registry(
    "loss", "losses", "losses", frozenset(_LOSS_INPUTS.split()), _LOSS_RESULTS, _LOSS_RESULTS_FROM
)
# What each of these is: `posttrain.advantages`.
_ADVANTAGE_INPUTS = (
    "rewards greedy_rewards lengths reward_table reward_weights baseline token_rewards values"
)

advantages = Registry("advantage", "advantages", "advantages", frozenset(_ADVANTAGE_INPUTS.split()))
rewards = Registry("reward", "rewards", "rewards")
searches = Registry("search strategy", "searches", "search", _SEARCH_INPUTS)
tasks = Registry("task", "tasks", "tasks", frozenset())
methods = Registry(
    "method", "methods", "methods", frozenset({"run"}), _METHOD_RESULTS, _METHOD_RESULTS_FROM
)

# What each of these is: `posttrain.penalties`.
penalties = Registry("penalty", "penalties", "penalties", frozenset({"parameter", "start"}))

REGISTRIES: dict[str, Registry] = {
    "losses": losses,
    "penalties": penalties,
    "advantages": advantages,
    "rewards": rewards,
    "searches": searches,
    "tasks": tasks,
    "methods": methods,
}


def load_plugins(paths: list[str], base: Path) -> None:
    """Make user files known to every registry.

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
        found = 0
        for registry in REGISTRIES.values():
            if _scan(path, registry.variable, registry.kind):
                found += 1
                registry.add_plugin(path)
        if not found:
            raise ConfigError(
                f"plugins: {text} registers nothing; decorate a function with e.g. "
                "@rewards.register"
            )
