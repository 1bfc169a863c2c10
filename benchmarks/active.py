"""Do selectors of active learning beat random? Three text sets, a small encoder, seeds in pairs.

    .venv/bin/python benchmarks/active.py DATA [--seeds 10] [--probe] [--only trec] [--write]

DATA is a folder with trec_mr/TREC.train.all and TREC.test.all (a label before each question),
sst2/train.tsv and test.tsv (sentence, tab, label), and olora_cl_benchmark/agnews/train.json.gz and
test.json.gz. The encoder is made here: words of the three sets, vectors of 48 numbers by PPMI and
SVD of their unlabelled sentences (Levy and Goldberg 2014), and one decoder layer with random
weights. A classifier on it trains anew in each round. With --probe what learns is softmax
regression on the mean word vector of a text (a linear probe), which takes minutes. Its ridge was
chosen by the area of random alone, on four seeds. Each run with the encoder is resumed where it
stopped. Results go to benchmarks/results/active.json, those of the probe to active_probe.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe
from rich.console import Console

import posttrain as pt
from posttrain.component import Component
from posttrain.evaluation.learning_curves import Active, read_active
from posttrain.files import write_text_whole
from posttrain.labellers.base import labeller_of
from posttrain.learners.base import Learner
from posttrain.loops.active_rounds import ActiveRun
from posttrain.loops.active_settings import Budget, Choice

HERE = Path(__file__).resolve().parent
WORK = HERE / ".work" / "active"
FILE = HERE / "results" / "active.json"
SELECTORS = ["random", "entropy", "margin", "badge", "coreset", "bald"]
ROUNDS = {"num_initial": 20, "rows_per_round": 20, "num_rounds": 6}
TRAINING = {"steps": 60, "batch_size": 16, "learning_rate": 3e-3, "dropout": 0.2}
PROBE: dict[str, Any] = {"width": 100, "members": 5, "iterations": 150, "ridge": 0.5, "rate": 0.1}
POOL, HELD_OUT, CANDIDATES = 2000, 500, 600
WIDTH, NUM_WORDS, WINDOW = 48, 4000, 4

Rows = list[dict[str, str]]


def main() -> None:
    """Run what is not there, and show the areas under the curves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", action="append", help="a set; may be repeated")
    parser.add_argument("--selectors", default=",".join(SELECTORS))
    parser.add_argument("--probe", action="store_true", help="a linear probe, no encoder")
    parser.add_argument("--write", action="store_true", help="write the results file")
    options = parser.parse_args()
    sets = {name: read(options.data) for name, read in READERS.items()}
    started = time.process_time()
    texts = [row["text"] for pool, _ in sets.values() for row in pool]
    run = of_probe(texts) if options.probe else of_encoder(texts)
    results = {}
    for name in options.only or sets:
        parts = [
            run(name, *part_of(sets[name], seed), seed, options.selectors.split(","))
            for seed in range(options.seeds)
        ]
        results[name] = joined(name, parts)
        print(results[name], "\n", flush=True)
    if options.write:
        values = {
            "machine": describe(),
            "command": " ".join(["benchmarks/active.py DATA", *sys.argv[2:]]),
            "cpu_seconds_of_this_call": round(time.process_time() - started),
            "rounds": ROUNDS,
            "training": PROBE if options.probe else TRAINING,
            "sets": {name: result.to_json() for name, result in results.items()},
        }
        file = FILE.with_name("active_probe.json") if options.probe else FILE
        write_text_whole(file, json.dumps(values, indent=1))
        for name, result in results.items():
            write_text_whole(file.with_name(f"{file.stem}-{name}.svg"), result.svg())


def part_of(rows: tuple[Rows, Rows], seed: int) -> tuple[Rows, Rows]:
    """The pool and the held-out rows of a seed."""
    draw = np.random.default_rng((seed, 3))
    pool, held_out = rows
    return (
        [pool[int(i)] for i in draw.permutation(len(pool))[:POOL]],
        [held_out[int(i)] for i in draw.permutation(len(held_out))[:HELD_OUT]],
    )


def of_encoder(texts: list[str]) -> Callable[..., Active]:
    """Runs with a classifier on the small encoder, which is made once."""
    encoder = WORK / "encoder"
    if not (encoder / "model.safetensors").is_file():
        make_encoder(texts, encoder)

    def run(name: str, pool: Rows, held_out: Rows, seed: int, selectors: list[str]) -> Active:
        folder = WORK / name / f"seed-{seed}"
        if (folder / "active.json").is_file():
            return read_active(folder)
        result: Active = pt.active(
            str(encoder),
            pool,
            eval_data=held_out,
            selectors=selectors,
            labels=sorted({row["label"] for row in pool}),
            training=TRAINING,
            num_candidates=CANDIDATES,
            num_samples=8,
            output=folder,
            resume=folder.exists(),
            seed=seed,
            console=Console(quiet=True),
            **ROUNDS,
        )
        for model in folder.glob("seed-*/*/model"):
            shutil.rmtree(model)
        areas = {s: round(result.area(s).estimate, 3) for s in result.selectors}
        print(name, seed, areas, flush=True)
        return result

    return run


