"""Do selectors of active learning beat random? Three text sets, a small encoder, seeds in pairs.

    .venv/bin/python benchmarks/active.py DATA [--seeds 10] [--only trec] [--write]

DATA is a folder with trec_mr/TREC.train.all and TREC.test.all (a label before each question),
sst2/train.tsv and test.tsv (sentence, tab, label), and olora_cl_benchmark/agnews/train.json.gz and
test.json.gz. The encoder is made here: words of the three sets, vectors of 48 numbers by PPMI and
SVD of their unlabelled sentences (Levy and Goldberg 2014), and one decoder layer with random
weights. A classifier on it trains anew in each round. Each run is resumed where it stopped.
Results go to benchmarks/results/active.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe
from rich.console import Console

import posttrain as pt
from posttrain.evaluation.learning_curves import Active, read_active
from posttrain.files import write_text_whole

HERE = Path(__file__).resolve().parent
WORK = HERE / ".work" / "active"
FILE = HERE / "results" / "active.json"
SELECTORS = ["random", "entropy", "margin", "badge", "coreset", "bald"]
ROUNDS = {"num_initial": 20, "rows_per_round": 20, "num_rounds": 6}
TRAINING = {"steps": 60, "batch_size": 16, "learning_rate": 3e-3, "dropout": 0.2}
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
    parser.add_argument("--write", action="store_true", help="write the results file")
    options = parser.parse_args()
    sets = {name: read(options.data) for name, read in READERS.items()}
    encoder = WORK / "encoder"
    if not (encoder / "model.safetensors").is_file():
        make_encoder([row["text"] for pool, _ in sets.values() for row in pool], encoder)
    started = time.process_time()
    results = {}
    for name in options.only or sets:
        pool, held_out = sets[name]
        parts = [
            measured(name, pool, held_out, encoder, seed, options.selectors.split(","))
            for seed in range(options.seeds)
        ]
        results[name] = joined(name, parts)
        print(results[name], "\n", flush=True)
    if options.write:
        values = {
            "machine": describe(),
            "command": f"benchmarks/active.py DATA --seeds {options.seeds} --write",
            "cpu_seconds_of_this_call": round(time.process_time() - started),
            "rounds": ROUNDS,
            "training": TRAINING,
            "sets": {name: result.to_json() for name, result in results.items()},
        }
        write_text_whole(FILE, json.dumps(values, indent=1))


def measured(
    name: str, pool: Rows, held_out: Rows, encoder: Path, seed: int, selectors: list[str]
) -> Active:
    """The curves of all selectors with one seed, of its own pool and held-out rows."""
    folder = WORK / name / f"seed-{seed}"
    if (folder / "active.json").is_file():
        return read_active(folder)
    draw = np.random.default_rng((seed, 3))
    result: Active = pt.active(
        str(encoder),
        [pool[int(i)] for i in draw.permutation(len(pool))[:POOL]],
        eval_data=[held_out[int(i)] for i in draw.permutation(len(held_out))[:HELD_OUT]],
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
    print(name, seed, {s: round(result.area(s).estimate, 3) for s in result.selectors}, flush=True)
    return result


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


def word_vectors(texts: list[str], places: dict[str, int]) -> np.ndarray:
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
    u, s, _ = torch.svd_lowrank(torch.from_numpy(table), q=WIDTH + 8, niter=4)
    vectors = (u * s.sqrt())[:, :WIDTH].numpy()
    return vectors / (vectors.std() + 1e-9)


if __name__ == "__main__":
    main()
