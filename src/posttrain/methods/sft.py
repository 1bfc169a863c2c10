"""Supervised fine-tuning: also continued and from-scratch pre-training, which are fine-tuning on
plain text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain.config import DataConfig, Limits
from posttrain.data.account import Account
from posttrain.data.encoded import Encoded, trained_ends
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.data.preview import preview
from posttrain.data.templates import template_facts
from posttrain.data.training_data import data_facts, encode_stream, encode_task, steps_text
from posttrain.errors import ConfigError
from posttrain.inputs import IMITATED
from posttrain.methods.objects import Losses, Rows, TaskLike, components_of, data_of, task_of
from posttrain.models.spec import ModelSpec
from posttrain.registry import methods
from posttrain.sources.rows import DataSource, Singles
from posttrain.training.objective import Objective, mean_loss
from posttrain.training.optim import Schedule
from posttrain.training.plan import AdamW, Facts, Plan, Work, steps_of

_EVALUATED = 4096  # held-out sequences that are in memory at a time


@methods.register(trains="language")
def sft(
    data: Rows | None = None,
    *,
    task: TaskLike | None = None,
    eval_data: Rows | None = None,
    losses: Losses = ("nll",),
    neftune_noise_alpha: float = 0.0,
    learning_rate: float = 2e-5,
    batch_size: int = 16,
    num_train_epochs: float = 1.0,
    lr_scheduler_type: Schedule = "linear",
    limits: Limits = Limits(),
) -> Plan:
    """Supervised fine-tuning on completions, chat turns or plain text.

    The loss is the mean over all trained tokens of a step. Rows come from `data`, or from the
    worked examples of a `task`. A row, or a message, may have a `weight` that its tokens count
    with.
      Label smoothing:  losses: [{name: label_smoothing, epsilon: 0.1}]
      DFT:              losses: [dft]
      Step by step:     data: {path: ..., rationale_weight: 0.5} for rows with a column rationale
                        (arXiv 2305.02301)

    Args:
        data: rows of prompt and completion, of messages, or of text.
        task: its worked examples are imitated, where there are no rows.
        eval_data: held-out rows; their loss is reported before, during and after training.
        losses: losses of tokens, with weights.
        neftune_noise_alpha: size of the noise on embeddings in training (NEFTune, arXiv
            2310.05914; 5 is usual, 0 = off).
        learning_rate: peak learning rate of the run.
        batch_size: rows, or sequences of plain text, per step.
        num_train_epochs: passes over the data, where the number of steps is not set.
        lr_scheduler_type: how the learning rate changes.
        limits: how many worked examples may be dropped as too long.
    """
    settings = dict(locals())
    if neftune_noise_alpha < 0:
        raise ConfigError(
            f"neftune_noise_alpha: {neftune_noise_alpha} is the size of a noise; 0 or above, 5 is "
            "usual"
        )
    if (data is None) == (task is None):
        raise ConfigError(
            "sft needs exactly one of data (rows) and task (whose worked examples are imitated)"
        )
    objective = Objective(components_of(losses), accuracy=True, carries=IMITATED)

    def prepare(spec: ModelSpec, seed: int, steps: int | None) -> Work:
        account = Account()
        encoded = encode_examples(spec, data, task, account, limits)
        source = DataSource(
            Singles(encoded.sequences),
            batch_size=batch_size,
            seed=seed,
            shuffle=not (isinstance(data, DataConfig) and data.order == "as_given"),
        )
        objective.check_weights(encoded.sequences)
        number = steps_of(steps, num_train_epochs, source.steps_per_epoch)
        held_out = None
        if eval_data is not None:
            held_out = encode_examples(spec, eval_data, None, account, limits, key="eval_data")
        return Work(
            steps=number,
            source=lambda learner: source,
            facts=_facts(spec, encoded, number, batch_size),
            account=account,
            preview=lambda console, num: preview(encoded, spec.tokenizer, console, num),
            measure=_measure(held_out) if held_out is not None else None,
        )

    return Plan(
        method="sft",
        settings=settings,
        objective=objective,
        prepare=prepare,
        optimizer=AdamW(learning_rate, lr_scheduler_type),
        noise=neftune_noise_alpha,
    )


def _measure(encoded: Encoded) -> Any:
    def measure(model: Any, source: Any, max_tokens: int) -> dict[str, float]:
        return {"eval_loss": held_out_loss(model, encoded.sequences, max_tokens)}

    return measure


def held_out_loss(model: Any, sequences: Sequence[TokenSequence], max_tokens: int) -> float:
    """Mean negative log-likelihood over all targets, in nats, over some sequences at a time."""
    total, count = 0.0, 0
    means = []
    for start in range(0, len(sequences), _EVALUATED):
        batch = Batch([Tree.build([s]) for s in sequences[start : start + _EVALUATED]])
        means.append(mean_loss(model, batch, max_tokens))
        total += means[-1] * batch.num_targets
        count += batch.num_targets
    return means[0] if len(means) == 1 else total / max(count, 1)


def encode_examples(
    spec: ModelSpec,
    data: Rows | None,
    task: TaskLike | None,
    account: Account,
    limits: Limits,
    *,
    key: str = "data",
) -> Encoded:
    """The training sequences of rows, or of a task's worked examples.

    Args:
        key: the name of `data` in messages and metrics.
    """
    context = spec.context_length()
    if data is not None:
        return encode_stream(data_of(data), spec.tokenizer, context, account=account, key=key)
    assert task is not None
    max_dropped = limits.max_prompts_dropped
    return encode_task(
        task_of(task),
        spec.tokenizer,
        context,
        account=account,
        max_dropped=max_dropped,
        key=key,
    )


def _facts(spec: ModelSpec, encoded: Encoded, steps: int, batch_size: int) -> Facts:
    ends = trained_ends(encoded.sequences, spec.tokenizer.eos_token_id)
    unit = "sequences" if encoded.text else "rows"
    return [
        ("format", f"{encoded.form.name} ({encoded.form.reason})"),
        *data_facts(encoded),
        ("EOS", f"trained at the end of {ends:,} of {len(encoded.sequences):,} sequences"),
        *template_facts(spec.tokenizer),
        ("steps", steps_text(steps, batch_size, len(encoded.sequences), unit)),
    ]
