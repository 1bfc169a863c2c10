"""What a registry knows of a function: its inputs, its settings and what its decorator declares.

Entries of files are read from the source text, so that listing and checking import neither the
file nor torch. Entries of functions of a notebook or a script are read from the function.
"""

from __future__ import annotations

import ast
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain import config
from posttrain.annotations import PACKAGE_FOLDER, Scope, opaque, parse, scope_of, spelled
from posttrain.component import name_of
from posttrain.errors import ConfigError

REQUIRED: Any = inspect.Parameter.empty
METHOD = "method"  # all parameters of a method are settings, and keys of a recipe


@dataclass(frozen=True)
class Setting:
    """A keyword-only parameter.

    Attributes:
        annotation: as written. default: REQUIRED where there is none.
        scope: names of the file that it is written in; None where the annotation is resolved.
    """

    annotation: str
    default: Any
    resolved: Any = Any
    scope: Scope | None = field(default=None, repr=False, compare=False)

    @functools.cached_property
    def hint(self) -> Any:
        """The annotation as a type, with aliases resolved. Resolving may parse other files, so it
        waits until the type is asked for: the page of all commands asks for none.
        """
        return self.resolved if self.scope is None else self.scope.evaluate(self.annotation)

    def __str__(self) -> str:
        default = "required" if self.default is REQUIRED else f"default {self.default!r}"
        return f"{spelled(self.hint)}, {default}"


@dataclass(frozen=True, slots=True)
class Declaration:
    """A value that a decorator declares, as in `@losses.register(per="token")`.

    Attributes:
        choices: the allowed values, each with its meaning. default: REQUIRED where the decorator
        must declare one.
    """

    choices: Mapping[Any, str]
    default: Any = REQUIRED


@dataclass(frozen=True, slots=True)
class Entry:
    """A registered function.

    Attributes:
        inputs: positional parameters. settings: keyword-only parameters. returns: the return
        annotation as written. accepts_columns: whether it takes **kwargs. declared: the keyword
        values of its decorator, defaults included.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    settings: Mapping[str, Setting]
    returns: str
    doc: str
    file: Path
    line: int
    accepts_columns: bool = False
    declared: Mapping[str, Any] = field(default_factory=dict)

    @property
    def per(self) -> Any:
        """What each value that the function returns belongs to, such as "token" or "pair"."""
        return self.declared.get("per")

    @property
    def summary(self) -> str:
        """First sentence of the docstring."""
        return first_sentence(self.doc)

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.file}:{self.line}"

    def signature(self) -> str:
        """The call as a user would write it."""
        settings = []
        for name, s in self.settings.items():
            default = "" if s.default is REQUIRED else f" = {s.default!r}"
            settings.append(f"{name}: {spelled(s.hint)}{default}")
        star = ["*", *settings] if settings else []
        return f"{self.name}({', '.join([*self.inputs, *star])})"


def first_sentence(text: str) -> str:
    """The first sentence of a text, on one line."""
    paragraph = " ".join(text.strip().partition("\n\n")[0].split())
    head, stop, _ = paragraph.partition(". ")
    return head + stop.rstrip()


def unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function within any number of `functools.partial` and checks of its settings."""
    while isinstance(function, functools.partial):
        function = function.func
    inner: Callable[..., Any] = getattr(function, "__unchecked__", function)
    return inner


def source_file(function: Callable[..., Any]) -> Path:
    """Where a function is defined; an empty path where that is unknown."""
    function = unwrapped(function)
    try:
        source = inspect.getsourcefile(function)
    except OSError:  # a class of a notebook
        source = None
    except TypeError:  # an object with __call__
        try:
            source = inspect.getsourcefile(type(function))
        except (TypeError, OSError):
            source = None
    return Path(source or "")


def entry_of_function(
    function: Callable[..., Any], kind: str, declared: Mapping[str, Any]
) -> Entry:
    """The entry of a function object: also of a lambda or a `functools.partial`.

    Raises:
        ConfigError: the object has no signature that can be read.
    """
    name, plain = name_of(function), unwrapped(function)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{kind} {name!r} has no signature to read: {error}") from error
    parameters = signature.parameters.values()
    names = getattr(plain, "__globals__", {})
    settings = {
        p.name: _setting(p.annotation, p.default, names)
        for p in parameters
        if p.kind is p.KEYWORD_ONLY or kind == METHOD
    }
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    returns = signature.return_annotation
    code = getattr(plain, "__code__", None)
    return Entry(
        kind,
        name,
        tuple(p.name for p in parameters if p.kind in positional and kind != METHOD),
        settings,
        "" if returns is inspect.Signature.empty else spelled(returns),
        inspect.getdoc(plain) or "",
        source_file(function),
        code.co_firstlineno if code else 0,
        any(p.kind is p.VAR_KEYWORD for p in parameters),
        dict(declared),
    )


