"""The work that both sides of a comparison do: model folders, rows, sizes. Needs transformers
and nothing of either side.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


def _shape(hidden: int, intermediate: int, layers: int, head: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "head_dim": head,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
    }


SHAPES = {
    "tiny": _shape(64, 128, 2, 16, 4),
    "7m": _shape(256, 768, 6, 32, 8),
    "60m": _shape(512, 1536, 8, 64, 8),
    "0.6b": _shape(1024, 3072, 28, 128, 16),
    "1.7b": _shape(2048, 6144, 28, 128, 16),
}


@dataclass(frozen=True)
class Workload:
    """kind: sft, dpo, reward, grpo, sample or tokenise. `steps` are measured after `warm` others.
    rows: of a step (for grpo, prompts). prompt: tokens of every prompt, 0 = the lengths of
    `rows_of`. device: cpu or cuda. title: what the table calls it; those without one are run by
    name only. rounds: the most that are run."""

    name: str
    kind: str
    shape: str = "7m"
    vocab: int = 8192
    rows: int = 16
    steps: int = 8
    warm: int = 2
    group: int = 8
    new_tokens: int = 128
    prompt: int = 0
    device: str = "cpu"
    title: str = ""
    rounds: int = 100


def _on_gpu(shape: str) -> list[Workload]:
    common: dict[str, Any] = {"shape": shape, "vocab": 151_936, "device": "cuda"}
    return [
        Workload(f"sft-{shape}", "sft", rows=64, steps=6, **common),
        Workload(f"dpo-{shape}", "dpo", rows=32, steps=4, **common),
        Workload(f"grpo-{shape}", "grpo", rows=16, steps=3, **common),
        Workload(f"sample-{shape}", "sample", group=256, steps=2, prompt=512, **common),
    ]


def _tiny() -> list[Workload]:
    """For trying the benchmarks themselves: seconds, and no figures worth reading."""
    common: dict[str, Any] = {"shape": "tiny", "vocab": 512, "steps": 1, "warm": 1, "new_tokens": 8}
    return [
        Workload("sft-tiny", "sft", rows=4, **common),
        Workload("dpo-tiny", "dpo", rows=4, **common),
        Workload("grpo-tiny", "grpo", rows=2, group=4, prompt=24, **common),
        Workload("sample-tiny", "sample", group=4, prompt=24, **common),
    ]


WORKLOADS = {
    w.name: w
    for w in (
        Workload("sft", "sft", steps=4, warm=1, title="SFT, lengths 21 to 533, nothing shared"),
        Workload("sft-64k", "sft", vocab=64000, steps=4, warm=1),
        Workload("sft-60m", "sft", shape="60m", vocab=64000, steps=2, warm=1),
        Workload("dpo", "dpo", steps=2, warm=0, title="DPO, 16 pairs, prompts of 30 to 130"),
        Workload(
            "dpo-1k",
            "dpo",
            rows=4,
            prompt=1000,
            steps=1,
            warm=0,
            title="DPO, 4 pairs, prompts of 1,000",
        ),
        Workload("reward", "reward", steps=3, warm=1),
        Workload(
            "grpo", "grpo", rows=8, steps=1, warm=0, title="GRPO, 8 x 8 of 128, prompts of 105"
        ),
        Workload(
            "grpo-1k",
            "grpo",
            rows=1,
            group=16,
            new_tokens=64,
            prompt=1000,
            steps=1,
            warm=0,
            title="GRPO, 16 of 64, prompt of 1,000",
        ),
        Workload(
            "grpo-4k",
            "grpo",
            rows=1,
            group=16,
            new_tokens=64,
            prompt=4000,
            steps=1,
            warm=0,
            title="GRPO, 16 of 64, prompt of 4,000",
            rounds=1,
        ),
        Workload("grpo-64k", "grpo", vocab=64000, rows=8, steps=1, warm=1),
        Workload("grpo-60m", "grpo", shape="60m", vocab=64000, rows=8, steps=1, warm=1),
        Workload(
            "sample",
            "sample",
            group=64,
            steps=1,
            warm=0,
            prompt=512,
            title="64 samples of 128, prompt of 512",
        ),
        Workload("tokenise", "tokenise", rows=100_000, steps=1, warm=0),
        Workload("sample-64k", "sample", vocab=64000, group=64, steps=1, warm=1, prompt=512),
        Workload("sample-60m", "sample", shape="60m", vocab=64000, group=64, steps=1, prompt=512),
        *_tiny(),
        *_on_gpu("0.6b"),
        *_on_gpu("1.7b"),
    )
}
TABLE = [w.name for w in WORKLOADS.values() if w.title]


def build(workload: Workload, folder: Path) -> None:
    """Write model/ (random weights, seed 0) and rows.jsonl; nothing where this workload's are
    there already.
    """
    note, sizes = folder / "workload.json", json.dumps(as_json(workload))
    if note.exists() and note.read_text() == sizes:
        return
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    # A word is a token, so that both sides have the same ids and no tokenizer's speed is measured.
    words = ["<pad>", "<eos>", *(f"w{i}" for i in range(workload.vocab - 2))]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>")
    config = Qwen3Config(
        vocab_size=workload.vocab,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        **SHAPES[workload.shape],
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = 1
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of(workload)))
    note.write_text(sizes)


def rows_of(workload: Workload) -> list[dict[str, str]]:
    """Random words. SFT: prompts of 20 tokens, completions exponential with mean 70, at most 512;
    DPO and reward: two such completions, prompts of 30 to 130 tokens; GRPO: prompts of about 105
    tokens. `prompt` fixes a prompt's length.

    A completion begins with a space, as TRL joins the texts before it makes tokens of them.
    """
    draw = random.Random(0)

    def text(length: int) -> str:
        return " ".join(f"w{draw.randrange(workload.vocab - 2)}" for _ in range(length))

    def length() -> int:
        return min(max(round(draw.expovariate(1 / 70)), 1), 512)

    def prompt(low: int, high: int) -> str:
        return text(workload.prompt or draw.randint(low, high))

    count = workload.rows * (workload.steps + workload.warm)
    if workload.kind == "tokenise":
        return [{"prompt": text(20), "completion": " " + text(60)} for _ in range(workload.rows)]
    if workload.kind == "sft":
        lengths = [length() for _ in range(count)]
        return [{"prompt": prompt(20, 20), "completion": " " + text(n)} for n in lengths]
    if workload.kind in ("dpo", "reward"):
        pairs = [(length(), length()) for _ in range(count)]
        return [
            {"prompt": prompt(30, 130), "chosen": " " + text(a), "rejected": " " + text(b)}
            for a, b in pairs
        ]
    if workload.kind == "grpo":
        return [{"prompt": prompt(95, 115), "answer": "-"} for _ in range(count)]
    return [{"prompt": text(workload.prompt)}]


def rows_of_step(workload: Workload) -> int:
    """Rows of a whole step as the peer's trainers count them: completions for GRPO and sampling."""
    if workload.kind == "sample":
        return workload.group
    return workload.rows * (workload.group if workload.kind == "grpo" else 1)


