"""The work that both engines of `engine_peer.py` do. Needs neither of them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

CASES = {
    "shared": "64 samples of one prompt",
    "distinct": "64 different prompts",
    "stream": "one stream",
}
PROMPT_TOKENS, NEW_TOKENS = 512, 128
TRIALS = 2  # after a warm-up; the faster one counts


def prompts_of(case: str, vocabulary: int, trial: int) -> list[tuple[int, ...]]:
    """Token ids of random prompts of a trial."""
    draw = random.Random(f"{case} {trial}")
    count = 64 if case == "distinct" else 1
    return [
        tuple(draw.randrange(2, vocabulary) for _ in range(PROMPT_TOKENS)) for _ in range(count)
    ]


def timed(run: Callable[[int], None]) -> float:
    """Seconds of the faster trial. Trial 0 warms up and does not count."""
    seconds = []
    for trial in range(TRIALS + 1):
        started = time.perf_counter()
        run(trial)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
