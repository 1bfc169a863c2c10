"""Distillation: a student learns from a teacher's distributions, on data, on its own or on the
teacher's completions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from posttrain import registry
from posttrain.config import Component, DataConfig, EvaluationConfig, ModelConfig, SamplingConfig
from posttrain.data.encoded import Encoded
from posttrain.data.forest import Batch, Tree
from posttrain.data.formats import detect_format, normalise
from posttrain.data.item import Item
from posttrain.data.preview import preview
from posttrain.data.stream import DataSource, Singles
from posttrain.errors import ConfigError, DataError
from posttrain.inputs import TEACHER
from posttrain.methods.evaluating import evaluate_model, evaluation_hooks, measuring_hook
from posttrain.methods.prompting import (
    context_length,
    differing_tokens,
    encode_prompts,
    make_collector,
    make_sampling,
    make_task,
)
from posttrain.methods.rows import read_rows
from posttrain.methods.run import Run, TrainingJob
from posttrain.methods.sft import encode_examples
from posttrain.models.foreign import ForeignTeacher
from posttrain.models.language_model import LanguageModel
from posttrain.models.load import load_config
from posttrain.registry import methods
from posttrain.rollouts.collect import Collector
from posttrain.rollouts.distill import DistillSource
from posttrain.training.hooks import Hook, RolloutWriter
from posttrain.training.objective import Objective, held_out
from posttrain.types import Example, Sampling, Task

_FOREIGN = frozenset({"foreign_distribution", "aligned"})
_TEACHER = frozenset({"teacher_distribution", "teacher_logprobs"})


@methods.register
def distill(
    run,
    *,
    teacher: ModelConfig,
    data: DataConfig | None = None,
    task: Component | None = None,
    eval_data: DataConfig | None = None,
    evaluation: EvaluationConfig | None = None,
    losses: list[Component] = ("jsd",),  # type: ignore[assignment]
    lmbda: float = 0.0,
    seq_kd: bool = False,
    sampling: SamplingConfig = {},  # type: ignore[assignment]
    num_generations: int = 1,
    learning_rate: float = 2e-5,
    batch_size: int = 16,
    num_train_epochs: float = 1.0,
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear",
) -> TrainingJob:
    """Distillation from a frozen teacher (Hinton et al., arXiv 1503.02531; on-policy: GKD, arXiv
    2306.13649).

    The share lmbda of the steps trains on completions that the student samples, the others on those
    of `data` or `task`, or with seq_kd on completions that the teacher samples; a step has
    batch_size rows, or num_generations completions of batch_size prompts. The loss is the mean over
    all trained tokens of a step. teacher_kl/forward and /reverse tell how far the student is from
    the teacher. With eval_data all of that is told before, every eval_every steps, and after.
      Word-level KD:   losses: [{name: teacher_kl, weight: 0.5}, {name: nll, weight: 0.5}]
      GKD:             losses: [{name: jsd, beta: 0.5}], lmbda: 0.5
      MiniLLM's way:   losses: [{name: sampled_reverse_kl, horizon: sequence}], lmbda: 1
      On-policy:       losses: [{name: teacher_kl, direction: reverse}], lmbda: 1
      A teacher with another tokenizer: losses: [nll, {name: uld, weight: 1.5}]
    """
    context = context_length(run)
    _check(losses, lmbda, seq_kd, sampling, num_generations)
    objective = Objective(losses, accuracy=lmbda == 0 and not seq_kd, carries=TEACHER)
    _check_teacher(run, teacher, objective)
    source = encoded = None
    if lmbda < 1 and not seq_kd:
        encoded = encode_examples(run, data, task, context)
        objective.check_weights(encoded.sequences)
        source = DataSource(
            Singles(encoded.sequences),
            batch_size=batch_size,
            seed=run.recipe.seed,
            whole=objective.whole,
        )
    prompts, sampled = [], Sampling()
    if lmbda > 0 or seq_kd:
        made = _prompt_task(run, data, task)
        sampled = make_sampling(sampling, made)
        prompts = encode_prompts(run, made, sampled)
    per_epoch = (
        source.steps_per_epoch if source else max(len(prompts) // min(batch_size, len(prompts)), 1)
    )
    steps = run.steps_for(per_epoch)
    others = encode_examples(run, eval_data, None, context, key="eval_data") if eval_data else None

    def load(weights: Path | None) -> LanguageModel:
        model = run.load_model(reference=objective.needs_reference, weights=weights)
        frozen = run.load_frozen(teacher)
        model.teacher = frozen
        model.foreign = ForeignTeacher(frozen, run.tokenizer)
        return model

    def make_source(model: Any) -> DistillSource:
        def collector(writer: LanguageModel) -> Collector:
            return make_collector(
                run,
                writer,
                prompts,
                None,
                sampled,
                batch_size=batch_size,
                num_generations=num_generations,
            )

        return DistillSource(
            data=source,
            student=collector(model) if lmbda > 0 else None,
            teacher=collector(model.teacher) if seq_kd and lmbda < 1 else None,
            lmbda=lmbda,
            seq_kd=seq_kd,
            seed=run.recipe.seed,
            whole=objective.whole,
        )

    def make_hooks(model: Any, made: Any) -> list[Any]:
        writer = RolloutWriter(
            run.folder / "rollouts.jsonl", lambda: made.groups, resume_step=run.resume_step
        )
        hooks: list[Hook] = [writer] if prompts else []
        if others:
            batch = Batch([Tree.build([s]) for s in others.sequences], whole=objective.whole)
            hooks.append(
                measuring_hook(
                    run,
                    steps,
                    lambda: held_out(model, objective, batch, run.micro_batch_tokens(model)),
                )
            )
        return [*hooks, *evaluation_hooks(run, model, evaluation, steps)]

    def execute() -> None:
        model = run.train(make_source, objective, steps=steps, load=load, make_hooks=make_hooks)
        evaluate_model(run, model, evaluation)

    facts = _facts(
        teacher, objective, encoded, len(prompts), sampled, steps, batch_size, lmbda, seq_kd
    )
    show = (lambda num: preview(encoded, run.tokenizer, run.console, num)) if encoded else None
    return TrainingJob(facts, execute, show)


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


def _check_teacher(run: Run, teacher: ModelConfig, objective: Objective) -> None:
    """The teacher exists and, unless the losses bridge vocabularies, has the student's."""
    if not objective.needs & (_TEACHER | _FOREIGN):
        names = ", ".join(sorted(n for n in registry.losses.names() if _asks(n)))
        raise ConfigError(
            f"losses: none of them asks for a teacher; take one of {names}, or use method sft"
        )
    where = run.place_of(teacher)
    shared: dict[str, Any] = {
        "revision": teacher.revision,
        "trust_remote_code": teacher.trust_remote_code,
    }
    config = load_config(where, **shared)
    if not objective.needs & _TEACHER:
        return
    differing = differing_tokens(run, teacher)
    own = load_config(
        run.model_path,
        revision=run.model_config.revision,
        trust_remote_code=run.model_config.trust_remote_code,
    )
    sizes = [c.get_text_config(decoder=True).vocab_size for c in (own, config)]
    if differing or max(sizes) - min(sizes) > 0.02 * min(sizes):
        what = (
            f"{len(differing)} tokens differ, {differing[0]!r} among them"
            if differing
            else f"{sizes[1]} against {sizes[0]} rows"
        )
        raise ConfigError(
            f"teacher: {teacher.path} has another vocabulary than {run.model_config.path} "
            f"({what}), so their distributions "
            "cannot be compared token by token. Use losses: [nll, {name: uld, weight: 1.5}], "
            "which bridges tokenizers, or let "
            "the teacher write the rows and fine-tune on them with method sft"
        )


