"""Self-distillation fine-tuning: the model that sees a demonstration teaches the one that does
not, on completions that the latter samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from posttrain.config import Component, Limits, SamplingConfig
from posttrain.data.account import Account
from posttrain.data.formats import detect_format, normalise
from posttrain.data.item import Item
from posttrain.data.training_data import read_rows
from posttrain.errors import ConfigError, DataError
from posttrain.inputs import IMITATED
from posttrain.methods.objects import Rows, TaskLike, data_of, task_of
from posttrain.methods.prompts import (
    encode_prompts,
    make_collector,
    prompt_steps,
    prompts_text,
    sampling_of,
    sampling_text,
)
from posttrain.models.spec import ModelSpec
from posttrain.registry import methods
from posttrain.sources.collect import Prompt
from posttrain.sources.distillation import DistillSource
from posttrain.training.objective import Objective
from posttrain.training.optim import Schedule
from posttrain.training.plan import AdamW, Learner, Plan, Work, steps_of
from posttrain.training.reference_model import Reference
from posttrain.types import Example, Sampling, Task, Text

TEMPLATE = "{prompt}\n\nA response:\n{demonstration}\n\nYour own response:\n"
"""What the teacher reads: the prompt, and a response that somebody else gave to it."""


@methods.register(trains="language")
def sdft(
    data: Rows | None = None,
    *,
    task: TaskLike | None = None,
    template: str = TEMPLATE,
    teacher_rate: float = 0.02,
    sampling: SamplingConfig = SamplingConfig(),
    num_generations: int = 1,
    learning_rate: float = 2e-5,
    batch_size: int = 16,
    num_train_epochs: float = 1.0,
    lr_scheduler_type: Schedule = "linear",
    limits: Limits = Limits(),
) -> Plan:
    """Self-distillation fine-tuning (SDFT, arXiv 2601.19897): learn from demonstrations on policy.

    y ~ pi(. | x),  l_t = KL(pi(. | x, y_<t) || q(. | x, c, y_<t))

    The model completes a prompt x itself. The teacher q is the same model with the gold completion
    c of that prompt in its own prompt. The reverse KL over the whole vocabulary is averaged over
    all sampled tokens of a step. Fine-tuning on c itself moves the model further from what it
    writes by itself, and it forgets more.

    Args:
        data: rows of prompt and completion, or of messages, whose last turn is the demonstration.
        task: its prompts and worked examples, where there are no rows.
        template: the teacher's prompt, with {prompt} and {demonstration}. In a conversation it
            takes the place of the last user turn.
        teacher_rate: share of the model in the teacher after each step, teacher <- rate * model +
            (1 - rate) * teacher. 0 is the model of the start; 1 the present one. Adapters are
            taken over whole, so theirs is 0 or 1.
        sampling: of the completions.
        num_generations: completions per prompt.
        learning_rate: peak learning rate of the run.
        batch_size: prompts per step.
        num_train_epochs: passes over the prompts, where the number of steps is not set.
        lr_scheduler_type: how the learning rate changes.
        limits: how many prompts may be dropped as too long, with demonstration or without.
    """
    settings = dict(locals())
    _check(data, task, template, teacher_rate, num_generations)
    objective = Objective([Component("reference_kl")], carries=IMITATED)
    reference = Reference(every=int(teacher_rate > 0), mix=teacher_rate or 1.0)

    def prepare(spec: ModelSpec, seed: int, steps: int | None) -> Work:
        _check_rate(spec, teacher_rate)
        account = Account()
        plain = demonstrated_task(data, task)
        sampled = sampling_of(sampling, plain)
        prompts, contexts = _prompts(spec, plain, template, sampled, limits, account)
        number = steps_of(steps, num_train_epochs, prompt_steps(prompts, batch_size))
        options = prompts, None, sampled, batch_size, num_generations, seed
        return Work(
            steps=number,
            source=partial(_source, options, contexts),
            facts=[
                ("prompts", prompts_text(plain, prompts)),
                ("completions", sampling_text(sampled)),
                ("teacher", f"the model with a demonstration in its prompt, rate {teacher_rate:g}"),
                ("steps", f"{number} of {batch_size}"),
            ],
            account=account,
            samples=True,
        )

    return Plan(
        method="sdft",
        settings=settings,
        objective=objective,
        prepare=prepare,
        optimizer=AdamW(learning_rate, lr_scheduler_type),
        reference=reference,
    )


def _check(data: Any, task: Any, template: str, teacher_rate: float, num_generations: int) -> None:
    if (data is None) == (task is None):
        raise ConfigError(
            "sdft needs exactly one of data (rows) and task (whose worked examples are the "
            "demonstrations)"
        )
    for part in ("{prompt}", "{demonstration}"):
        if part not in template:
            raise ConfigError(
                f"template: it has no {part}; the teacher reads the prompt and a demonstration"
            )
    if not 0 <= teacher_rate <= 1:
        raise ConfigError(f"teacher_rate: {teacher_rate} is a share; it must be from 0 to 1")
    if num_generations < 1:
        raise ConfigError(f"num_generations: {num_generations} must be at least 1")


def _check_rate(spec: ModelSpec, teacher_rate: float) -> None:
    """Refuse to mix adapters, which are taken over whole."""
    if spec.has_adapters and 0 < teacher_rate < 1:
        raise ConfigError(
            f"teacher_rate: {teacher_rate:g} mixes weights, but adapters are taken over whole; "
            "set it to 0 (the model of the start) or 1 (the present one)"
        )


def demonstrated_task(data: Rows | None, task: TaskLike | None) -> Task:
    """Prompts with demonstrations, as a task.

    Raises:
        DataError: an example has no demonstration, or two have one id.
    """
    if task is not None:
        plain = task_of(task)
    else:
        assert data is not None
        rows = read_rows(data_of(data))
        form = detect_format(rows)
        items = [normalise(row, form, str(row.get("id", i))) for i, row in enumerate(rows)]
        examples = [_example(item) for item in items]
        plain = Task("data", examples, lambda text, example: 0.0, lambda text: None)
    missing = [e.id for e in plain.examples if not e.completion]
    if missing:
        raise DataError(
            f"sdft: {len(missing)} examples of {plain.name} have no completion to show to the "
            f"teacher (first: {missing[0]}); leave them out, or take method distill"
        )
    ids = [e.id for e in plain.examples]
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise DataError(f"sdft: two examples of {plain.name} have the id {twice!r}; rename one")
    return plain


def _example(item: Item) -> Example:
    """A row's prompt and its demonstration; of a conversation the last turn."""
    prompt, completion = item.prompt, item.completion
    if prompt is None and isinstance(completion, list) and completion[-1]["role"] == "assistant":
        prompt, completion = completion[:-1], completion[-1:]
    if not prompt:
        raise DataError(
            f"row {item.row} has no prompt, so there is nothing to complete; sdft needs rows of "
            "prompt and completion, or conversations that end with the assistant"
        )
    return Example(prompt, completion=completion, id=item.row)


