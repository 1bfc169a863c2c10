"""The peer's side: TRL in its own environment. side_trl.py WORKLOAD FOLDER SETTING [WEIGHTS] -> one
line of JSON, the last.

A setting holds what differs from TRL's defaults; {} is what TRL chooses for a step that is one
batch:

    micro           rows of a forward pass (pairs for DPO); the rest of the step by gradient
                    accumulation
    precision       "bf16" (weights in float32, autocast: the default), "fp32", "bf16-weights"
    checkpointing   False: activations are kept instead of computed again
    order           "grouped" or "rebalanced": `train_sampling_strategy`; else the rows in turn, as
                    posttrain takes them
    attention       "eager"
    padding_free    True: a batch is one row
    chunked         True: the loss in chunks of tokens (SFT)
    generation      completions that are sampled at a time (GRPO, sampling)
    cache           `cache_implementation` of generate ("static")
    prefill_once    True: the prompt's keys and values are computed once and repeated (sampling)
    workers         `dataloader_num_workers`
    processes       `dataset_num_proc` (tokenise)
    fixed           True: completions are made up and not sampled, to compare weights (GRPO)

Continuous batching of transformers runs on a CPU, but reserves 8 GiB and takes a minute for 8
completions of 8 tokens.
`keep_memory` (the allocator keeps freed memory, as posttrain asks it to) is an environment
variable, which peer.py sets.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

from workloads import Clock, Workload, arguments, rows_in_order, score

STRATEGIES = {"grouped": "group_by_length", "rebalanced": "batch_rebalance"}


def trainer_arguments(workload: Workload, setting: dict[str, Any], rows: int) -> dict[str, Any]:
    """Arguments of every trainer. rows: of a step, as the trainer counts them."""
    micro = setting.get("micro", rows)
    given: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "use_cpu": workload.device == "cpu",
        "max_steps": workload.steps + workload.warm,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": rows // micro,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": 0,
        "dataloader_num_workers": setting.get("workers", 0),
    }
    if setting.get("precision", "bf16") == "fp32":
        given["bf16"] = False
    if "checkpointing" in setting:
        given["activation_checkpointing"] = setting["checkpointing"]
    if workload.kind == "grpo":
        given["shuffle_dataset"] = False
    else:
        given["train_sampling_strategy"] = STRATEGIES.get(setting.get("order", ""), "sequential")
    return given


def trainer_of(workload: Workload, folder: Path, setting: dict[str, Any]) -> Any:
    """TRL's trainer of SFT, DPO, a reward model or GRPO on the rows of the workload."""
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    dtype = "bfloat16" if setting.get("precision") == "bf16-weights" else "float32"
    loading: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": setting.get("attention", "sdpa"),
    }
    if workload.kind == "reward":
        model = AutoModelForSequenceClassification.from_pretrained(
            folder / "model", num_labels=1, **loading
        )
    else:
        model = AutoModelForCausalLM.from_pretrained(folder / "model", **loading)
    shared = {
        "model": model,
        "processing_class": AutoTokenizer.from_pretrained(folder / "model"),
        "train_dataset": Dataset.from_list(rows_in_order(folder)),
    }
    rows = workload.rows * (workload.group if workload.kind == "grpo" else 1)
    common = trainer_arguments(workload, setting, rows)
    if workload.kind == "sft":
        options: dict[str, Any] = (
            {"padding_free": True, "max_length": None} if setting.get("padding_free") else {}
        )
        options |= {"loss_type": "chunked_nll"} if setting.get("chunked") else {}
        return trl.SFTTrainer(
            args=trl.SFTConfig(**{"max_length": 2048, **options, **common}), **shared
        )
    if workload.kind == "dpo":
        return trl.DPOTrainer(args=trl.DPOConfig(max_length=2048, **common), **shared)
    if workload.kind == "reward":
        return trl.RewardTrainer(args=trl.RewardConfig(max_length=2048, **common), **shared)
    config = trl.GRPOConfig(
        num_generations=workload.group,
        max_completion_length=workload.new_tokens,
        generation_batch_size=setting.get("generation", rows),
        cache_implementation=setting.get("cache"),
        **common,
    )
    return trl.GRPOTrainer(
        reward_funcs=lambda completions, **kw: [score(c) for c in completions],
        args=config,
        **shared,
    )