def _setting(annotation: Any, default: Any, names: Mapping[str, Any]) -> Setting:
    if annotation is inspect.Parameter.empty:
        return Setting("Any", default)
    hint = annotation
    if isinstance(annotation, str):  # from __future__ import annotations
        try:
            hint = eval(annotation, {**vars(typing), **names})
        except Exception:
            hint = opaque(annotation)
    return Setting(spelled(annotation), default, hint)


def _may_register(path: Path) -> bool:
    """Whether a file has to be parsed. The package's own decorators are all `NAME.register`."""
    return not path.is_relative_to(PACKAGE_FOLDER) or ".register" in path.read_text("utf-8")


@functools.lru_cache(maxsize=1024)
def _scan(path: Path, variable: str, kind: str, modified: int) -> tuple[Entry, ...]:
    if not _may_register(path):
        return ()
    scope = scope_of(path)
    entries = []
    for node in parse(path).body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        declared = _declared_by(node, scope, variable, kind, path)
        if declared is None:
            continue
        a = _arguments(node)
        positional = [*a.posonlyargs, *a.args]
        parameters = list(zip(a.kwonlyargs, a.kw_defaults, strict=True))
        if kind == METHOD:
            defaults = [None] * (len(positional) - len(a.defaults)) + [*a.defaults]
            parameters = [*zip(positional, defaults, strict=True), *parameters]
            positional = []
        settings = {
            p.arg: _setting_in_text(
                p, default, scope, f"{path}:{node.lineno}: {kind} {node.name!r}"
            )
            for p, default in parameters
        }
        entry = Entry(
            kind,
            node.name,
            tuple(p.arg for p in positional),
            settings,
            _returns(node),
            ast.get_docstring(node) or "",
            path,
            node.lineno,
            a.kwarg is not None,
            declared,
        )
        entries.append(entry)
    return tuple(entries)


_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _arguments(node: _Definition) -> ast.arguments:
    """The parameters of a function, or of a class when it is called."""
    if not isinstance(node, ast.ClassDef):
        return node.args
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
            a = inner.args
            before, others = a.posonlyargs, a.args  # one of them begins with self
            before, others = (before[1:], others) if before else ([], others[1:])
            return ast.arguments(
                before, others, a.vararg, a.kwonlyargs, a.kw_defaults, a.kwarg, a.defaults
            )
    return ast.arguments([], [], None, [], [], None, [])


def _returns(node: _Definition) -> str:
    if isinstance(node, ast.ClassDef):
        return node.name
    return ast.unparse(node.returns) if node.returns else ""


def entries_of_file(path: Path, variable: str, kind: str) -> tuple[Entry, ...]:
    """Entries of the functions and classes at the top level of a file that a registry's decorator
    marks.

    `@losses.register`, `@losses.register(per="token")` and, with posttrain imported as pt,
    `@pt.loss(per="token")` mark a loss.
    """
    return _scan(path, variable, kind, path.stat().st_mtime_ns)


def _declared_by(
    node: _Definition, scope: Scope, variable: str, kind: str, path: Path
) -> dict[str, Any] | None:
    """The keyword values of the registry's decorator; None where the function has none."""
    for decorator in node.decorator_list:
        call = decorator if isinstance(decorator, ast.Call) else None
        text = scope.origin(ast.unparse(call.func if call else decorator))
        short = f"posttrain.{kind.partition(' ')[0]}"
        if text != short and not f".{text}".endswith(f".{variable}.register"):
            continue
        declared = {}
        for keyword in call.keywords if call else ():
            try:
                declared[str(keyword.arg)] = ast.literal_eval(keyword.value)
            except ValueError:
                raise ConfigError(
                    f"{path}:{decorator.lineno}: {kind} {node.name!r} declares {keyword.arg}="
                    f"{ast.unparse(keyword.value)}; write the value itself, as text or a number"
                ) from None
        return declared
    return None


def topic_of(path: Path) -> str:
    """The first sentence of a file's docstring."""
    return first_sentence(ast.get_docstring(parse(path)) or path.stem).removesuffix(".")


def _setting_in_text(
    parameter: ast.arg, default: ast.expr | None, scope: Scope, where: str
) -> Setting:
    """A setting of a function in a file.

    Raises:
        ConfigError: its default is no value that can be read. where: the function.
    """
    try:
        value = REQUIRED if default is None else _value(default, scope)
    except ValueError as error:
        raise ConfigError(
            f"{where}: the default of setting {parameter.arg!r} is {error}, which is no value that "
            "can be read without running the file; write the value itself, a constant of the file, "
            "or the name of a registered function as text"
        ) from None
    if parameter.annotation is None:
        return Setting("Any", value)
    return Setting(ast.unparse(parameter.annotation), value, scope=scope)


def _value(node: ast.expr, scope: Scope) -> Any:
    """The value of a default: a literal, a constant, or a section such as
    CreditConfig(whiten=True).

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        section = getattr(config, node.func.id, None)
        if section is not None:
            return section(**{str(k.arg): _value(k.value, scope) for k in node.keywords})
    return scope.value(node)
