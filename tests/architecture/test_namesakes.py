"""A module and its tests are found by one name: `a/b.py` is tested in `tests/a/test_b.py`.

Left out are `__init__.py` and `__main__.py`, and modules that hold nothing but constants and names
of types in fewer than 25 lines of code.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SHARE = 0.85
MAX_CONSTANT_LINES = 25

CONSTANT_STATEMENTS = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)


def is_constant(text: str) -> bool:
    """Whether a module has only imports, constants and names of types, and few of them."""
    tree = ast.parse(text)
    statements = [
        node
        for node in tree.body
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    num_lines = sum((node.end_lineno or 0) - node.lineno + 1 for node in statements)
    plain = all(isinstance(node, CONSTANT_STATEMENTS) for node in statements)
    return plain and num_lines < MAX_CONSTANT_LINES


def namesake(module: Path) -> Path:
    """The test file of a module; both are relative, to the package and to tests/."""
    return module.parent / f"test_{module.name}"


def modules() -> list[Path]:
    """The modules that need tests of their names, relative to the package."""
    source = ROOT / "src" / "posttrain"
    return [
        path.relative_to(source)
        for path in sorted(source.rglob("*.py"))
        if path.stem not in ("__init__", "__main__") and not is_constant(path.read_text())
    ]


def test_most_modules_have_a_namesake_test() -> None:
    every = modules()
    missing = [str(m) for m in every if not (ROOT / "tests" / namesake(m)).is_file()]
    share = 1 - len(missing) / len(every)
    assert share >= SHARE, f"{share:.1%} have tests of their names; missing: {', '.join(missing)}"


def test_a_namesake_holds_tests() -> None:
    empty = []
    for module in modules():
        file = ROOT / "tests" / namesake(module)
        if file.is_file():
            nodes = ast.walk(ast.parse(file.read_text()))
            names = [node.name for node in nodes if isinstance(node, ast.FunctionDef)]
            empty += [] if any(name.startswith("test_") for name in names) else [str(file)]
    assert not empty


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"""A."""\nfrom typing import Any\nX = {"a": 1}\n"""What X is."""\nY: int = 2\n', True),
        ("def f():\n    return 1\n", False),
        ("class A:\n    x = 1\n", False),
        ("X = 1\nif X:\n    Y = 2\n", False),
        ("\n".join(f"X{i} = {i}" for i in range(30)), False),
    ],
)
def test_the_rule_of_what_is_left_out(text: str, expected: bool) -> None:
    assert is_constant(text) is expected