def train(workload: Workload, folder: Path, setting: dict[str, Any], weights: Path | None) -> None:
    """The trainer's run, timed."""
    from transformers import TrainerCallback

    clock = Clock(workload)
    trainer = trainer_of(workload, folder, setting)

    class Ticks(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            clock.begin()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.tick()

    trainer.add_callback(Ticks())
    if workload.kind == "grpo":
        trainer._generate_single_turn = clock.sampled(
            made_up(workload) if setting.get("fixed") else trainer._generate_single_turn
        )
    else:
        loss = trainer.compute_loss

        def counted(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            mask = inputs.get("attention_mask")
            clock.tokens += float(inputs["input_ids"].numel() if mask is None else mask.sum())
            return loss(model, inputs, *args, **kwargs)

        trainer.compute_loss = counted
    trainer.train()
    result = clock.result()
    if weights is not None:
        from safetensors.torch import save_file

        save_file(
            {name: w.float().contiguous() for name, w in trainer.model.named_parameters()}, weights
        )
    print("\n" + json.dumps(result))


def made_up(workload: Workload) -> Any:
    """Instead of sampling: completions that follow from the prompt and their number in its
    group alone.
    """

    def generate(
        prompt_ids: list[list[int]], *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], None]:
        seen: dict[tuple[int, ...], int] = {}
        completions = []
        for ids in map(tuple, prompt_ids):
            number = seen[ids] = seen.get(ids, -1) + 1
            draw = random.Random(f"{sum(ids)} {number % workload.group}")
            completions.append(
                [draw.randrange(2, workload.vocab) for _ in range(workload.new_tokens)]
            )
        return completions, None

    return generate


def sample(workload: Workload, folder: Path, setting: dict[str, Any]) -> None:
    """`generate` of transformers; by default `generate(num_return_sequences=n)`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    half = workload.device == "cuda" or setting.get("precision") == "bf16-weights"
    model = AutoModelForCausalLM.from_pretrained(
        folder / "model",
        dtype="bfloat16" if half else "float32",
        attn_implementation=setting.get("attention", "sdpa"),
    )
    model = model.eval().to(workload.device)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model.generation_config.eos_token_id = None  # every sample has its full length on both sides
    row = rows_in_order(folder)[0]
    ids = tokenizer(row["prompt"], return_tensors="pt").input_ids.to(workload.device)
    clock = Clock(workload)
    clock.begin()
    at_a_time = setting.get("generation", workload.group)
    for seed in range(workload.steps + workload.warm):
        torch.manual_seed(seed)
        for _ in range(workload.group // at_a_time):
            generate(model, ids, at_a_time, workload.new_tokens, setting)
        clock.tick()
    clock.print()


def generate(model: Any, ids: Any, count: int, new_tokens: int, setting: dict[str, Any]) -> None:
    """`count` samples of one prompt."""
    import torch
    from transformers import DynamicCache

    options: dict[str, Any] = {
        "do_sample": True,
        "top_k": 0,
        "max_new_tokens": new_tokens,
        "pad_token_id": 0,
    }
    if "cache" in setting:
        options["cache_implementation"] = setting["cache"]
    if setting.get("prefill_once"):
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            model(ids[:, :-1], past_key_values=cache, logits_to_keep=1)
        cache.batch_repeat_interleave(count)
        repeated = ids.expand(count, -1)
        result = model.generate(
            repeated, attention_mask=torch.ones_like(repeated), past_key_values=cache, **options
        )
    else:
        result = model.generate(
            ids, attention_mask=torch.ones_like(ids), num_return_sequences=count, **options
        )
    assert result.shape == (count, ids.shape[1] + new_tokens)


def tokenise(workload: Workload, folder: Path, setting: dict[str, Any]) -> None:
    """From the file of rows to the data set that SFTTrainer has prepared; its cache is empty."""
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=False,
        report_to=[],
        max_length=1024,
        disable_tqdm=True,
        dataset_num_proc=setting.get("processes"),
    )
    clock = Clock(workload)
    clock.begin()
    rows = load_dataset(
        "json", data_files=str(folder / "rows.jsonl"), split="train", cache_dir=tempfile.mkdtemp()
    )
    trainer = SFTTrainer(model=model, args=config, processing_class=tokenizer, train_dataset=rows)
    assert len(trainer.train_dataset) == workload.rows
    clock.tick()
    clock.print()


if __name__ == "__main__":
    chosen, place, how, kept = arguments()
    if chosen.kind == "sample":
        sample(chosen, place, how)
    elif chosen.kind == "tokenise":
        tokenise(chosen, place, how)
    else:
        train(chosen, place, how, kept)
