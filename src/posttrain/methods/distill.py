"""Distillation: a student learns from a teacher's distributions, on data, on its own or on the
teacher's completions.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from rich.console import Console

from posttrain import registry
from posttrain.config import Component, Limits, SamplingConfig
from posttrain.data.account import Account
from posttrain.data.encoded import Encoded
from posttrain.data.forest import Batch, Tree
from posttrain.data.formats import detect_format, normalise
from posttrain.data.item import Item
from posttrain.data.preview import preview
from posttrain.data.training_data import read_rows
from posttrain.errors import ConfigError, DataError
from posttrain.inputs import TEACHER
from posttrain.methods.comparisons import held_out_measure, losses_text
from posttrain.methods.objects import (
    Losses,
    ModelLike,
    Rows,
    TaskLike,
    components_of,
    data_of,
    task_of,
)
from posttrain.methods.prompts import (
    differing_tokens,
    encode_prompts,
    make_collector,
    prompt_steps,
    sampling_of,
)
from posttrain.methods.sft import encode_examples
from posttrain.models.spec import ModelSpec, model_spec
from posttrain.registry import methods
from posttrain.sources.collect import Collector, Prompt
from posttrain.sources.distillation import DistillSource
from posttrain.sources.rows import DataSource, Singles
from posttrain.training.objective import Objective
from posttrain.training.optim import Schedule
from posttrain.training.plan import AdamW, Facts, Learner, Measure, Plan, Work, steps_of
from posttrain.types import Example, Sampling, Task

_FOREIGN = frozenset({"foreign_distribution", "aligned"})
_TEACHER = frozenset({"teacher_distribution", "teacher_logprobs"})


@methods.register(trains="language")
def distill(
    data: Rows | None = None,
    *,
    teacher: ModelLike,
    task: TaskLike | None = None,
    eval_data: Rows | None = None,
    losses: Losses = ("jsd",),
    lmbda: float = 0.0,
    seq_kd: bool = False,
    sampling: SamplingConfig = SamplingConfig(),
    num_generations: int = 1,
    learning_rate: float = 2e-5,
    batch_size: int = 16,
    num_train_epochs: float = 1.0,
    lr_scheduler_type: Schedule = "linear",
    limits: Limits = Limits(),
) -> Plan:
    """Distillation from a frozen teacher (Hinton et al., arXiv 1503.02531; on-policy: GKD, arXiv
    2306.13649).

    The share lmbda of the steps trains on completions that the student samples, the others on those
    of `data` or `task`, or with seq_kd on completions that the teacher samples. A step has
    batch_size rows, or num_generations completions of batch_size prompts. The loss is the mean over
    all trained tokens of a step. The metrics teacher_kl/forward and /reverse are the KL between
    student and teacher.
      Word-level KD:   losses: [{name: teacher_kl, weight: 0.5}, {name: nll, weight: 0.5}]
      GKD:             losses: [{name: jsd, beta: 0.5}], lmbda: 0.5
      MiniLLM's way:   losses: [{name: sampled_reverse_kl, horizon: sequence}], lmbda: 1
      On-policy:       losses: [{name: teacher_kl, direction: reverse}], lmbda: 1
      A teacher with another tokenizer: losses: [nll, {name: uld, weight: 1.5}]

    Args:
        data: rows of prompt and completion, or of text.
        teacher: the model that is imitated.
        task: its prompts and worked examples, where there are no rows.
        eval_data: held-out rows; loss and KL are reported before, during and after training.
        losses: losses that read the teacher, with weights.
        lmbda: share of the steps on the student's own completions, from 0 to 1.
        seq_kd: whether the teacher writes the completions of the other steps.
        sampling: of student and teacher.
        num_generations: completions per prompt.
        learning_rate: peak learning rate of the run.
        batch_size: rows or prompts per step.
        num_train_epochs: passes over the data, where the number of steps is not set.
        lr_scheduler_type: how the learning rate changes.
        limits: how many prompts may be dropped as too long.
    """
    settings = dict(locals())
    items = components_of(losses)
    _check(items, lmbda, seq_kd, sampling, num_generations)
    objective = Objective(items, accuracy=lmbda == 0 and not seq_kd, carries=TEACHER)
    teacher_model = model_spec(teacher)

    def prepare(spec: ModelSpec, seed: int, steps: int | None) -> Work:
        spec.context_length()  # first of all: it also finds out whether there is such a model
        _check_teacher(spec, teacher_model, objective)
        account = Account()
        rows = encoded = None
        if lmbda < 1 and not seq_kd:
            encoded = _worked(spec, data, task, objective, account, limits)
            rows = _rows(encoded, objective, batch_size, seed)
        prompts: list[Prompt] = []
        sampled = Sampling()
        if lmbda > 0 or seq_kd:
            prompts, sampled = _prompts(spec, data, task, sampling, limits, account)
        per_epoch = rows.steps_per_epoch if rows else prompt_steps(prompts, batch_size)
        number = steps_of(steps, num_train_epochs, per_epoch)
        settings = prompts, None, sampled, batch_size, num_generations, seed
        return Work(
            steps=number,
            source=partial(_source, rows, settings, lmbda, seq_kd, objective),
            facts=[
                ("teacher", teacher_model.name),
                *_facts(objective, encoded, len(prompts), sampled, lmbda, seq_kd),
                ("steps", f"{number} of {batch_size}"),
            ],
            account=account,
            preview=partial(_preview, encoded, spec) if encoded else None,
            measure=_measure(spec, eval_data, objective, account, limits),
            samples=bool(prompts),
        )

    return Plan(
        method="distill",
        settings=settings,
        objective=objective,
        prepare=prepare,
        optimizer=AdamW(learning_rate, lr_scheduler_type),
        teacher=teacher_model,
    )


def _worked(
    spec: ModelSpec,
    data: Rows | None,
    task: TaskLike | None,
    objective: Objective,
    account: Account,
    limits: Limits,
) -> Encoded:
    """Rows, or a task's worked examples, which the losses can learn from."""
    _exactly_one(data, task, "whose worked examples are imitated")
    encoded = encode_examples(spec, data, task, account, limits)
    objective.check_weights(encoded.sequences)
    return encoded