def rows_in_order(folder: Path) -> list[dict[str, str]]:
    """The rows of a workload in the order in which posttrain takes them with seed 0, for a peer
    that takes them in turn: every step has the same rows on both sides."""
    import numpy as np

    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    return [rows[i] for i in np.random.default_rng((0, 0)).permutation(len(rows))]


def score(text: str) -> float:
    """A reward that splits every group: a number in [0, 1) from the words written."""
    return sum(int(word[1:]) for word in text.split() if word[1:].isdigit()) % 97 / 97


class Clock:
    """Times of step ends, by the clock and of the processor, what of it was sampling, tokens of the
    steps, and the peak memory of this process (on a GPU: of the device), also above what it holds
    when the first step begins."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.ends: list[tuple[float, ...]] = []
        self.sampling = 0.0
        self.tokens = 0.0
        self.base = held_mib(workload.device)

    def begin(self) -> None:
        """The first step begins."""
        self.base = held_mib(self.workload.device)
        self.tick()

    def tick(self) -> None:
        """A step has ended."""
        if self.workload.device == "cuda":
            import torch

            torch.cuda.synchronize()
        self.ends.append((time.perf_counter(), time.process_time(), self.sampling, self.tokens))

    def sampled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted as sampling."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = function(*args, **kwargs)
            self.sampling += time.perf_counter() - started
            return result

        return timed

    def result(self) -> dict[str, float]:
        """Figures of a measured step."""
        measured = self.ends[self.workload.warm :]
        steps = len(measured) - 1
        seconds, cpu, sampling, tokens = (
            (b - a) / steps for a, b in zip(measured[0], measured[-1], strict=True)
        )
        peak = peak_mib(self.workload.device)
        memory = {"peak_mib": peak, "above_mib": peak - self.base}
        more = {"sampling_seconds": sampling, "tokens": tokens}
        return {
            "seconds": seconds,
            "cpu_seconds": cpu,
            **memory,
            **{k: v for k, v in more.items() if v},
        }

    def print(self, **more: float) -> None:
        """The result as one line of JSON, the last of the output."""
        print("\n" + json.dumps({**self.result(), **more}))


def peak_mib(device: str) -> float:
    """Largest resident size that this process has had, or the most it held on a GPU, in MiB."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def held_mib(device: str) -> float:
    """What this process holds now (on a GPU: the most so far), in MiB."""
    statm = Path("/proc/self/statm")
    if device == "cuda" or not statm.exists():
        return peak_mib(device)
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def arguments() -> tuple[Workload, Path, dict[str, Any], Path | None]:
    """Workload, folder, setting and the file for the weights (None: they are not compared) from
    the command line.
    """
    name, folder, setting, *weights = sys.argv[1:5]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    return WORKLOADS[name], Path(folder), json.loads(setting), Path(weights[0]) if weights else None


