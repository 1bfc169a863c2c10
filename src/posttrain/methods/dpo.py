"""Learning from pairs of a chosen and a rejected completion: DPO and its kin are losses of this one method."""

from __future__ import annotations

from typing import Any, Literal

from posttrain.config import Component, DataConfig
from posttrain.data.encode import Encoded, encode_pairs
from posttrain.data.forest import Batch, Tree
from posttrain.data.preview import preview
from posttrain.data.rows import load_rows
from posttrain.data.stream import DataSource
from posttrain.data.templates import template_fingerprint
from posttrain.errors import ConfigError
from posttrain.losses.inputs import ROLLOUT_INPUTS
from posttrain.methods.evaluating import evaluate_model
from posttrain.methods.prompting import context_length
from posttrain.methods.run import Run, TrainingJob
from posttrain.registry import methods
from posttrain.training.objective import Objective, held_out


@methods.register
def dpo(
    run,
    *,
    data: DataConfig,
    losses: list[Component] = ("dpo",),  # type: ignore[assignment]
    learning_rate: float = 1e-6,
    batch_size: int = 16,
    num_train_epochs: float = 1.0,
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear",
) -> TrainingJob:
    """Preference optimisation on pairs (DPO, arXiv 2305.18290; others by `losses`, weighted mixes too).

    Each row has a prompt, a chosen and a rejected completion; the two share the prompt's computation. The reference is the
    model that the run starts from, frozen: with LoRA the model without its adapters, else a copy; losses without a reference
    need none. The loss is the mean over the pairs of a step. With eval_data, loss and reward accuracy are told before,
    every eval_every steps, and after.
      IPO: losses: [{name: ipo, beta: 0.1}]     SimPO: losses: [simpo]     CPO: losses: [cpo, chosen_nll]
      ORPO: losses: [orpo, chosen_nll]          RPO: losses: [dpo, {name: chosen_nll, weight: 1.0}]
    """
    context = context_length(run)
    encoded = _encode(run, data, context)
    objective = Objective(losses, roles=("chosen", "rejected"), accuracy=True, lacks=ROLLOUT_INPUTS)
    source = DataSource(_pairs(encoded), batch_size=batch_size, seed=run.recipe.seed, whole=objective.whole)
    steps = run.steps_for(source.steps_per_epoch)
    others = _encode(run, run.recipe.eval_data, context) if run.recipe.eval_data else None

    def make_hooks(model: Any, _: Any) -> list[Any]:
        if others is None:
            return []
        every = run.recipe.eval_every
        batch = Batch([Tree.build(pair) for pair in _pairs(others)], whole=objective.whole)

        def evaluate(step: int, metrics: dict[str, float]) -> None:
            if step == steps or (every and step % every == 0):
                metrics.update(held_out(model, objective, batch, run.micro_batch_tokens(model)))

        run.first_metrics.update(held_out(model, objective, batch, run.micro_batch_tokens(model)))
        return [evaluate]

    def execute() -> None:
        model = run.train(lambda _: source, objective, steps=steps, make_hooks=make_hooks)
        if run.recipe.evaluation is not None:
            evaluate_model(run, model)

    facts = _facts(run, encoded, objective, steps, batch_size)
    return TrainingJob(facts, execute, lambda num: preview(encoded, run.tokenizer, run.console, num))


def _encode(run: Run, data: DataConfig, context: int | None) -> Encoded:
    max_length = data.max_length or min(1024, context or 1024)
    if context is not None and max_length > context:
        raise ConfigError(f"data.max_length: {data.max_length} exceeds the model's context of {context}")
    if data.train_on != "auto":
        raise ConfigError(f"data.train_on: {data.train_on!r}; of a pair the completions are compared, so leave it out")
    rows = load_rows(run.resolve(data.path), subset=data.subset, split=data.split, limit=data.limit, columns=data.columns)
    return encode_pairs(rows, run.tokenizer, max_length=max_length, truncation=data.truncation, max_masked=data.max_masked)


def _pairs(encoded: Encoded) -> list[list[Any]]:
    return [encoded.sequences[i : i + 2] for i in range(0, len(encoded.sequences), 2)]


def _facts(run: Run, encoded: Encoded, objective: Objective, steps: int, batch_size: int) -> list[tuple[str, str]]:
    lengths = encoded.lengths
    shared = sum(len(s.ids) for pair in _pairs(encoded) for s in pair)
    distinct = sum(Tree.build(pair).num_tokens for pair in _pairs(encoded))
    return [
        ("format", f"{encoded.form.name} ({encoded.form.reason})"),
        ("pairs", f"{len(lengths) // 2} of {encoded.num_rows} rows; {encoded.truncated} cut, {encoded.dropped} dropped as too "
                  f"long, {len(encoded.masked)} with equal or empty completions"),
        ("tokens", f"{shared}, of which {distinct} distinct; longest completion with prompt {int(lengths.max())}"),
        ("losses", ", ".join(f"{t.name} x {t.weight:g}" for t in objective.terms)
                   + (" (with a frozen reference)" if objective.needs_reference else "")),
        ("template", template_fingerprint(run.tokenizer)),
        ("steps", f"{steps} of {batch_size} pairs"),
    ]  # fmt: skip
