"""Which demonstrations help? demonstrations.py [DATA] [--models ...] [--seeds 0,1,2,3,4] [--plot]

Labels texts in context with each arm below: a number of demonstrations, a selection, an order, a
calibration. Each seed has its own questions and demonstrations, the same for all arms, so arms are
paired by seed. Every arm of a seed is kept in the results' file as soon as it is measured; a second
call goes on where the first stopped.

    demonstrations.py ../shared/data/trec_mr --models ../shared/models/stories260K embedded-icl
    demonstrations.py words --models embedded-icl
    demonstrations.py rows.tsv --models Qwen/Qwen2.5-7B --shots 0,4,16
    demonstrations.py rows.tsv --endpoint http://localhost:8000/v1 --name my-model

DATA is "words" (the task labelled_words), a folder with TREC.train.all and TREC.test.all, or a file
of the columns text and label. The table shows the accuracy with Student's t interval over seeds,
and the paired difference from random demonstrations with its p-value.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from figures import HERE

import posttrain as pt
from posttrain.evaluation.statistics import paired_t, t_interval
from posttrain.incontext.rows import Labelled, labelled_rows
from posttrain.report.tradeoff import Line, tradeoff_svg

RESULTS = HERE / "results" / "demonstrations.json"
TREC = ("description", "thing", "abbreviation", "person", "place", "number")
ARMS: dict[str, dict[str, Any]] = {
    "random": {"selection": "random"},
    "words": {"selection": "nearest", "order": "similarity"},
    "bm25": {"selection": "bm25", "order": "similarity"},
    "hidden": {"selection": {"name": "nearest", "features": "hidden"}, "order": "as_selected"},
    "k_center": {"selection": "k_center"},
    "dpp": {"selection": "dpp"},
    "global_entropy": {"order": {"name": "global_entropy", "num_orders": 8, "num_probes": 16}},
    "local_entropy": {"order": {"name": "local_entropy", "num_orders": 8, "num_probes": 16}},
    "contextual": {"calibration": "contextual"},
    "domain": {"calibration": "domain"},
    "batch": {"calibration": "batch"},
}
TEXT_ALONE = ("random", "words", "bm25", "k_center", "dpp")  # arms that a server can be asked with


def trec(path: Path) -> list[Labelled]:
    """Questions of TREC by coarse label: lines of a number from 0 to 5, a space, and the text."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="latin-1").splitlines()):
        label, _, text = line.partition(" ")
        rows.append(Labelled(text, label, f"{path.name}:{number}"))
    return rows


