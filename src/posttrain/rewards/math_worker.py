"""A process that judges one pair after another with math-verify. It may be killed at any moment.

Run as `python -m posttrain.rewards.math_worker`. Each line of standard input is a JSON list [gold,
prediction]; each line of standard output is true, false, or a text that says what went wrong.
math-verify bounds its time by signals, which work only on a main thread: here is one. The pool's
own deadline catches what signals cannot interrupt.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys

MAX_BYTES = 2 << 30
"""Address space of a judging process: sympy takes 0.3 GB, a tower of powers all there is."""


def judge(gold: str, prediction: str) -> bool:
    """Whether the two are mathematically equal. The order matters to math-verify: gold first."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    configs = [LatexExtractionConfig(), ExprExtractionConfig()]
    marked = gold if "$" in gold else f"${gold}$"
    golds = parse(marked, extraction_config=configs, parsing_timeout=2)
    predictions = parse(f"\\boxed{{{prediction}}}", extraction_config=configs, parsing_timeout=2)
    return bool(golds and predictions and verify(golds, predictions, timeout_seconds=2))


def limit_memory(num_bytes: int = MAX_BYTES) -> None:
    """Let an allocation beyond num_bytes of address space fail, where the system can do so."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))


def main() -> None:
    """Answer until the input ends, which it does when the parent is gone."""
    logging.disable(logging.CRITICAL)
    limit_memory()
    try:
        import math_verify  # noqa: F401 (so that "ready" means ready)
    except ImportError:
        print(json.dumps("missing"), flush=True)
        return
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        gold, prediction = json.loads(line)
        try:
            answer: bool | str = judge(gold, prediction)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
