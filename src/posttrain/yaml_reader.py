"""Reading YAML that someone else may have written: bounded, without surprises, with one short
error.

Beside what PyYAML's safe loader refuses, this refuses mappings with a key twice, keys that are no
text, values that contain themselves, and documents that are larger than `MAX_SIZE` once their
aliases are written out. Dates stay text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from posttrain.errors import ConfigError, shown

MAX_SIZE = 1_000_000
"""Most values plus characters of a document, each alias counted as what it stands for."""

MAX_DEPTH = 50
"""Most collections inside one another."""

MAX_INTEGER = 10**308
"""Largest whole number: what a float can hold."""

_TIMESTAMP = "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
    """The safe loader, with text for dates, text keys alone, and no key twice."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node, unless it is nested too deeply."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"more than {MAX_DEPTH} levels inside one another",
                problem_mark=self._mark(),
            )
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def _mark(self) -> Any:
        return self.peek_event().start_mark

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: Any) -> int:
        """A whole number that a float can hold."""
        value = int(super().construct_yaml_int(node))
        if abs(value) > MAX_INTEGER:
            raise yaml.MarkedYAMLError(
                problem="a whole number beyond 1e308", problem_mark=node.start_mark
            )
        return value

    def _check_keys(self, node: yaml.MappingNode) -> None:
        """Refuse keys that are no text, and a key that stands twice."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if isinstance(key, yaml.ScalarNode) and key.value == "on" and key.style is None:
                key.tag = "tag:yaml.org,2002:str"  # YAML 1.1 reads a bare `on` as true
            if key.tag != "tag:yaml.org,2002:str":
                written = (
                    shown(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                )
                problem = f"the key {written} is not text; put quotation marks around it"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            if key.value in lines:
                problem = (
                    f"the key {shown(key.value)} stands in line {lines[key.value]} already; keep "
                    "one"
                )
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            lines[key.value] = line


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def read_yaml(text: str, source: str) -> Any:
    """The value of a YAML document.

    Args:
        source: name of the file or option, for messages.
    Raises:
        ConfigError: names source, line, the rule, in one line.
    """
    if len(text) > MAX_SIZE:
        raise ConfigError(
            f"{source} has {len(text):,} characters; YAML read here has at most {MAX_SIZE:,}"
        )
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node, source)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {_one_line(error)}") from error
    except RecursionError as error:
        raise ConfigError(
            f"{source} is not valid YAML: more than {MAX_DEPTH} levels inside one another"
        ) from error
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        # PyYAML's constructors pass on what Python says of a value: a number of 5,000 digits,
        # !!float x.
        raise ConfigError(
            f"{source} is not valid YAML: a value cannot be read ({error})"
        ) from error
    finally:
        if loader is not None:
            loader.dispose()


def read_yaml_file(path: Path) -> Any:
    """The value of a YAML file.

    Raises:
        ConfigError: it cannot be read, is not UTF-8, or `read_yaml` refuses it.
    """
    try:
        if path.stat().st_size > 4 * MAX_SIZE:
            raise ConfigError(
                f"{path} has {path.stat().st_size:,} bytes; YAML read here has at most "
                f"{MAX_SIZE:,} characters"
            )
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        raise ConfigError(
            f"{path}:{line}: not UTF-8 text (byte 0x{byte:02x}); save the file as UTF-8"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    return read_yaml(text, str(path))


def _check_size(root: yaml.Node, source: str) -> None:
    """Refuse a document that contains itself, or whose aliases would make it too large."""
    sizes: dict[int, int] = {}
    entered: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        if id(node) in entered:
            raise yaml.MarkedYAMLError(
                problem="the value contains itself through an alias (*name)",
                problem_mark=node.start_mark,
            )
        if isinstance(node, yaml.ScalarNode):
            total = 1 + len(node.value)
        else:
            entered.add(id(node))
            parts = [
                p for item in node.value for p in (item if isinstance(item, tuple) else (item,))
            ]
            total = 1 + sum(size(part) for part in parts)
        sizes[id(node)] = total
        return total

    if size(root) > MAX_SIZE:
        raise ConfigError(
            f"{source}: its aliases (*name) stand for {shown(sizes[id(root)])} values and "
            "characters, and at most "
            f"{MAX_SIZE:,} are read; write out what is meant"
        )


def _one_line(error: yaml.YAMLError) -> str:
    """Place, context and problem of an error."""
    mark = getattr(error, "problem_mark", None)
    place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    problem = (
        getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
    )
    context = getattr(error, "context", None)
    return place + (f"{context}, {problem}" if context else str(problem))