def of_probe(texts: list[str]) -> Callable[..., Active]:
    """Runs with softmax regression on mean word vectors, by the same loop in memory."""
    counts = Counter(word for text in texts for word in words(text))
    places = {word: place for place, (word, _) in enumerate(counts.most_common(NUM_WORDS))}
    file = WORK / f"vectors-{PROBE['width']}.npy"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, word_vectors(texts, {**places, "<unk>": len(places)}, PROBE["width"]))
    vectors = np.load(file)

    def features(rows: Rows) -> np.ndarray:
        ids = [[places[w] for w in words(row["text"]) if w in places] for row in rows]
        return np.stack([vectors[i].mean(0) if i else np.zeros(vectors.shape[1]) for i in ids])

    def run(name: str, pool: Rows, held_out: Rows, seed: int, selectors: list[str]) -> Active:
        rows = [{**row, "id": str(place)} for place, row in enumerate(pool)]
        labels = tuple(sorted({row["label"] for row in pool}))
        oracle, label_name = labeller_of("oracle")
        curves = []
        tables = features(rows), features(held_out)
        for selector in selectors:
            learner = Probe(*tables, held_out, labels)
            choice = Choice(
                Component(selector),
                selector,
                Component("random"),
                ROUNDS["num_initial"],
                ROUNDS["rows_per_round"],
            )
            budget = Budget(ROUNDS["num_rounds"])
            quiet = Console(quiet=True)
            active = ActiveRun(
                learner, rows, oracle, choice, budget, seed=seed, folder=None, console=quiet
            )
            curves.append(active.run())
        result = Active(name, label_name, curves, True)
        areas = {s: round(result.area(s).estimate, 3) for s in selectors}
        print(name, seed, areas, flush=True)
        return result

    return run


