"""How well and how fast near copies are found: duplicates.py [--rows 100000] [--seeds 0,1,2]
[--write]

Rows are made: sentences of words drawn by Zipf's law (exponent 1) from 20,000, with punctuation,
of about 300 characters each. One row in twenty is a planted copy of another row, of one of five
kinds:

    case          other case and line breaks
    one edit      one word replaced, left out or doubled
    three edits   three such edits
    cut           the last eighth is missing
    framed        six words before and after

A copy counts as found where it is reported as a copy of its source. A false alarm is a row that was
made and not planted, and is reported. Each seed is a process of its own, on one core, so that peak
memory is of this work alone: the rows, which are in memory, and what is held of them. The same
process reads the rows once without comparing them, and that memory is subtracted.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.data.duplicates import find_duplicates

RESULTS = Path(__file__).resolve().parent / "results" / "duplicates.json"
KINDS = ("case", "one edit", "three edits", "cut", "framed")
NUM_WORDS, LENGTH, PLANTED = 20_000, 300, 20


def vocabulary() -> tuple[np.ndarray, np.ndarray]:
    """Words and their probabilities."""
    draw = random.Random(0)
    words = {"".join(draw.choices("abcdefghijklmnoprstuvw", k=draw.randint(2, 9))) for _ in
             range(2 * NUM_WORDS)}  # fmt: skip
    weights = 1 / np.arange(1, NUM_WORDS + 1)
    return np.array(sorted(words)[:NUM_WORDS]), weights / weights.sum()


def made(seed: int, number: int) -> tuple[list[str], list[int], list[str]]:
    """Rows, and of each planted one its source and kind. Planted rows stand at the end."""
    words, weights = vocabulary()
    draw = np.random.default_rng(seed)
    rows = []
    while len(rows) < number - number // PLANTED:
        drawn = draw.choice(words, 60, p=weights)
        marks = draw.choice(["", "", "", "", "", "", ",", "."], 60)
        rows.append(" ".join(w + m for w, m in zip(drawn, marks, strict=True))[:LENGTH])
    sources = draw.choice(len(rows), number - len(rows), replace=False).tolist()
    kinds = [KINDS[i % len(KINDS)] for i in range(len(sources))]
    plan = random.Random(seed)
    copies = [planted(plan, rows[s], kind, words) for s, kind in zip(sources, kinds, strict=True)]
    return rows + copies, sources, kinds


def planted(draw: random.Random, text: str, kind: str, vocabulary: np.ndarray) -> str:
    """A copy of one kind."""
    words = text.split(" ")
    if kind == "case":
        return "\n".join(words).upper()
    if kind == "cut":
        return " ".join(words[: len(words) * 7 // 8])
    if kind == "framed":
        around = [str(draw.choice(vocabulary)) for _ in range(12)]
        return " ".join([*around[:6], *words, *around[6:]])
    for _ in range(1 if kind == "one edit" else 3):
        place = draw.randrange(len(words))
        other = str(draw.choice(vocabulary))
        words[place : place + 1] = draw.choice([[other], [], [words[place]] * 2])
    return " ".join(words)


def peak() -> float:
    """Most memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(seed: int, number: int) -> dict[str, Any]:
    """One seed: recall by kind, false alarms, seconds, memory."""
    rows, sources, kinds = made(seed, number)
    num_made = len(rows) - len(sources)
    find_duplicates(rows[:10])
    before, start, cpu = peak(), time.perf_counter(), time.process_time()
    result = find_duplicates(rows)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    found = result.first[num_made:] == np.array(sources)
    names = np.array(kinds)
    return {
        "seed": seed,
        "rows": len(rows),
        "mean_characters": round(sum(map(len, rows)) / len(rows), 1),
        "found": round(float(found.mean()), 4),
        "found_by_kind": {k: round(float(found[names == k].mean()), 4) for k in KINDS},
        "false_alarms": round(float((result.first[:num_made] >= 0).mean()), 6),
        "pairs_compared": int(result.num_compared),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "peak_mib": round(peak(), 1),
        "peak_mib_above_rows": round(peak() - before, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--one", type=int, help="measure this seed in this process")
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measured(options.one, options.rows)))
        return
    runs = []
    for seed in options.seeds.split(","):
        command = [sys.executable, __file__, "--rows", str(options.rows), "--one", seed]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        runs.append(json.loads(done.stdout))
        print(json.dumps(runs[-1], indent=1))
    if options.write:
        RESULTS.write_text(json.dumps({"runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
