"""What does a stream of domains do to each domain? continual_pretraining.py DATA MODEL [--write]

DATA is a folder with the text corpora, the O-LoRA benchmark and the T0 tasks; MODEL a small model
of stories. Each set becomes a stream of domains, cut to equal sizes, and is trained on in several
ways over the same seeds: random and similar order, swapped halves, replay, a larger batch,
and schedules of the learning rate. The embedded model is trained on worked examples of its tasks.
Each claim of arXiv 2402.17400 and 2403.08763 is tested by a paired difference over seeds. A run
that was cut off is gone on with.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from figures import HERE

import posttrain as pt
from posttrain.errors import ConfigError
from posttrain.evaluation.statistics import holm, paired_t
from posttrain.evaluation.streams import Stream, Streams

WORK = HERE / ".work" / "continual_pretraining"
RESULTS = HERE / "results" / "continual_pretraining.json"

CORPORA = {
    "shakespeare": "tinyshakespeare.txt.gz",
    "sherlock": "sherlock.txt",
    "stories": "tinystories_2MiB.txt.gz",
    "wikipedia": "wikitext2_valid.txt.gz",
}
OLORA = ("agnews", "amazon", "BoolQA", "MNLI")
T0_DOMAINS = 5
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "sums": ("arithmetic", {"num_steps": 1}),
    "sorting": ("sorting", {}),
    "countdown": ("countdown", {}),
}

SHARED: dict[str, Any] = {
    "num_seeds": 5,
    "batch_size": 4,
    "steps_per_domain": 16,
    "learning_rate": 2e-3,
    "warmup_steps": 0.1,
    "train_characters": 40_000,
    "held_out_characters": 3_000,
}
ORDERS = [{"order": "random"}, {"order": "similar"}]
REPLAY = {"order": "random", "replay_share": 0.25, "name": "random, replay 25%"}
SETTINGS = [
    {"order": "random"},
    {"order": "random", "batch_size": 16, "name": "random, batch 16"},
    {"order": "random", "rate_schedule": "constant", "name": "random, constant rate"},
    {"order": "random", "rate_schedule": "continued", "name": "random, one decay"},
    {"order": "swapped"},
]

RUNS: dict[str, dict[str, Any]] = {
    "text_corpora": {"streams": [*ORDERS, REPLAY], "num_keywords": 0},
    "embedded tasks": {"streams": [*ORDERS, REPLAY], "num_keywords": 0},
    "olora_cl_benchmark": {"streams": [*ORDERS, REPLAY], "num_keywords": 0},
    "t0_multitask": {"streams": ORDERS, "num_keywords": 0},
    "text_corpora, settings": {"streams": SETTINGS, "num_keywords": 0},
}

Rows = dict[str, list[dict[str, str]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("model")
    parser.add_argument("--only", action="append", default=[], help="a run; may be repeated")
    parser.add_argument("--similarity", default="embeddings", help="words or embeddings")
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    results = {}
    for name in options.only or RUNS:
        started = time.process_time()
        result = run(name, options)
        results[name] = {
            **result.to_json(),
            "model": Path(result.model).name,
            "settings": {**SHARED, **RUNS[name], "similarity": options.similarity},
            "claims": claims(result),
            "cpu_seconds": round(time.process_time() - started, 1),
        }
        for line in results[name]["claims"]:
            print(
                f"{line['verdict']:15}  {line['claim']}: {line['estimate']:+.4f} "
                f"[{line['low']:+.4f}, {line['high']:+.4f}], p {line['p_value']:.2g}"
            )
        if options.write:
            old = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            RESULTS.write_text(json.dumps(_rounded({**old, **results}), indent=1) + "\n")


def run(name: str, options: argparse.Namespace) -> Streams:
    """One set of domains, gone on with where it was cut off."""
    rows = domains(name, options.data)
    output = options.work / name.replace(", ", "-").replace(" ", "-")
    model = "embedded" if name == "embedded tasks" else options.model
    settings = {**SHARED, **RUNS[name]}
    data = {domain: pt.Data.of(texts, max_length=96) for domain, texts in rows.items()}
    return pt.continual_pretraining(
        model,
        data,
        similarity=options.similarity,
        output=output,
        resume=True,
        **settings,
    )


def domains(name: str, data: Path) -> Rows:
    """The rows of each domain."""
    if name.startswith("text_corpora"):
        return {
            domain: [{"text": text} for text in _paragraphs(data / "text_corpora" / file)]
            for domain, file in CORPORA.items()
        }
    if name == "olora_cl_benchmark":
        return {domain: _labelled(data / name / domain) for domain in OLORA}
    if name == "t0_multitask":
        files = sorted((data / name).glob("*.jsonl"))
        chosen = files[:: max(1, len(files) // T0_DOMAINS)][:T0_DOMAINS]
        return {file.stem: _prompted(file) for file in chosen}
    if name == "embedded tasks":
        return {domain: _worked(*task) for domain, task in TASKS.items()}
    raise ConfigError(f"--only: there is no run {name!r}; one of {', '.join(RUNS)}")


def _text(file: Path) -> str:
    raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    return raw.decode("utf-8")


def _paragraphs(file: Path) -> Iterator[str]:
    """Stories end in a mark; other texts are cut between lines, at 500 characters or more."""
    text = _text(file).replace("\r\n", "\n")
    if "<|endoftext|>" in text:
        yield from (story.strip() for story in text.split("<|endoftext|>") if story.strip())
        return
    held = ""
    for line in text.split("\n"):
        held = f"{held}\n{line.strip()}".strip()
        if len(held) >= 500:
            yield held
            held = ""


def _labelled(folder: Path) -> list[dict[str, str]]:
    files = sorted(folder.glob("train.json*")) + sorted(folder.glob("test.json*"))
    rows = json.loads(_text(files[0]))
    return [{"text": f"{row['sentence'].strip()}\n{row['label']}"} for row in rows]


def _prompted(file: Path) -> list[dict[str, str]]:
    rows = [json.loads(line) for line in _text(file).splitlines()]
    return [
        {"text": f"{row['prompt'].strip()} {row['completion'].split('<|')[0].strip()}"}
        for row in rows
    ]


def _worked(task: str, settings: dict[str, Any]) -> list[dict[str, str]]:
    examples = getattr(pt.task, task)(num_examples=1000, seed=1, **settings).examples
    return [{"text": f"{e.prompt}{e.completion}"} for e in examples]


def claims(result: Streams) -> list[dict[str, Any]]:
    """Each claim that these streams can test: a difference that it says is above 0.

    p-values are adjusted for the claims of the set (Holm). A claim is reproduced where the
    difference is significantly above 0, refuted where it is significantly below.
    """
    by_name = {stream.name: stream for stream in result.streams}
    random = by_name["random"].columns()
    tests = [
        ("DAPT < ZS", random["DAPT"], random["ZS"]),
        ("CPT < DAPT", random["CPT"], random["DAPT"]),
        ("LC < ZS in random order", random["LC"], random["ZS"]),
    ]
    for name, claim, column, sign in (
        ("similar", "random order has lower LC than similar", "LC", 1),
        ("similar", "random order forgets less than similar", "FG", 1),
        ("similar", "similar order has lower CPT than random", "CPT", -1),
        ("swapped", "random order has lower LC than swapped halves", "LC", 1),
        ("random, replay 25%", "replay lowers FG", "FG", -1),
        ("random, replay 25%", "replay lowers LC", "LC", -1),
        ("random, batch 16", "batch 4 has lower CPT than 16", "CPT", 1),
        ("random, batch 16", "batch 4 forgets more than 16", "FG", -1),
        ("random, constant rate", "re-warming and re-decay has lower LC than a constant", "LC", 1),
        ("random, one decay", "re-warming and re-decay has lower CPT than one decay", "CPT", 1),
        ("random, one decay", "re-warming and re-decay forgets more than one decay", "FG", -1),
    ):
        if name in by_name:
            tests.append((claim, *_pair(random, by_name[name], column, sign)))
    differences = [paired_t(lower, higher) for _, lower, higher in tests]
    adjusted = holm([d.p_value for d in differences])
    return [
        {
            "claim": claim,
            "verdict": _verdict(d.estimate, p),
            "estimate": d.estimate,
            "low": d.low,
            "high": d.high,
            "p_value": p,
            "n": d.n,
        }
        for (claim, _, _), d, p in zip(tests, differences, adjusted, strict=True)
    ]


def _pair(
    random: dict[str, list[float]], other: Stream, column: str, sign: int
) -> tuple[list[float], list[float]]:
    """The lower side of the claim, and the higher."""
    pair = random[column], other.columns()[column]
    return pair if sign > 0 else (pair[1], pair[0])


def _verdict(estimate: float, p_value: float) -> str:
    if p_value >= 0.05:
        return "undecided"
    return "reproduced" if estimate > 0 else "refuted"


def _rounded(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _rounded(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_rounded(value) for value in values]
    return float(f"{values:.5g}") if isinstance(values, float) else values


if __name__ == "__main__":
    main()
