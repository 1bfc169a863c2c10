"""Supervised fine-tuning: also continued and from-scratch pre-training, which are fine-tuning on plain text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from posttrain.config import Component, DataConfig
from posttrain.data.encode import Encoded, encode_items, encode_rows
from posttrain.data.forest import Batch, Tree
from posttrain.data.formats import RowFormat, rows_to_imitate
from posttrain.data.item import Item
from posttrain.data.preview import preview
from posttrain.data.rows import load_rows
from posttrain.data.stream import DataSource
from posttrain.data.templates import template_fingerprint
from posttrain.errors import ConfigError, DataError
from posttrain.losses.inputs import ROLLOUT_INPUTS
from posttrain.methods.evaluating import evaluate_model, measuring_hook
from posttrain.methods.prompting import context_length, make_task
from posttrain.methods.run import Run, TrainingJob
from posttrain.registry import methods
from posttrain.terminal import write
from posttrain.training.objective import Objective, mean_loss


@methods.register
def sft(
    run,
    *,
    data: DataConfig | None = None,
    task: Component | None = None,
    losses: list[Component] = ("nll",),  # type: ignore[assignment]
    neftune_noise_alpha: float = 0.0,
    learning_rate: float = 2e-5,
    batch_size: int = 16,
    num_train_epochs: float = 1.0,
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear",
) -> TrainingJob:
    """Supervised fine-tuning on completions, chat turns or plain text.

    The loss is the mean over all trained tokens of a step. Rows come from `data` (a file, folder or hub id), or from the
    worked examples of a `task`. With eval_data its loss is told before, every eval_every steps, and after. A row, or a
    message, may have a `weight` that its tokens count with. neftune_noise_alpha puts noise on the embeddings in training
    (NEFTune, arXiv 2310.05914; 5 is usual).
      Label smoothing:  losses: [{name: label_smoothing, epsilon: 0.1}]      DFT: losses: [dft]
      Step by step:     data: {path: ..., rationale_weight: 0.5} for rows with a column rationale (arXiv 2305.02301)
    """
    if neftune_noise_alpha < 0:
        raise ConfigError(f"neftune_noise_alpha: {neftune_noise_alpha} is the size of a noise; 0 or above, 5 is usual")
    context = context_length(run)  # first of all: it also finds out whether there is such a model
    encoded = encode_examples(run, data, task, context)
    source = DataSource([[s] for s in encoded.sequences], batch_size=batch_size, seed=run.recipe.seed)
    objective = Objective(losses, accuracy=True, lacks=ROLLOUT_INPUTS)
    objective.check_weights(encoded.sequences)
    steps = run.steps_for(source.steps_per_epoch)
    held_out = encode_examples(run, run.recipe.eval_data, None, context) if run.recipe.eval_data else None

    def make_source(model: Any) -> DataSource:
        model.neftune_noise_alpha = neftune_noise_alpha
        return source

    def make_hooks(model: Any, _: Any) -> list[Any]:
        if held_out is None:
            return []
        batch = Batch([Tree.build([s]) for s in held_out.sequences])
        hook = measuring_hook(run, steps, lambda: {"eval_loss": mean_loss(model, batch, run.micro_batch_tokens(model))})
        if "eval_loss" in run.first_metrics:
            write(run.console, f"eval_loss before training: {run.first_metrics['eval_loss']:.4f}")
        return [hook]

    def execute() -> None:
        model = run.train(make_source, objective, steps=steps, make_hooks=make_hooks)
        model.neftune_noise_alpha = 0.0
        if run.recipe.evaluation is not None:
            evaluate_model(run, model)

    return TrainingJob(
        _facts(run, encoded, steps, batch_size), execute, lambda num: preview(encoded, run.tokenizer, run.console, num)
    )


def encode_examples(run: Run, data: DataConfig | None, task: Component | None, context: int | None) -> Encoded:
    """The training sequences of a recipe: of its rows, or of the worked examples of its task."""
    if (data is None) == (task is None):
        raise ConfigError(f"{run.recipe.method} needs exactly one of data (rows) and task (whose worked examples are imitated)")
    if data is None:
        assert task is not None
        made = make_task(run, task)
        items = [
            Item(e.id, text=e.completion) if e.prompt == "" and isinstance(e.completion, str)
            else Item(e.id, prompt=e.prompt, completion=e.completion)
            for e in made.examples
        ]  # fmt: skip
        sequences = [sequence for _, sequence in encode_items(items, run.tokenizer)]
        fitting = [s for s in sequences if context is None or len(s.ids) <= context]
        if not fitting:
            raise DataError(f"every worked example of {made.name} is longer than the model's context of {context} tokens")
        form = RowFormat("task", f"worked examples of {made.name}")
        encoded = Encoded(fitting, form, num_rows=len(items), dropped=len(items) - len(fitting))
    else:
        max_length = data.max_length or min(1024, context or 1024)
        if context is not None and max_length > context:
            raise ConfigError(f"data.max_length: {data.max_length} exceeds the model's context of {context}")
        rows = load_rows(run.resolve(data.path), subset=data.subset, split=data.split, limit=data.limit, columns=data.columns)
        imitated = rows_to_imitate(rows)
        encoded = encode_rows(
            imitated,
            run.tokenizer,
            train_on=data.train_on,
            max_length=max_length,
            truncation=data.truncation,
            max_masked=data.max_masked,
            rationale_weight=data.rationale_weight,
        )
        if len(imitated) < len(rows):
            left_out = f"{len(rows) - len(imitated)} undesirable rows left out"
            encoded.form = replace(encoded.form, reason=f"{encoded.form.reason}; {left_out}")
    return encoded


def _facts(run: Run, encoded: Encoded, steps: int, batch_size: int) -> list[tuple[str, str]]:
    lengths = encoded.lengths
    trained = encoded.num_trained / max(int(lengths.sum()), 1)
    eos = run.tokenizer.eos_token_id
    ends = [int(s.ids[s.loss_mask][-1]) == eos for s in encoded.sequences]
    return [
        ("format", f"{encoded.form.name} ({encoded.form.reason})"),
        ("rows", f"{encoded.num_rows}, of which {encoded.truncated} cut, {encoded.dropped} dropped as too long, "
                 f"{len(encoded.masked)} without a trained token"),
        ("tokens", f"{int(lengths.sum())}, trained {trained:.0%}; longest row {int(lengths.max())}"),
        ("EOS", f"trained at the end of {sum(ends)} of {len(ends)} rows"),
        ("template", template_fingerprint(run.tokenizer)),
        ("steps", f"{steps} of {batch_size} rows"),
    ]  # fmt: skip
