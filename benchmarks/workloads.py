"""The work that both sides of a comparison do: model folders, rows, sizes. Needs transformers and nothing of either side."""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


def _shape(hidden: int, intermediate: int, layers: int, head: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers, "head_dim": head,
        "num_attention_heads": heads, "num_key_value_heads": heads // 2,
    }  # fmt: skip


SHAPES = {
    "7m": _shape(256, 768, 6, 32, 8),
    "60m": _shape(512, 1536, 8, 64, 8),
    "0.6b": _shape(1024, 3072, 28, 128, 16),
    "1.7b": _shape(2048, 6144, 28, 128, 16),
}


@dataclass(frozen=True)
class Workload:
    """kind: sft, dpo, reward, grpo, sample or tokenise. `steps` are measured after `warm` others. rows: of a step (for grpo,
    prompts). device: cpu or cuda."""

    name: str
    kind: str
    shape: str = "7m"
    vocab: int = 8192
    rows: int = 16
    steps: int = 8
    warm: int = 2
    group: int = 8
    new_tokens: int = 128
    device: str = "cpu"


def _on_gpu(shape: str) -> list[Workload]:
    common: dict[str, Any] = {"shape": shape, "vocab": 151_936, "device": "cuda"}
    return [
        Workload(f"sft-{shape}", "sft", rows=64, steps=6, **common),
        Workload(f"dpo-{shape}", "dpo", rows=32, steps=4, **common),
        Workload(f"grpo-{shape}", "grpo", rows=16, steps=3, **common),
        Workload(f"sample-{shape}", "sample", group=256, steps=2, **common),
    ]


WORKLOADS = {
    w.name: w
    for w in (
        Workload("sft", "sft", steps=6),
        Workload("sft-64k", "sft", vocab=64000, steps=4, warm=1),
        Workload("sft-60m", "sft", shape="60m", vocab=64000, steps=2, warm=1),
        Workload("dpo", "dpo", steps=3, warm=1),
        Workload("reward", "reward", steps=3, warm=1),
        Workload("grpo", "grpo", rows=8, steps=2, warm=1),
        Workload("grpo-64k", "grpo", vocab=64000, rows=8, steps=1, warm=1),
        Workload("grpo-60m", "grpo", shape="60m", vocab=64000, rows=8, steps=1, warm=1),
        Workload("sample", "sample", group=64, steps=1, warm=1),
        Workload("tokenise", "tokenise", rows=100_000, steps=1, warm=1),
        Workload("sample-64k", "sample", vocab=64000, group=64, steps=1, warm=1),
        *_on_gpu("0.6b"),
        *_on_gpu("1.7b"),
    )
}


def build(workload: Workload, folder: Path) -> None:
    """Write model/ (random weights, seed 0) and rows.jsonl; nothing where they are there already."""
    if (folder / "rows.jsonl").exists():
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
        vocab_size=workload.vocab, tie_word_embeddings=True, max_position_embeddings=2048, pad_token_id=0, eos_token_id=1,
        bos_token_id=None, **SHAPES[workload.shape],
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = 1
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of(workload)))


def rows_of(workload: Workload) -> list[dict[str, str]]:
    """Random words. SFT: prompts of 20 tokens, completions exponential with mean 70, at most 512; DPO and reward: two such
    completions, prompts of 30 to 130 tokens; GRPO: prompts of about 105 tokens."""
    draw = random.Random(0)

    def text(length: int) -> str:
        return " ".join(f"w{draw.randrange(workload.vocab - 2)}" for _ in range(length))

    count = workload.rows * (workload.steps + workload.warm)
    if workload.kind == "tokenise":
        return [{"prompt": text(20), "completion": text(60)} for _ in range(workload.rows)]
    if workload.kind == "sft":
        lengths = [min(max(round(draw.expovariate(1 / 70)), 1), 512) for _ in range(count)]
        return [{"prompt": text(20), "completion": text(n)} for n in lengths]
    if workload.kind in ("dpo", "reward"):
        lengths = [[min(max(round(draw.expovariate(1 / 70)), 1), 512) for _ in range(2)] for _ in range(count)]
        return [{"prompt": text(draw.randint(30, 130)), "chosen": text(a), "rejected": text(b)} for a, b in lengths]
    if workload.kind == "grpo":
        return [{"prompt": text(draw.randint(95, 115)), "answer": "-"} for _ in range(count)]
    return [{"prompt": text(512)}]


def score(text: str) -> float:
    """A reward that splits every group: a number in [0, 1) from the words written."""
    return sum(int(word[1:]) for word in text.split() if word[1:].isdigit()) % 97 / 97


class Clock:
    """Times of step ends, by the clock and of the processor, and the peak memory of this process (on a GPU: of the device)
    above what it holds when the first step begins."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.ends: list[tuple[float, float]] = []
        self.base = peak_mib(workload.device)

    def tick(self) -> None:
        """A step has ended."""
        if self.workload.device == "cuda":
            import torch

            torch.cuda.synchronize()
        self.ends.append((time.perf_counter(), time.process_time()))

    def tell(self, **more: float) -> None:
        """Print the result as one line of JSON, the last of the output."""
        measured = self.ends[self.workload.warm - 1 :]
        seconds, cpu = ((measured[-1][i] - measured[0][i]) / (len(measured) - 1) for i in (0, 1))
        peak = peak_mib(self.workload.device)
        found = {"seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak, "above_mib": peak - self.base, **more}
        print("\n" + json.dumps(found))


def peak_mib(device: str) -> float:
    """Largest resident size that this process has had, or the most it held on a GPU, in MiB."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def arguments() -> tuple[Workload, Path, str]:
    """Workload, folder and setting from the command line."""
    name, folder, setting = sys.argv[1:4]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    return WORKLOADS[name], Path(folder), setting


def tokens_of(workload: Workload) -> dict[str, float]:
    """Tokens of a measured step: distinct ones, and as a padded batch has them; and the arithmetic that is needed, in GFLOP.

    Arithmetic: 2 a weight and token forward, 4 backward, the head only where a token is predicted; attention left out.
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
        return {"distinct": distinct, "padded": padded, "gflop": 6 * (distinct * body + targets * head) / 1e9}
    if workload.kind in ("dpo", "reward"):
        prompts, chosen, rejected = ([len(row[k].split()) for row in rows] for k in ("prompt", "chosen", "rejected"))
        steps = len(rows) / workload.rows
        targets = (sum(chosen) + sum(rejected) + 2 * len(rows)) / steps
        distinct = sum(prompts) / steps + targets
        longest = [p + max(a, b) + 1 for p, a, b in zip(prompts, chosen, rejected, strict=True)]
        batches = [longest[i : i + workload.rows] for i in range(0, len(rows), workload.rows)]
        padded = sum(2 * len(b) * max(b) for b in batches) / len(batches)
        needed = 8 * (distinct * body + targets * head) if workload.kind == "dpo" else 6 * distinct * body
        return {"distinct": distinct, "padded": padded, "gflop": needed / 1e9}
    prompt = 512.0 if workload.kind == "sample" else sum(len(r["prompt"].split()) for r in rows) / len(rows)
    prompts = 1 if workload.kind == "sample" else workload.rows
    new = prompts * workload.group * workload.new_tokens
    distinct, padded = prompts * prompt + new, prompts * workload.group * prompt + new
    gflop = 2 * (distinct * body + new * head) / 1e9
    return {"distinct": distinct, "padded": padded, "gflop": gflop * (4 if workload.kind == "grpo" else 1)}


def as_json(workload: Workload) -> dict[str, object]:
    """The sizes, for a result file."""
    return asdict(workload)
