"""Types of settings, read from source text without importing the module that declares them.

An annotation may use built-in types, names of the standard library, the classes of
`posttrain.config` and `posttrain.types`, and aliases that are assigned at the top level of its own
file or of another file of posttrain. Any other name becomes an `Opaque` type.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError

PACKAGE_FOLDER = Path(__file__).parent

# Modules of posttrain that may be imported for a type: they import no torch.
_LIGHT = frozenset(
    {
        "posttrain",
        "posttrain.cluster_config",
        "posttrain.component",
        "posttrain.config",
        "posttrain.data_config",
        "posttrain.engine_config",
        "posttrain.model_config",
        "posttrain.overlap_config",
        "posttrain.types",
    }
)


class _Opaque(type):
    """Lets an unknown name stand in `np.ndarray`, `Array[int]` and `Thing | None`."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return opaque(f"{cls.__name__}.{name}")

    def __getitem__(cls, item: Any) -> Any:
        return cls


class Opaque(metaclass=_Opaque):
    """Base of types that only the running module knows."""


def opaque(name: str) -> Any:
    """A type of which only the name is known."""
    return type.__new__(_Opaque, name, (Opaque,), {})


@functools.lru_cache(maxsize=512)
def _parse(path: Path, modified: int) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except SyntaxError as error:
        raise ConfigError(f"{path}:{error.lineno}: not valid Python: {error.msg}") from error


def parse(path: Path) -> ast.Module:
    """The syntax tree of a file, cached until the file changes.

    Raises:
        ConfigError: the file is not valid Python.
    """
    return _parse(path, path.stat().st_mtime_ns)


class Scope(Mapping[str, Any]):
    """The names at the top level of a source file; their values are resolved on access."""

    def __init__(self, path: Path) -> None:
        self._imports: dict[str, tuple[str, str]] = {}  # name -> (module, name in it or "")
        self._aliases: dict[str, ast.expr] = {}
        self._open: set[str] = set()
        for node in parse(path).body:
            if isinstance(node, ast.Import):
                for item in node.names:
                    name = item.asname or item.name.partition(".")[0]
                    self._imports[name] = (item.name if item.asname else name, "")
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for item in node.names:
                    self._imports[item.asname or item.name] = (node.module, item.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                self._aliases |= {t.id: node.value for t in targets if isinstance(t, ast.Name)}

    def __len__(self) -> int:
        return len(self._imports) + len(self._aliases)

    def __iter__(self) -> Any:
        return iter([*self._imports, *self._aliases])

    def __getitem__(self, name: str) -> Any:
        if name in self._aliases and name not in self._open:
            self._open.add(name)  # an alias that names itself is not followed for ever
            try:
                return self.evaluate(ast.unparse(self._aliases[name]))
            finally:
                self._open.discard(name)
        if name in self._imports:
            return _imported(*self._imports[name])
        return getattr(builtins, name) if hasattr(builtins, name) else opaque(name)

    def origin(self, dotted: str) -> str:
        """A dotted name with its first part replaced by what it was imported as: pt.loss with
        `import posttrain as pt` is posttrain.loss.
        """
        first, dot, rest = dotted.partition(".")
        module, name = self._imports.get(first, (first, ""))
        return f"{module}.{name}{dot}{rest}" if name else f"{module}{dot}{rest}"

    def evaluate(self, text: str) -> Any:
        """The type that an expression names; an opaque one where it names none."""
        try:
            value = eval(text, {"__builtins__": {}}, self)
        except Exception:
            return opaque(text)
        return self.evaluate(value) if isinstance(value, str) else value

    def value(self, node: ast.expr) -> Any:
        """The value of a literal or of a constant: a name at the top level of the file, or one that
        it imports from the standard library or from this package, such as math.inf.

        Raises:
            ValueError: it is neither.
        """
        try:
            return ast.literal_eval(node)
        except ValueError:
            pass
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self.value(node.operand)
        if isinstance(node, ast.Name) and node.id in self._aliases and node.id not in self._open:
            self._open.add(node.id)
            try:
                return self.value(self._aliases[node.id])
            finally:
                self._open.discard(node.id)
        module, _, name = self.origin(ast.unparse(node)).rpartition(".")
        if isinstance(node, ast.Name | ast.Attribute) and module:
            return _constant(module, name)
        raise ValueError(ast.unparse(node))


def _constant(module: str, name: str) -> Any:
    """The value of a constant of a module, without importing torch."""
    if module in _LIGHT or module.partition(".")[0] in sys.stdlib_module_names:
        owner = importlib.import_module(module)
        if not callable(getattr(owner, name, len)):
            return getattr(owner, name)
    path = PACKAGE_FOLDER.parent.joinpath(*module.split(".")).with_suffix(".py")
    if module.startswith("posttrain.") and path.is_file():
        return scope_of(path).value(ast.Name(name))
    raise ValueError(f"{module}.{name}")


def _imported(module: str, name: str) -> Any:
    """What `from module import name` or `import module` gives, without importing torch."""
    if module in _LIGHT or module.partition(".")[0] in sys.stdlib_module_names:
        imported = importlib.import_module(module)
        return getattr(imported, name, opaque(name)) if name else imported
    path = PACKAGE_FOLDER.parent.joinpath(*module.split(".")).with_suffix(".py")
    if name and module.startswith("posttrain.") and path.is_file():
        scope = scope_of(path)
        return scope[name] if name in scope else opaque(name)
    return opaque(name or module)


@functools.lru_cache(maxsize=256)
def _scope(path: Path, modified: int) -> Scope:
    return Scope(path)


def scope_of(path: Path) -> Scope:
    """The names of a file, cached until it changes."""
    return _scope(path, path.stat().st_mtime_ns)


def spelled(hint: Any) -> str:
    """A type as it is written in source: "float | None", "Literal['a', 'b']"."""
    if isinstance(hint, str):
        return hint
    if hint is None or hint is type(None):
        return "None"
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is None:
        return getattr(hint, "__name__", None) or ("..." if hint is Ellipsis else str(hint))
    if origin is typing.Annotated:
        return spelled(arguments[0])
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(spelled, arguments))
    return f"{spelled(origin)}[{', '.join(map(spelled, arguments))}]"
