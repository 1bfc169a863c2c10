"""A module and its tests are found by one name."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SHARE = 0.85


def test_most_modules_have_a_namesake_test() -> None:
    source = ROOT / "src" / "posttrain"
    modules = [
        path.relative_to(source)
        for path in sorted(source.rglob("*.py"))
        if path.stem not in ("__init__", "__main__")
    ]
    missing = [
        str(module)
        for module in modules
        if not (ROOT / "tests" / module.parent / f"test_{module.name}").is_file()
    ]
    share = 1 - len(missing) / len(modules)
    assert share >= SHARE, f"{share:.1%} have a namesake test; missing: {', '.join(missing)}"