def rows_of(data: str, seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """Questions and rows to choose from, shuffled by the seed."""
    draw = np.random.default_rng(seed)
    folder = Path(data)
    if data == "words":
        task = {"name": "labelled_words", "num_examples": 400, "seed": seed + 1000}
        rows = labelled_rows(task)
        return rows[:200], rows[200:]
    if (folder / "TREC.train.all").exists():
        asked, pool = trec(folder / "TREC.test.all"), trec(folder / "TREC.train.all")
    else:
        rows = labelled_rows(data)
        order = draw.permutation(len(rows))
        rows = [rows[place] for place in order]
        asked, pool = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    asked = [asked[place] for place in draw.permutation(len(asked))]
    return asked, [pool[place] for place in draw.permutation(len(pool))]


def measure(model: Any, data: str, arm: str, shots: int, seed: int, options: Any) -> dict[str, Any]:
    """One arm of one seed."""
    asked, pool = rows_of(data, seed)
    longest = max(options.max_words, 1)
    pool = [row for row in pool if len(row.text.split()) <= longest][: options.pool]
    result = pt.icl(
        model,
        asked[: options.examples],
        demonstrations=pool,
        labels=sorted({row.label for row in [*asked, *pool]}),
        num_shots=shots,
        num_examples=options.examples,
        template={"words": options.words} if options.words else None,
        seed=seed,
        **ARMS[arm],
    )
    return {"accuracy": result.accuracy().estimate, "ece": result.ece(), "n": len(result.rows)}


def cell(model: str, data: str, arm: str, shots: int, options: Any) -> str:
    """The name of an arm in the results' file."""
    name = model.rstrip("/").split("/")[-1]
    place = data.rstrip("/").split("/")[-1]
    return f"{name} | {place} | {arm} | {shots} | {options.examples} of {options.pool}"


def table(kept: dict[str, Any], models: Sequence[str], options: Any) -> list[str]:
    """Lines of the table: a line for each model, number of demonstrations and arm."""
    lines = ["| model | demonstrations | arm | accuracy | ECE | minus random | p |"]
    lines.append("|---|---|---|---|---|---|---|")
    for model in models:
        for shots in options.shots:
            base = kept.get(cell(model, options.data, "random", shots, options), {})
            for arm in options.arms:
                found = kept.get(cell(model, options.data, arm, shots, options), {})
                seeds = [str(s) for s in options.seeds if str(s) in found]
                if not seeds:
                    continue
                accuracy = t_interval([found[s]["accuracy"] for s in seeds])
                ece = np.mean([found[s]["ece"] for s in seeds])
                both = [s for s in seeds if s in base]
                against = paired_t(
                    [base[s]["accuracy"] for s in both], [found[s]["accuracy"] for s in both]
                )
                half = accuracy.high - accuracy.estimate
                gap = "" if arm == "random" else f"{against.estimate:+.3f}"
                p = "" if arm == "random" or math.isnan(against.p_value) else against.p_value
                lines.append(
                    f"| {model.rstrip('/').split('/')[-1]} | {shots} | {arm} | "
                    f"{accuracy.estimate:.3f} ± {half:.3f} | {ece:.3f} | {gap} | "
                    f"{p if p == '' else f'{p:.3f}'} |"
                )
    return lines


def plot(kept: dict[str, Any], models: Sequence[str], options: Any) -> str:
    """Accuracy against the number of demonstrations, a line for each model and arm."""
    lines = []
    for model in models:
        for arm in options.arms:
            points = []
            for shots in options.shots:
                found = kept.get(cell(model, options.data, arm, shots, options), {})
                if len(found) < 2 or shots == 0:
                    continue
                interval = t_interval([found[s]["accuracy"] for s in found])
                low, high = max(interval.low, 0.0), min(interval.high, 1.0)
                points.append((float(shots), interval.estimate, low, high))
            if points:
                lines.append(Line(f"{model.rstrip('/').split('/')[-1]}, {arm}", points))
    drawn = tradeoff_svg("Accuracy by demonstrations", lines)
    return drawn.replace("tokens per problem", "demonstrations")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", default="words")
    parser.add_argument("--models", nargs="*", default=["embedded-icl"])
    parser.add_argument("--endpoint", help="URL of a server, in place of models")
    parser.add_argument("--name", help="the model's name at the server")
    parser.add_argument("--shots", default="0,4,8")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--examples", type=int, default=60)
    parser.add_argument("--pool", type=int, default=300)
    parser.add_argument("--max-words", type=int, default=20, help="of a demonstration")
    parser.add_argument("--words", type=json.loads, default={}, help="label -> word, as JSON")
    parser.add_argument("--plot", help="an SVG file of accuracy against demonstrations")
    options = parser.parse_args()
    options.shots = [int(n) for n in options.shots.split(",")]
    options.arms = options.arms.split(",")
    options.seeds = [int(n) for n in options.seeds.split(",")]
    return options


def main() -> None:
    options = arguments()
    if (Path(options.data) / "TREC.train.all").exists() and not options.words:
        # The file numbers the coarse labels in this order.
        options.words = dict(zip("012345", TREC, strict=True))
    models: dict[str, Any] = {place: place for place in options.models}
    if options.endpoint:
        models = {options.name: pt.Endpoint(url=options.endpoint, model=options.name)}
        options.arms = [arm for arm in options.arms if arm in TEXT_ALONE]
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for place, model in models.items():
        loaded = model if options.endpoint else pt.load(model)
        for seed in options.seeds:
            for shots in options.shots:
                for arm in options.arms if shots else ["random"]:
                    found = kept.setdefault(cell(place, options.data, arm, shots, options), {})
                    if str(seed) in found:
                        continue
                    found[str(seed)] = measure(loaded, options.data, arm, shots, seed, options)
                    print(place, seed, shots, arm, found[str(seed)], flush=True)
                    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    print("\n".join(table(kept, list(models), options)))
    if options.plot:
        Path(options.plot).write_text(plot(kept, list(models), options))


if __name__ == "__main__":
    main()
