"""Programs and tests per second in the sandbox, and the reference solutions of HumanEval and MBPP.

    .venv/bin/python benchmarks/sandbox.py [--data FOLDER] [--seconds 10] [--workers 0]

    programs       print one number, compared with standard output
    functions      sort a list, three assertions in another sandbox
    hostile        one program in four is hostile, of kinds that end by themselves: what a policy
                   writes that has found the tests
    humaneval      all reference solutions, if FOLDER/humaneval is there
    mbpp           all reference solutions, if FOLDER/mbpp is there

The first three repeat for `--seconds` each, after a start that is not counted. The machine's load
before each is kept beside it: on a machine that others use too, rates are those of a share of its
cores. Results go to results/sandbox.json as they come.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import describe

from posttrain.rewards.code import judge
from posttrain.sandbox.limits import SandboxLimits
from posttrain.sandbox.pool import FunctionTests, Sandbox
from posttrain.types import Example, Task

RESULTS = Path(__file__).resolve().parent / "results" / "sandbox.json"
RIGHT = "def f(x):\n    return sorted(x)\n"
TESTS = FunctionTests(
    ("assert f([2, 1]) == [1, 2]", "assert f([]) == []", "assert f([3, 3, 1]) == [1, 3, 3]"),
    ("f",),
)
HOSTILE = (
    "import os\nos._exit(0)",
    "import os\nwhile True:\n    os.fork()",
    "class E(list):\n    def __eq__(s, o): return True\ndef f(x): return E(x)",
    "x = []\nwhile True: x.append(bytearray(50 << 20))",
    "import os\nos.kill(-1, 9)",
)
_BATCH = 16


def rate(sandbox: Sandbox, call: Callable[[int], bool], seconds: float) -> dict[str, Any]:
    """Calls per second, over at least `seconds`, and whether each gave what it should."""
    sandbox.each(call, list(range(_BATCH)))
    load, started, count, right = os.getloadavg()[0], time.monotonic(), 0, True
    for first in itertools.count(0, _BATCH):
        right &= all(sandbox.each(call, list(range(first, first + _BATCH))))
        count += _BATCH
        if time.monotonic() - started >= seconds:
            break
    elapsed = time.monotonic() - started
    return {"per_second": round(count / elapsed, 1), "right": right, "load": round(load, 1)}


def solutions(sandbox: Sandbox, task: Task) -> dict[str, Any]:
    """Reference solutions that pass, and how many are judged per second."""
    limits = SandboxLimits(seconds=30)

    def passes(example: Example) -> bool:
        return judge(sandbox, str(example.completion), example.columns, limits).reward(False) == 1

    load, started = os.getloadavg()[0], time.monotonic()
    verdicts = sandbox.each(passes, task.examples)
    return {
        "problems": len(verdicts),
        "passed": sum(verdicts),
        "per_second": round(len(verdicts) / (time.monotonic() - started), 1),
        "load": round(load, 1),
    }


def main() -> None:
    """Measure and write results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": describe()}

    def keep(name: str, value: dict[str, Any]) -> None:
        results[name] = value
        print(name, json.dumps(value))
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")

    def program(number: int) -> bool:
        return sandbox.run(f"print({number} * 2)").stdout == f"{number * 2}\n"

    def function(number: int) -> bool:
        return sandbox.test(RIGHT, TESTS).passed

    def mixed(number: int) -> bool:
        hostile = number % 4 == 0
        source = HOSTILE[number // 4 % len(HOSTILE)] if hostile else RIGHT
        return sandbox.test(source, TESTS).passed != hostile

    with Sandbox(num_workers=options.workers, limits=SandboxLimits(seconds=10)) as sandbox:
        for name, call in (("programs", program), ("functions", function), ("hostile", mixed)):
            keep(name, rate(sandbox, call, options.seconds))
        import posttrain as pt

        if (options.data / "humaneval").exists():
            task = pt.task.humaneval(path=str(options.data / "humaneval"))
            keep("humaneval", solutions(sandbox, task))
        if (options.data / "mbpp").exists():
            task = pt.task.mbpp(path=str(options.data / "mbpp"), split="all")
            keep("mbpp", solutions(sandbox, task))


if __name__ == "__main__":
    main()