class Probe(Learner):
    """Softmax regression with a ridge, on fixed features; a committee of bootstrap fits.

    Args:
        features: of the pool, by the number in a row's id. held_out: features of the rows.
    """

    carries = frozenset(
        {
            "probabilities",
            "labelled_probabilities",
            "embeddings",
            "labelled_embeddings",
            "committee",
        }
    )

    def __init__(
        self, features: np.ndarray, held_out: np.ndarray, rows: Rows, labels: tuple[str, ...]
    ) -> None:
        scale = features.std(0) + 1e-9
        middle = features.mean(0)
        self.features, self.held_out = (features - middle) / scale, (held_out - middle) / scale
        self.rows, self.labels = rows, labels

    def train(self, rows: Any, seed: int) -> None:
        y = np.array([self.labels.index(row["label"]) for row in rows])
        self.weights, self.learnt = self._fitted(self._of(rows), y), (self._of(rows), y)

    def _of(self, rows: Any) -> np.ndarray:
        places = np.array([int(row["id"]) for row in rows], dtype=int)
        return self.features[places]

    def _fitted(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Weights [D + 1, C] by gradient descent with momentum on the mean loss and a ridge."""
        x = np.column_stack([x, np.ones(len(x))])
        targets = np.eye(len(self.labels))[y]
        weights = np.zeros((x.shape[1], len(self.labels)))
        speed = np.zeros_like(weights)
        for _ in range(PROBE["iterations"]):
            gradient = x.T @ (softmax(x @ weights) - targets) / len(x) + PROBE["ridge"] * weights
            speed = 0.9 * speed - PROBE["rate"] * gradient
            weights += speed
        return weights

    def _said(self, weights: np.ndarray, x: np.ndarray) -> np.ndarray:
        return softmax(np.column_stack([x, np.ones(len(x))]) @ weights)

    def inputs(self, names: Any, candidates: Any, labelled: Any, seed: int) -> dict[str, Any]:
        x, before = self._of(candidates), self._of(labelled)
        made = {
            "probabilities": self._said(self.weights, x),
            "labelled_probabilities": self._said(self.weights, before),
            "embeddings": x,
            "labelled_embeddings": before,
        }
        if "committee" in names:
            made["committee"] = np.stack([self._said(w, x) for w in self._members(seed)])
        return made

    def _members(self, seed: int) -> list[np.ndarray]:
        """Fits on rows drawn with replacement."""
        x, y = self.learnt
        draw = np.random.default_rng((seed, 5))
        drawn = draw.integers(len(x), size=(PROBE["members"], len(x)))
        return [self._fitted(x[some], y[some]) for some in drawn]

    def outcomes(self) -> list[float]:
        predicted = self._said(self.weights, self.held_out).argmax(1)
        pairs = zip(predicted, self.rows, strict=True)
        return [float(self.labels[p] == row["label"]) for p, row in pairs]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    values = np.exp(logits - logits.max(-1, keepdims=True))
    return values / values.sum(-1, keepdims=True)


def joined(name: str, parts: list[Active]) -> Active:
    """One result of all seeds."""
    curves = [curve for part in parts for curve in part.curves]
    return Active(f"{name}: active learning of classes", parts[0].labeller, curves, True)


# -- the sets


def trec(data: Path) -> tuple[Rows, Rows]:
    """Questions of six kinds."""
    return tuple(  # type: ignore[return-value]
        [
            {"label": line.partition(" ")[0], "text": line.partition(" ")[2].strip()}
            for line in (data / "trec_mr" / f"TREC.{part}.all").read_text("latin-1").splitlines()
            if line.partition(" ")[2].strip()
        ]
        for part in ("train", "test")
    )


def sst2(data: Path) -> tuple[Rows, Rows]:
    """Sentences of film reviews, good or bad."""
    return tuple(  # type: ignore[return-value]
        [
            {"text": line.rpartition("\t")[0], "label": line.rpartition("\t")[2].strip()}
            for line in (data / "sst2" / f"{part}.tsv").read_text("utf-8").splitlines()
            if line.rpartition("\t")[0].strip()
        ]
        for part in ("train", "test")
    )


def agnews(data: Path) -> tuple[Rows, Rows]:
    """News of four topics: the first 40 words."""
    parts = []
    for part in ("train", "test"):
        with gzip.open(data / "olora_cl_benchmark" / "agnews" / f"{part}.json.gz") as file:
            rows = json.load(file)
        parts.append(
            [
                {"text": " ".join(words(row["sentence"])[:40]), "label": row["label"]}
                for row in rows
                if words(row["sentence"])
            ]
        )
    return parts[0], parts[1]


READERS = {"trec": trec, "sst2": sst2, "agnews": agnews}


# -- the encoder


def words(text: str) -> list[str]:
    """Words and marks of a text, as the encoder's tokenizer splits it."""
    return re.findall(r"\w+|[^\w\s]+", text.lower())


def make_encoder(texts: list[str], folder: Path) -> None:
    """A model folder: word tokens, vectors from the texts, one layer with random weights."""
    import transformers
    from tokenizers import Tokenizer, normalizers
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    counts = Counter(word for text in texts for word in words(text))
    names = ["<s>", "</s>", "<pad>", "<unk>", *(w for w, _ in counts.most_common(NUM_WORDS))]
    places = {word: place for place, word in enumerate(names)}
    core = Tokenizer(WordLevel(places, unk_token="<unk>"))
    core.normalizer, core.pre_tokenizer = normalizers.Lowercase(), Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    config = transformers.LlamaConfig(
        vocab_size=len(names),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model: Any = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        vectors = torch.tensor(word_vectors(texts, places), dtype=torch.float32)
        model.get_input_embeddings().weight.copy_(vectors)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def word_vectors(texts: list[str], places: dict[str, int], width: int = WIDTH) -> np.ndarray:
    """SVD of the positive pointwise mutual information of neighbours: [V, D], of unit variance.

    M_ij = max(0, log p(i, j) / (p(i) p(j)^.75)); vectors are U S^.5 of the D largest.
    """
    table = np.zeros((len(places), len(places)), dtype=np.float32)
    unknown = places["<unk>"]
    for text in texts:
        ids = np.array([places.get(word, unknown) for word in words(text)])
        for apart in range(1, min(WINDOW, len(ids) - 1) + 1):
            np.add.at(table, (ids[:-apart], ids[apart:]), 1.0)
            np.add.at(table, (ids[apart:], ids[:-apart]), 1.0)
    rows = table.sum(1) + 1e-9
    contexts = rows**0.75 / (rows**0.75).sum()
    expected = rows[:, None] * contexts[None, :]
    table = np.maximum(np.log(np.maximum(table, 1e-9) / expected), 0).astype(np.float32)
    u, s, _ = torch.svd_lowrank(torch.from_numpy(table), q=width + 8, niter=4)
    vectors = (u * s.sqrt())[:, :width].numpy()
    return vectors / (vectors.std() + 1e-9)


if __name__ == "__main__":
    main()