def _rows(encoded: Encoded, objective: Objective, batch_size: int, seed: int) -> DataSource:
    singles = Singles(encoded.sequences)
    return DataSource(singles, batch_size=batch_size, seed=seed, whole=objective.whole)


def _prompts(
    spec: ModelSpec,
    data: Rows | None,
    task: TaskLike | None,
    sampling: SamplingConfig,
    limits: Limits,
    account: Account,
) -> tuple[list[Prompt], Sampling]:
    """What student or teacher complete, and how."""
    prompt_task = _prompt_task(data, task)
    sampled = sampling_of(sampling, prompt_task)
    prompts = encode_prompts(spec, prompt_task, sampled, limits=limits, account=account)
    return prompts, sampled


def _source(
    rows: DataSource | None,
    settings: tuple[Any, ...],
    lmbda: float,
    seq_kd: bool,
    objective: Objective,
    learner: Learner,
) -> DistillSource:
    """settings: of the collectors; the last of them is the run's seed."""
    model = learner.model

    def collector(writer: Any) -> Collector:
        return make_collector(writer, *settings, world=learner.world)

    return DistillSource(
        data=rows,
        student=collector(model) if lmbda > 0 else None,
        teacher=collector(model.teacher) if seq_kd and lmbda < 1 else None,
        lmbda=lmbda,
        seq_kd=seq_kd,
        seed=settings[-1],
        whole=objective.whole,
    )


def _preview(encoded: Encoded, spec: ModelSpec, console: Console, num: int) -> None:
    preview(encoded, spec.tokenizer, console, num)


def _exactly_one(data: Rows | None, task: TaskLike | None, why: str) -> None:
    if (data is None) == (task is None):
        raise ConfigError(f"distill needs exactly one of data (rows) and task ({why})")


def _measure(
    spec: ModelSpec,
    eval_data: Rows | None,
    objective: Objective,
    account: Account,
    limits: Limits,
) -> Measure | None:
    if eval_data is None:
        return None
    held_out = encode_examples(spec, eval_data, None, account, limits, key="eval_data")
    batch = Batch([Tree.build([s]) for s in held_out.sequences], whole=objective.whole)
    return held_out_measure(objective, lambda source: batch)