def demonstrated(prompt: Text, completion: Text, template: str) -> Text:
    """The teacher's prompt.

    >>> demonstrated("2+2=", "4", "{prompt} as in {demonstration}: ")
    '2+2= as in 4: '
    """
    shown = completion if isinstance(completion, str) else str(completion[-1]["content"])
    if isinstance(prompt, str):
        return _filled(template, prompt, shown)
    places = [i for i, message in enumerate(prompt) if message["role"] == "user"]
    if not places:
        raise DataError("sdft: a conversation has no user turn to put the demonstration into")
    turns = list(prompt)
    asked = turns[places[-1]]
    turns[places[-1]] = {**asked, "content": _filled(template, str(asked["content"]), shown)}
    return turns


def _filled(template: str, prompt: str, shown: str) -> str:
    # Not str.format: prompts hold braces.
    before, _, after = template.partition("{prompt}")
    before, after = (part.replace("{demonstration}", shown) for part in (before, after))
    return before + prompt + after


def _prompts(
    spec: ModelSpec,
    task: Task,
    template: str,
    sampled: Sampling,
    limits: Limits,
    account: Account,
) -> tuple[list[Prompt], dict[str, Sequence[int]]]:
    """The prompts that fit with and without a demonstration, and the teacher's, by id."""
    shown = [
        replace(e, prompt=demonstrated(e.prompt, e.completion, template))
        for e in task.examples
        if e.completion
    ]
    options: dict[str, Any] = {"limits": limits, "account": account}
    with_demonstration = encode_prompts(
        spec,
        replace(task, examples=shown),
        sampled,
        what="prompts with demonstrations",
        **options,
    )
    contexts: dict[str, Sequence[int]] = {p.example.id: p.ids for p in with_demonstration}
    prompts = encode_prompts(spec, task, sampled, **options)
    return [p for p in prompts if p.example.id in contexts], contexts


def _source(
    options: tuple[Any, ...], contexts: Mapping[str, Sequence[int]], learner: Learner
) -> DistillSource:
    """options: of the collector; the last of them is the run's seed."""
    return DistillSource(
        data=None,
        student=make_collector(learner.model, *options, world=learner.world),
        teacher=None,
        lmbda=1.0,
        seq_kd=False,
        seed=options[-1],
        contexts=contexts,
    )
