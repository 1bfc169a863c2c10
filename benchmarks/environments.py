"""Published environments, run as they are through the adapters of `posttrain.episodes`.

    python benchmarks/environments.py [--only NAME,...] [--sources FOLDER]

Every environment is a file of another project at a pinned commit, run in an interpreter of its own,
benchmarks/.environments/NAME, at pinned versions, because their pins clash. Nothing of them is
changed. Each is played by the model `embedded-tools`, and by a policy that is written for the
environment, whose reward is known: it shows that turns, tool calls and rewards come through. The
result lies in benchmarks/results/environments.json. Where sources or packages cannot be had, an
environment is left out with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FOLDER = HERE / ".environments"
RESULT = HERE / "results" / "environments.json"

SHARED = ["torch==2.13.0", "transformers==5.23.0", "rich==15.0.0", "pyyaml", "jinja2", "fastapi"]
PACKAGES = {
    "trl": ["trl==1.16.0", "peft==0.21.2", "openenv==0.10.0"],
    "verifiers-0.1": ["verifiers==0.1.14", "reasoning-gym==0.1.25"],
    "verifiers-0.4": ["verifiers==0.4.0"],
}
"""Interpreter -> packages beside `SHARED`. Of openenv only the requirements are used."""

TRL = ("https://github.com/huggingface/trl", "f2cd57710ae345ea6428ae95363267fcf38a3dc8")
OPENENV = ("https://github.com/meta-pytorch/OpenEnv", "c67734d3401b5090357e889e77d214d876e6e4fb")
VERIFIERS = "https://github.com/PrimeIntellect-ai/verifiers"
LEGACY = (VERIFIERS, "9daf5a9337e1d3516b0f7086909db2cbf24a42b6")
TASKSETS = (VERIFIERS, "a60a606ecc4d309247edf9ff92c3eabca362781f")

Source = tuple[tuple[str, str], str]


@dataclass(frozen=True)
class Published:
    """An environment of another project.

    Attributes:
        interpreter: key of `PACKAGES`.
        sources: ((repository, commit), path) of what it needs; the first is the environment.
        reward: least mean reward of the policy that is written for it.
    """

    interpreter: str
    sources: tuple[Source, ...]
    reward: float


ENVIRONMENTS = {
    "trl-2048": Published("trl", ((TRL, "examples/scripts/grpo_2048.py"),), 4.0),
    "trl-echo": Published(
        "trl",
        (
            (TRL, "examples/scripts/openenv/echo.py"),
            (OPENENV, "envs/echo_env"),
            (OPENENV, "src/openenv"),
        ),
        1.2,
    ),
    "verifiers-tool-test": Published("verifiers-0.1", ((LEGACY, "environments/tool_test"),), 1.0),
    "verifiers-reasoning-gym": Published(
        "verifiers-0.1", ((LEGACY, "environments/reasoning_gym_env"),), 1.0
    ),
    "verifiers-glossary": Published("verifiers-0.4", ((TASKSETS, "environments/glossary"),), 1.0),
}


class Unavailable(RuntimeError):
    """Why an environment cannot be run here."""


def interpreter(name: str) -> Path:
    """The interpreter with an environment's packages, made where it is missing.

    Raises:
        Unavailable: they cannot be installed.
    """
    folder = FOLDER / name
    python = folder / "bin" / "python"
    if (folder / ".ready").exists():
        return python
    _run([sys.executable, "-m", "venv", str(folder)])
    for packages in (SHARED[:1], [*SHARED, *PACKAGES[name]]):  # torch first chooses its build
        _run([str(python), "-m", "pip", "install", "--quiet", *packages])
    (folder / ".ready").touch()
    return python


def fetched(source: Source, folder: Path) -> Path:
    """The path of a source below a folder, fetched where it is missing.

    Raises:
        Unavailable: it cannot be fetched.
    """
    (repository, commit), path = source
    checkout = folder / f"{repository.rpartition('/')[2]}-{commit[:9]}"
    if not (checkout / path).exists():
        checkout.mkdir(parents=True, exist_ok=True)
        git = ["git", "-C", str(checkout)]
        if not (checkout / ".git").exists():
            _run([*git, "init", "--quiet"])
            _run([*git, "remote", "add", "origin", repository])
        _run([*git, "fetch", "--quiet", "--depth=1", "--filter=blob:none", "origin", commit])
        _run([*git, "checkout", "--quiet", commit, "--", path])
    return checkout / path


def _run(command: list[str]) -> None:
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        lines = process.stderr.strip().splitlines() or ["no message"]
        raise Unavailable(f"{' '.join(command[:4])} ...: {lines[-1][:200]}")


def measured(name: str, sources: Path) -> dict[str, Any]:
    """The figures of an environment, from a process of its own.

    Raises:
        Unavailable: sources or packages cannot be had.
    """
    published = ENVIRONMENTS[name]
    paths = [str(fetched(source, sources)) for source in published.sources]
    python = interpreter(published.interpreter)
    variables = {**os.environ, "PYTHONPATH": str(HERE.parent / "src"), "HF_HUB_OFFLINE": "1"}
    command = [str(python), str(HERE / "side_environments.py"), name, *paths]
    process = subprocess.run(command, capture_output=True, text=True, env=variables)
    if process.returncode:
        raise RuntimeError(f"{name}:\n{process.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(process.stdout.strip().splitlines()[-1])
    (repository, commit), path = published.sources[0]
    return {"source": f"{repository}/tree/{commit}/{path}", **figures}


def problems(name: str, figures: dict[str, Any]) -> list[str]:
    """What is wrong with the figures of an environment."""
    failed = [who for who in ("model", "policy") if figures[who]["failed"]]
    found = [f"{name}: episodes of the {who} failed" for who in failed]
    reward, expected = figures["policy"]["reward"], ENVIRONMENTS[name].reward
    if reward is None or reward < expected - 1e-6:
        found.append(f"{name}: the policy's reward is {reward}, of at least {expected}")
    return found


def line(name: str, figures: dict[str, Any]) -> str:
    """The figures of an environment as a line of text."""
    parts = [
        f"{who}: {f['episodes']} episodes, {f['failed']} failed, reward {f['reward']}, "
        f"{f['turns']} turns, {f['tool_calls']} tool calls, {f['seconds']} s"
        for who, f in ((who, figures[who]) for who in ("policy", "model"))
    ]
    return f"{name:24s} {'; '.join(parts)}"


def main(arguments: list[str] | None = None) -> int:
    """Run all environments, or those that are named. 1 where one does not run as it should."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", default=",".join(ENVIRONMENTS), help="names, by commas")
    parser.add_argument("--sources", type=Path, default=FOLDER / "sources")
    chosen = parser.parse_args(arguments)
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    found: list[str] = []
    for name in chosen.only.split(","):
        try:
            results[name] = measured(name, chosen.sources)
        except Unavailable as reason:
            print(f"{name:24s} skipped: {reason}")
            continue
        print(line(name, results[name]))
        found += problems(name, results[name])
    RESULT.write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(found), file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