def _check(
    losses: list[Component],
    lmbda: float,
    seq_kd: bool,
    sampling: SamplingConfig,
    num_generations: int,
) -> None:
    if not 0 <= lmbda <= 1:
        raise ConfigError(
            f"lmbda: {lmbda} is the share of steps on the student's own completions; it lies "
            "between 0 and 1"
        )
    if num_generations < 1:
        raise ConfigError(f"num_generations: {num_generations} must be at least 1")
    if seq_kd and lmbda == 1:
        raise ConfigError(
            "seq_kd: with lmbda: 1 the student writes every completion; lower lmbda, or leave "
            "seq_kd out"
        )
    if lmbda == 0 and not seq_kd and (num_generations != 1 or sampling != SamplingConfig()):
        key = "num_generations" if num_generations != 1 else "sampling"
        raise ConfigError(
            f"{key}: nothing is sampled with lmbda: 0 and without seq_kd; leave it out, or set "
            "one of these"
        )
    for item in losses:
        if item.weight < 0:
            raise ConfigError(
                f"losses: {item.name!r} has the weight {item.weight}; a loss of distillation is "
                "minimised, so >= 0"
            )
    names = {item.name for item in losses}
    truncated = (
        sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_p > 0 or sampling.temperature != 1
    )
    if "sampled_reverse_kl" in names and (lmbda < 1 or truncated):
        raise ConfigError(
            "losses: 'sampled_reverse_kl' is right on the student's own samples at temperature 1 "
            "alone; set lmbda: 1 and leave "
            "sampling as it is, or take teacher_kl with direction: reverse"
        )


def _check_teacher(spec: ModelSpec, teacher: ModelSpec, objective: Objective) -> None:
    """The teacher exists and, unless the losses bridge vocabularies, has the student's."""
    if not objective.needs & (_TEACHER | _FOREIGN):
        names = ", ".join(sorted(n for n in registry.losses.names() if _asks(n)))
        raise ConfigError(
            f"losses: none of them asks for a teacher; take one of {names}, or use method sft"
        )
    theirs = teacher.settings()
    if not objective.needs & _TEACHER:
        return
    differing = differing_tokens(spec, teacher)
    sizes = [c.get_text_config(decoder=True).vocab_size for c in (spec.settings(), theirs)]
    if differing or max(sizes) - min(sizes) > 0.02 * min(sizes):
        what = (
            f"{len(differing)} tokens differ, {differing[0]!r} among them"
            if differing
            else f"{sizes[1]} against {sizes[0]} rows"
        )
        raise ConfigError(
            f"teacher: {teacher.name} has another vocabulary than {spec.name} "
            f"({what}), so their distributions "
            "cannot be compared token by token. Use losses: [nll, {name: uld, weight: 1.5}], "
            "which bridges tokenizers, or let "
            "the teacher write the rows and fine-tune on them with method sft"
        )


def _asks(name: str) -> bool:
    return not (_TEACHER | _FOREIGN).isdisjoint(registry.losses.entry(name).inputs)


def _prompt_task(data: Rows | None, task: TaskLike | None) -> Task:
    """The prompts to complete, as a task: those of the task, or of the rows."""
    _exactly_one(data, task, "whose prompts are completed")
    if task is not None:
        return task_of(task)
    assert data is not None
    rows = read_rows(data_of(data))
    form = detect_format(rows)
    examples = [_example(normalise(row, form, str(row.get("id", i)))) for i, row in enumerate(rows)]
    return Task("data", examples, lambda text, example: 0.0, lambda text: None)


def _example(item: Item) -> Example:
    """A row's prompt; of a conversation all that stands before its last turn."""
    prompt = item.prompt
    if (
        prompt is None
        and isinstance(item.completion, list)
        and item.completion[-1]["role"] == "assistant"
    ):
        prompt = item.completion[:-1]
    if not prompt:
        raise DataError(
            f"row {item.row} has no prompt, so there is nothing to complete; completions that are "
            "sampled (lmbda above 0, or "
            "seq_kd) need rows with a prompt, while plain text can be learnt from with lmbda: 0"
        )
    return Example(prompt, id=item.row)


def _facts(
    objective: Objective,
    encoded: Encoded | None,
    num_prompts: int,
    sampling: Sampling,
    lmbda: float,
    seq_kd: bool,
) -> Facts:
    facts = [("losses", losses_text(objective))]
    if encoded is not None:
        rows = f"{len(encoded.sequences)} of {encoded.num_rows}"
        facts.append(("rows", f"{rows}, {encoded.num_trained} trained tokens"))
    if num_prompts:
        text = f"at most {sampling.max_tokens} tokens at temperature {sampling.temperature:g}"
        facts.append(("prompts", f"{num_prompts}; {text}"))
    others = "the teacher" if seq_kd else "the data"
    share = f"the student in {lmbda:.0%} of the steps, {others} in the others"
    return [*facts, ("written by", share)]
