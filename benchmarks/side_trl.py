"""The peer's side: TRL in its own environment. side_trl.py WORKLOAD FOLDER SETTING -> one line of JSON."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from workloads import Clock, Workload, arguments, score


def trainer_arguments(workload: Workload, setting: str) -> dict[str, Any]:
    """Common arguments. setting: "default" (what TRL chooses: bf16), "fp32" and "grouped" (by length; fp32 on a CPU)."""
    return {
        "output_dir": tempfile.mkdtemp(),
        "use_cpu": workload.device == "cpu",
        "bf16": setting == "default" or workload.device == "cuda",
        "max_steps": workload.steps + workload.warm,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "activation_checkpointing": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": 0,
        **({"train_sampling_strategy": "group_by_length"} if setting == "grouped" and workload.kind == "sft" else {}),
    }


def train(workload: Workload, folder: Path, setting: str) -> None:
    """SFT, DPO, a reward model or GRPO by TRL's trainers on the rows of the workload."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    loading: dict[str, Any] = {"dtype": "float32", "attn_implementation": "sdpa"}
    if workload.kind == "reward":
        model = AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=1, **loading)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder / "model", **loading)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    clock = Clock(workload)

    class Ticks(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.tick()

    common = trainer_arguments(workload, setting)
    shared = {"model": model, "processing_class": tokenizer, "train_dataset": Dataset.from_list(rows), "callbacks": [Ticks()]}
    if workload.kind == "sft":
        from trl import SFTConfig, SFTTrainer

        config = SFTConfig(per_device_train_batch_size=workload.rows, max_length=1024, **common)
        trainer: Any = SFTTrainer(args=config, **shared)
    elif workload.kind == "dpo":
        from trl import DPOConfig, DPOTrainer

        preferences = DPOConfig(per_device_train_batch_size=workload.rows, max_length=1024, **common)
        trainer = DPOTrainer(args=preferences, **shared)
    elif workload.kind == "reward":
        from trl import RewardConfig, RewardTrainer

        trainer = RewardTrainer(
            args=RewardConfig(per_device_train_batch_size=workload.rows, max_length=1024, **common), **shared
        )
    else:
        from trl import GRPOConfig, GRPOTrainer

        config = GRPOConfig(
            per_device_train_batch_size=workload.rows * workload.group,
            num_generations=workload.group,
            max_completion_length=workload.new_tokens,
            **common,
        )
        trainer = GRPOTrainer(reward_funcs=lambda completions, **kw: [score(c) for c in completions], args=config, **shared)
    trainer.train()
    clock.tell()


def sample(workload: Workload, folder: Path) -> None:
    """`generate(num_return_sequences=n)` of transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = "bfloat16" if workload.device == "cuda" else "float32"
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=dtype).eval().to(workload.device)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model.generation_config.eos_token_id = None  # every sample has its full length on both sides
    row = json.loads((folder / "rows.jsonl").read_text().splitlines()[0])
    ids = tokenizer(row["prompt"], return_tensors="pt").input_ids.to(workload.device)
    clock = Clock(workload)
    for seed in range(workload.steps + workload.warm):
        torch.manual_seed(seed)
        model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, num_return_sequences=workload.group,
            max_new_tokens=workload.new_tokens, pad_token_id=0,
        )  # fmt: skip
        clock.tick()
    clock.tell()


def tokenise(workload: Workload, folder: Path) -> None:
    """From the file of rows to the data set that SFTTrainer has prepared; its cache is empty."""
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=False, report_to=[], max_length=1024, disable_tqdm=True
    )
    clock = Clock(workload)
    clock.tick()
    rows = load_dataset("json", data_files=str(folder / "rows.jsonl"), split="train", cache_dir=tempfile.mkdtemp())
    trainer = SFTTrainer(model=model, args=config, processing_class=tokenizer, train_dataset=rows)
    assert len(trainer.train_dataset) == workload.rows
    clock.tick()
    clock.tell()


if __name__ == "__main__":
    chosen, place, how = arguments()
    if chosen.kind == "sample":
        sample(chosen, place)
    elif chosen.kind == "tokenise":
        tokenise(chosen, place)
    else:
        train(chosen, place, how)