def tokens_of(workload: Workload) -> dict[str, float]:
    """Tokens of a measured step: distinct ones, and as a padded batch has them; and the arithmetic
    that is needed, in GFLOP.

    Arithmetic: 2 a weight and token forward, 4 backward, the head only where a token is predicted;
    attention left out.
    """
    if workload.kind == "tokenise":
        return {"distinct": 81.0 * workload.rows, "padded": 81.0 * workload.rows, "gflop": 0.0}
    shape = SHAPES[workload.shape]
    wide, inner, depth = shape["hidden_size"], shape["intermediate_size"], shape["head_dim"]
    heads = 2 * (shape["num_attention_heads"] + shape["num_key_value_heads"])
    body = shape["num_hidden_layers"] * (wide * depth * heads + 3 * wide * inner)
    head = wide * workload.vocab
    rows = rows_of(workload)
    if workload.kind == "sft":
        groups = [rows[i : i + workload.rows] for i in range(0, len(rows), workload.rows)]
        lengths = [[20 + len(row["completion"].split()) + 1 for row in group] for group in groups]
        distinct = sum(map(sum, lengths)) / len(groups)
        targets = distinct - 20 * workload.rows
        padded = sum(len(group) * max(group) for group in lengths) / len(groups)
        return {
            "distinct": distinct,
            "padded": padded,
            "gflop": 6 * (distinct * body + targets * head) / 1e9,
        }
    if workload.kind in ("dpo", "reward"):
        prompts, chosen, rejected = (
            [len(row[k].split()) for row in rows] for k in ("prompt", "chosen", "rejected")
        )
        steps = len(rows) / workload.rows
        targets = (sum(chosen) + sum(rejected) + 2 * len(rows)) / steps
        distinct = sum(prompts) / steps + targets
        longest = [p + max(a, b) + 1 for p, a, b in zip(prompts, chosen, rejected, strict=True)]
        batches = [longest[i : i + workload.rows] for i in range(0, len(rows), workload.rows)]
        padded = sum(2 * len(b) * max(b) for b in batches) / len(batches)
        needed = (
            8 * (distinct * body + targets * head)
            if workload.kind == "dpo"
            else 6 * distinct * body
        )
        return {"distinct": distinct, "padded": padded, "gflop": needed / 1e9}
    prompt = sum(len(r["prompt"].split()) for r in rows) / len(rows)
    prompts = 1 if workload.kind == "sample" else workload.rows
    new = prompts * workload.group * workload.new_tokens
    distinct, padded = prompts * prompt + new, prompts * workload.group * prompt + new
    gflop = 2 * (distinct * body + new * head) / 1e9
    return {
        "distinct": distinct,
        "padded": padded,
        "gflop": gflop * (4 if workload.kind == "grpo" else 1),
    }


def as_json(workload: Workload) -> dict[str, object]:
    """The sizes, for a result file."""
    return asdict(workload)
