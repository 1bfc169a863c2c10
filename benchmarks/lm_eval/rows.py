"""Rows of the tasks in this folder, from tasks of posttrain: 100 held-out chains of arithmetic, and
100 texts whose words are counted.

    .venv/bin/python benchmarks/lm_eval/rows.py FOLDER

It also copies the tasks' YAML files. Run lm-eval in that folder, with `--include_path .`.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

from posttrain.tasks.arithmetic import arithmetic

HERE = Path(__file__).resolve().parent
WORDS = "apple river stone cloud green yellow candle garden needle bridge"


def sums() -> list[dict[str, Any]]:
    """Held-out chains of two operations: the question, the work up to the last result, and four
    results of which one is right.
    """
    draw = random.Random(0)
    rows = []
    for example in arithmetic(split="test", num_examples=100, num_steps=2).examples:
        right = int(example.answer)
        others = draw.sample([n for n in range(max(0, right - 9), right + 10) if n != right], 3)
        results = sorted([right, *others])
        work, _, _ = str(example.completion).partition("\n####")
        rows.append(
            {
                "prompt": example.prompt,
                "answer": example.answer,
                "work": work.rpartition("=")[0] + "=",
                "results": [str(result) for result in results],
                "label": results.index(right),
            }
        )
    return rows


def counts() -> list[dict[str, Any]]:
    """Words to count."""
    draw = random.Random(1)
    texts = [draw.sample(WORDS.split(), draw.randint(2, 4)) for _ in range(100)]
    return [{"text": " ".join(words), "answer": str(len(words))} for words in texts]


def main() -> None:
    """Write the folder."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in {"sums": sums(), "counts": counts()}.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    for path in HERE.glob("*.yaml"):
        shutil.copy(path, folder)


if __name__ == "__main__":
    main()
