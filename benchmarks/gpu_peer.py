"""What the GPU benchmark measures beside posttrain: the same work by transformers alone, as its
documentation does it, and by TRL where that can be imported.

transformers: padded rows, float32 weights under bfloat16 autocast, its own loss, fused AdamW, and
`generate` for sampling. Micro-batches hold as many padded tokens as fit the budget, longest first.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from typing import Any

import numpy as np
import torch
from gpu_model import Sizes, random_groups, synchronise
from torch.nn.functional import logsigmoid

from posttrain.data.forest import TokenSequence


def padded(rows: list[TokenSequence], device: torch.device) -> dict[str, torch.Tensor]:
    """Rows as transformers takes them, padded on the right; labels of completions alone."""
    length = max(len(row.ids) for row in rows)
    ids = np.zeros((len(rows), length), dtype=np.int64)
    mask, labels = np.zeros_like(ids), np.full_like(ids, -100)
    for line, row in enumerate(rows):
        count = len(row.ids)
        ids[line, :count], mask[line, :count] = row.ids, 1
        labels[line, :count] = np.where(row.loss_mask, row.ids, -100)
    arrays = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: torch.from_numpy(value).to(device) for name, value in arrays.items()}


def micro_batches(groups: list[list[TokenSequence]], budget: int) -> list[list[TokenSequence]]:
    """Groups, whole, in micro-batches of at most `budget` padded tokens, longest first."""
    ordered = sorted(groups, key=lambda group: -max(len(row.ids) for row in group))
    batches: list[list[TokenSequence]] = []
    for group in ordered:
        longest = max(len(row.ids) for row in (batches[-1] if batches else group))
        if batches and longest * (len(batches[-1]) + len(group)) <= budget:
            batches[-1] += group
        else:
            batches.append(list(group))
    return batches


def transformers_step(kind: str, hf: Any, reference: Any, groups: Any, budget: int) -> None:
    """The gradients of one SFT or DPO step."""
    device = next(hf.parameters()).device
    count = sum(int(row.loss_mask.sum()) for group in groups for row in group)
    for rows in micro_batches(groups, budget):
        batch = padded(rows, device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            if kind == "sft":
                loss = hf(**batch, num_items_in_batch=count, use_cache=False).loss
            else:
                with torch.no_grad():
                    before = sequence_logprobs(reference, batch)
                margin = 0.1 * (sequence_logprobs(hf, batch) - before)
                loss = -logsigmoid(margin[::2] - margin[1::2]).sum() / len(groups)
        loss.backward()


def sequence_logprobs(hf: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Log-probs [B] of the labelled tokens."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits = hf(**inputs, use_cache=False).logits[:, :-1].float()
    labels = batch["labels"][:, 1:]
    chosen = logits.gather(-1, labels.clamp_min(0)[..., None])[..., 0] - logits.logsumexp(-1)
    return (chosen * (labels >= 0)).sum(-1)


def measure_training(kind: str, hf: Any, sizes: Sizes, steps: int) -> dict[str, float]:
    """Median seconds of a step by transformers, after one that warms up."""
    import copy

    hf = hf.float()
    hf.set_attn_implementation("sdpa")
    reference = copy.deepcopy(hf).requires_grad_(False) if kind == "dpo" else None
    groups = random_groups(kind, sizes, hf.config.vocab_size, steps + 1)
    optimizer = torch.optim.AdamW(hf.parameters(), lr=1e-6, fused=True)
    device, ends = next(hf.parameters()).device, []
    for step in range(steps + 1):
        some = groups[step * sizes.rows : (step + 1) * sizes.rows]
        transformers_step(kind, hf, reference, some, sizes.micro_tokens // 2)
        torch.nn.utils.clip_grad_norm_(hf.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        synchronise(device)
        ends.append(time.perf_counter())
    seconds = statistics.median(b - a for a, b in itertools.pairwise(ends))
    tokens = sum(len(row.ids) for group in groups for row in group) / (steps + 1)
    return {"seconds": seconds, "unshared_tokens_per_second": tokens / seconds}


def measure_sampling(hf: Any, sizes: Sizes) -> dict[str, float]:
    """Seconds of a decode step of transformers' `generate` with as many rows as posttrain's."""
    hf.set_attn_implementation("sdpa")
    rows = sizes.decode_rows[-1]
    device = next(hf.parameters()).device
    prompt = torch.arange(1, sizes.prompt + 1, device=device).expand(rows, -1)

    def seconds(tokens: int) -> float:
        synchronise(device)
        started = time.perf_counter()
        hf.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=True,
            top_k=0,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            pad_token_id=0,
        )
        synchronise(device)
        return time.perf_counter() - started

    with torch.no_grad():
        seconds(2)
        step = max(seconds(sizes.decode_tokens) - seconds(1), 1e-9) / (sizes.decode_tokens - 1)
    return {"step_milliseconds": 1e3 * step, "tokens_per_second": rows / step}


def measure_trl(hf: Any, sizes: Sizes, steps: int) -> dict[str, float]:
    """Mean seconds of a step of TRL's SFTTrainer on the same rows, after one that warms up.

    Raises:
        ImportError: there is no TRL.
    """
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    words = {f"t{number}": number for number in range(hf.config.vocab_size)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="t0")),
        pad_token="t0",
        eos_token="t1",
    )
    groups = random_groups("sft", sizes, hf.config.vocab_size, steps + 1)
    rows = [
        {"input_ids": row.ids.tolist(), "completion_mask": row.loss_mask.astype(int).tolist()}
        for group in groups
        for row in group
    ]
    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *arguments: Any, **options: Any) -> None:
            synchronise(next(hf.parameters()).device)
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            max_steps=steps + 1,
            per_device_train_batch_size=min(8, sizes.rows),
            gradient_accumulation_steps=max(sizes.rows // 8, 1),
            bf16=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(),
            max_length=None,
            report_to=[],
            save_strategy="no",
            completion_only_loss=True,
        )
        trainer = SFTTrainer(
            hf.float(),
            config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        trainer.train()
    return {"seconds": statistics.median(b - a for a, b in itertools.pairwise(ends))}