def _asks(name: str) -> bool:
    return not (_TEACHER | _FOREIGN).isdisjoint(registry.losses.entry(name).inputs)


def _prompt_task(run: Run, data: DataConfig | None, task: Component | None) -> Task:
    """The prompts to complete, as a task: those of the recipe's task, or of its rows."""
    if (data is None) == (task is None):
        raise ConfigError(
            "distill needs exactly one of data (rows) and task (whose prompts are completed)"
        )
    if task is not None:
        return make_task(run, task)
    assert data is not None
    rows = read_rows(run, data)
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
    teacher: ModelConfig,
    objective: Objective,
    encoded: Encoded | None,
    num_prompts: int,
    sampling: Sampling,
    steps: int,
    batch_size: int,
    lmbda: float,
    seq_kd: bool,
) -> list[tuple[str, str]]:
    facts = [
        ("teacher", teacher.path),
        ("losses", ", ".join(f"{t.name} x {t.weight:g}" for t in objective.terms)),
    ]
    if encoded is not None:
        facts.append(
            (
                "rows",
                f"{len(encoded.sequences)} of {encoded.num_rows}, {encoded.num_trained} trained "
                "tokens",
            )
        )
    if num_prompts:
        facts.append(
            (
                "prompts",
                f"{num_prompts}; at most {sampling.max_tokens} tokens at temperature "
                f"{sampling.temperature:g}",
            )
        )
    rest = "the teacher" if seq_kd else "the data"
    facts.append(("written by", f"the student in {lmbda:.0%} of the steps, {rest} in the others"))
    return [*facts, ("steps", f"{steps} of {batch_size}")]
