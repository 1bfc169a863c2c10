"""Supervised fine-tuning: also continued and from-scratch pre-training, which are fine-tuning
on plain text.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from posttrain.config import Component, DataConfig, EvaluationConfig
from posttrain.data.encode import encode_items
from posttrain.data.encoded import Encoded, Limits, rounded_up, trained_ends
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.data.formats import RowFormat
from posttrain.data.item import Item
from posttrain.data.preview import preview
from posttrain.data.stream import DataSource, Singles
from posttrain.data.templates import template_fingerprint
from posttrain.errors import ConfigError, DataError
from posttrain.inputs import IMITATED
from posttrain.methods.evaluating import evaluate_model, evaluation_hooks, measuring_hook
from posttrain.methods.prompting import context_length, make_task
from posttrain.methods.rows import account, data_facts, encode_stream
from posttrain.methods.run import Run, TrainingJob
from posttrain.registry import methods
from posttrain.terminal import write
from posttrain.training.objective import Objective, mean_loss
from posttrain.types import Task

_EVALUATED = 4096  # held-out sequences that are in memory at a time


@methods.register
def sft(
    run,
    *,
    data: DataConfig | None = None,
    task: Component | None = None,
    eval_data: DataConfig | None = None,
    evaluation: EvaluationConfig | None = None,
    losses: list[Component] = ("nll",),  # type: ignore[assignment]
    neftune_noise_alpha: float = 0.0,
    learning_rate: float = 2e-5,
    batch_size: int = 16,
    num_train_epochs: float = 1.0,
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear",
) -> TrainingJob:
    """Supervised fine-tuning on completions, chat turns or plain text.

    The loss is the mean over all trained tokens of a step. Rows come from `data` (a file, folder or
    hub id), or from the worked examples of a `task`. With eval_data its loss is told before, every
    eval_every steps, and after. A row, or a message, may have a `weight` that its tokens count
    with. neftune_noise_alpha puts noise on the embeddings in training (NEFTune, arXiv 2310.05914; 5
    is usual).
      Label smoothing:  losses: [{name: label_smoothing, epsilon: 0.1}]      DFT: losses: [dft]
      Step by step:     data: {path: ..., rationale_weight: 0.5} for rows with a column rationale
                        (arXiv 2305.02301)
    """
    if neftune_noise_alpha < 0:
        raise ConfigError(
            f"neftune_noise_alpha: {neftune_noise_alpha} is the size of a noise; 0 or above, 5 is "
            "usual"
        )
    context = context_length(run)  # first of all: it also finds out whether there is such a model
    encoded = encode_examples(run, data, task, context)
    source = DataSource(Singles(encoded.sequences), batch_size=batch_size, seed=run.recipe.seed)
    objective = Objective(losses, accuracy=True, carries=IMITATED)
    objective.check_weights(encoded.sequences)
    steps = run.steps_for(source.steps_per_epoch)
    held_out = (
        encode_examples(run, eval_data, None, context, key="eval_data") if eval_data else None
    )

    def make_source(model: Any) -> DataSource:
        model.neftune_noise_alpha = neftune_noise_alpha
        return source

    def make_hooks(model: Any, _: Any) -> list[Any]:
        hooks = evaluation_hooks(run, model, evaluation, steps)
        if held_out is None:
            return hooks
        hook = measuring_hook(
            run, steps, lambda: {"eval_loss": held_out_loss(run, model, held_out.sequences)}
        )
        if "eval_loss" in run.first_metrics:
            write(run.console, f"eval_loss before training: {run.first_metrics['eval_loss']:.4f}")
        return [hook, *hooks]

    def execute() -> None:
        model = run.train(make_source, objective, steps=steps, make_hooks=make_hooks)
        model.neftune_noise_alpha = 0.0
        evaluate_model(run, model, evaluation)

    return TrainingJob(
        _facts(run, encoded, steps, batch_size),
        execute,
        lambda num: preview(encoded, run.tokenizer, run.console, num),
    )


def held_out_loss(run: Run, model: Any, sequences: Sequence[TokenSequence]) -> float:
    """Mean negative log-likelihood over all targets, in nats, over some sequences at a time."""
    total, count = 0.0, 0
    means = []
    for start in range(0, len(sequences), _EVALUATED):
        batch = Batch([Tree.build([s]) for s in sequences[start : start + _EVALUATED]])
        means.append(mean_loss(model, batch, run.micro_batch_tokens(model)))
        total += means[-1] * batch.num_targets
        count += batch.num_targets
    return means[0] if len(means) == 1 else total / max(count, 1)


def encode_examples(
    run: Run,
    data: DataConfig | None,
    task: Component | None,
    context: int | None,
    *,
    key: str = "data",
) -> Encoded:
    """The training sequences of a recipe: of its rows, or of the worked examples of its task."""
    if (data is None) == (task is None):
        raise ConfigError(
            f"{run.recipe.method} needs exactly one of data (rows) and task (whose worked "
            "examples are imitated)"
        )
    if data is None:
        assert task is not None
        made = make_task(run, task)
        items = [
            Item(e.id, text=e.completion)
            if e.prompt == "" and isinstance(e.completion, str)
            else Item(e.id, prompt=e.prompt, completion=e.completion)
            for e in made.examples
        ]
        encoded = Encoded(
            [], RowFormat("task", f"worked examples of {made.name}"), num_rows=len(items)
        )
        limits = Limits(context or sys.maxsize, truncation="drop", max_cut=1.0, context=context)
        for item, sequence in encode_items(items, run.tokenizer):
            # Only a plain text may be split: half a worked example would be another example.
            own = replace(limits, truncation="split") if item.text is not None else limits
            for part in encoded.fitted(item.row, [sequence], own, text=item.text is not None):
                encoded.add(part)
        encoded.refuse_losses(limits)
        _refuse_dropped(run, made, encoded, context)
        account(run, encoded, key)
    else:
        encoded = encode_stream(run, data, context, key=key)
    return encoded


def _refuse_dropped(run: Run, task: Task, encoded: Encoded, context: int | None) -> None:
    """Refuse to drop more worked examples than the recipe allows."""
    share, allowed = encoded.dropped / encoded.num_rows, run.recipe.max_prompts_dropped
    if share > allowed:
        raise DataError(
            f"task {task.name!r}: {encoded.dropped} of {encoded.num_rows} worked examples exceed "
            "the model's context of "
            f"{context} tokens, more than max_prompts_dropped={allowed:g} allows. Take a model "
            "with a longer context, "
            f"or set max_prompts_dropped={rounded_up(share)} to drop them"
        )


def _facts(run: Run, encoded: Encoded, steps: int, batch_size: int) -> list[tuple[str, str]]:
    eos = run.tokenizer.eos_token_id
    return [
        ("format", f"{encoded.form.name} ({encoded.form.reason})"),
        *data_facts(encoded),
        (
            "EOS",
            f"trained at the end of {trained_ends(encoded.sequences, eos):,} of "
            f"{len(encoded.sequences):,} sequences",
        ),
        ("template", template_fingerprint(run.tokenizer)),
        ("steps", f"{steps} of {batch_size} {'sequences' if encoded.text else 'rows'}"),
    ]
