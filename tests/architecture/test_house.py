"""House rules that a machine can read."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SOURCE = ROOT / "src" / "posttrain"
FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc", "manager"}


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def test_no_vague_file_names() -> None:
    assert not [p for p in files() if p.stem in FORBIDDEN_NAMES]


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the last of the body, but for those of the docstring."""
    lines = (node.end_lineno or 0) - node.lineno + 1
    if ast.get_docstring(node) is None:
        return lines
    docstring = node.body[0]
    return lines - ((docstring.end_lineno or 0) - docstring.lineno + 1)


def test_the_length_of_a_function_counts_its_signature_and_no_docstring() -> None:
    source = 'def f(\n    x,\n):\n    """One.\n\n    Two.\n    """\n    return x\n'
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef) and length(function) == 4


def test_files_and_functions_stay_short() -> None:
    long_files = [(str(p), n) for p in files() if (n := len(p.read_text().splitlines())) > 400]
    long_functions = [
        f"{path.name}:{node.lineno} {node.name} {length(node)}"
        for path in files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length(node) > 60
    ]
    assert not long_files
    assert not long_functions


def public(tree: ast.Module) -> list[ast.FunctionDef | ast.ClassDef]:
    """Functions and classes of a module, and the methods of its public classes; what is nested
    in functions is private.
    """
    found: list[ast.FunctionDef | ast.ClassDef] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            found.append(node)
            if isinstance(node, ast.ClassDef):
                found += [
                    n
                    for n in node.body
                    if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")
                ]
    return found


def test_longer_public_functions_say_what_they_do() -> None:
    silent = []
    trees = {path: ast.parse(path.read_text()) for path in files()}
    # A method that implements a protocol, or that a subclass has to write, is explained there.
    protocols = [
        n
        for t in trees.values()
        for n in t.body
        if isinstance(n, ast.ClassDef)
        and ("Protocol" in map(ast.unparse, n.bases) or n.name in ("Labeller", "Learner"))
    ]
    explained = {
        m.name
        for p in protocols
        for m in p.body
        if isinstance(m, ast.FunctionDef) and ast.get_docstring(m)
    }
    assert {"batches", "join"} <= explained
    for path, tree in trees.items():
        if not ast.get_docstring(tree):
            silent.append(f"{path.name}: module")
        silent += [
            f"{path.name}:{node.lineno} {node.name}"
            for node in public(tree)
            if (node.end_lineno or 0) - node.lineno + 1 > 6
            and not ast.get_docstring(node)
            and node.name not in explained
        ]
    assert not silent


def test_nothing_is_left_to_do() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    found = [
        f"{p}:{i}"
        for p in files()
        for i, line in enumerate(p.read_text().splitlines(), 1)
        if marks.search(line)
    ]
    assert not found


def test_the_loop_stands_in_architecture_verbatim() -> None:
    source = (SOURCE / "training" / "loop.py").read_text()
    start = source.index("    for step in range(state.step, steps):")
    loop = source[start : source.index("    return state")]
    page = (ROOT / "ARCHITECTURE.md").read_text()
    indented = "\n".join(line for line in loop.rstrip().splitlines())
    assert indented in page
