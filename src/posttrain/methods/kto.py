"""Learning from single completions that are desirable or not: KTO and its kin are losses of
this one method.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from posttrain.config import Component, DataConfig, EvaluationConfig
from posttrain.data.encode import encode_labelled
from posttrain.data.encoded import Encoded
from posttrain.data.preview import preview
from posttrain.errors import ConfigError, DataError
from posttrain.inputs import LABELLED
from posttrain.methods.comparing import (
    ReferencePlan,
    comparison_facts,
    encode_data,
    held_out_hooks,
)
from posttrain.methods.evaluating import evaluate_model, evaluation_hooks
from posttrain.methods.run import Run, TrainingJob
from posttrain.registry import methods
from posttrain.terminal import write
from posttrain.training.objective import Objective
from posttrain.training.unpaired import UnpairedSource, mismatched


@methods.register
def kto(
    run,
    *,
    data: DataConfig,
    eval_data: DataConfig | None = None,
    evaluation: EvaluationConfig | None = None,
    losses: list[Component] = ("kto",),  # type: ignore[assignment]
    cache_reference: bool = False,
    reference_every: int = 0,
    reference_mix: float = 0.6,
    learning_rate: float = 1e-6,
    batch_size: int = 32,
    num_train_epochs: float = 1.0,
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear",
) -> TrainingJob:
    """Preference optimisation on single completions, each desirable or not (KTO, arXiv 2402.01306).

    Rows {prompt, completion, label}; pairs are taken apart. The reference is the model that the run
    starts from, frozen. Before each step the log-ratios of the rows' prompts with completions of
    other prompts (drawn once, by the seed) are measured without a gradient: their mean is KTO's
    estimate of the KL to the reference. Rows are packed and cut into micro-batches like any others.
      KTO: losses: [{name: kto, desirable_weight: 1.33}]
      APO-zero: losses: [apo_zero_unpaired]
      BCO: losses: [bco]
    KTO's authors want desirable_weight times the desirable rows to be 1 to 4/3 of the same of the
    others. With rows of one kind alone KTO still runs, with a warning; BCO, which separates the
    kinds, is refused. BCO's shift is a running mean, which checkpoints keep. cache_reference,
    reference_every, reference_mix: as in dpo.
    """
    encoded = encode_data(run, data, encode_labelled)
    objective = Objective(losses, accuracy=True, carries=LABELLED)
    plan = ReferencePlan(cache_reference, reference_every, reference_mix)
    plan.check(run, objective)
    warning = _check_labels(encoded, objective)
    others = encode_data(run, eval_data, encode_labelled, key="eval_data") if eval_data else None
    partners = _partners(run, encoded, objective) | (
        _partners(run, others, objective) if others else {}
    )

    def make_source(model: Any) -> UnpairedSource:
        return UnpairedSource(
            encoded.sequences,
            partners,
            model=model,
            wanted=objective.needs,
            batch_size=batch_size,
            seed=run.recipe.seed,
            max_tokens=run.micro_batch_tokens(model),
        )

    steps = run.steps_for(-(-len(encoded.sequences) // batch_size))

    def make_hooks(model: Any, source: Any) -> list[Any]:
        batch = (lambda: source.measured([[s] for s in others.sequences])) if others else None
        hooks = [*plan.hooks(model), *held_out_hooks(run, model, objective, batch, steps)]
        return [*hooks, *evaluation_hooks(run, model, evaluation, steps)]

    def execute() -> None:
        if warning:
            write(run.console, warning, style="yellow")
        rows = [*encoded.sequences, *(others.sequences if others else []), *partners.values()]
        plan.prepare(run, [[s] for s in rows])
        model = plan.train(run, make_source, objective, steps=steps, make_hooks=make_hooks)
        evaluate_model(run, model, evaluation)

    facts = [
        *comparison_facts(run, encoded, objective, "completions"),
        ("labels", warning or _balance(encoded, losses)),
        ("steps", f"{steps} of {batch_size} completions"),
    ]
    return TrainingJob(
        facts, execute, lambda num: preview(encoded, run.tokenizer, run.console, num)
    )


def _counts(encoded: Encoded) -> tuple[int, int]:
    labels = np.array([s.values["label"] for s in encoded.sequences])
    return int((labels > 0.5).sum()), int((labels <= 0.5).sum())


def _check_labels(encoded: Encoded, objective: Objective) -> str:
    """A warning where all rows are of one kind; DataError where a loss cannot do with that."""
    desirable, undesirable = _counts(encoded)
    if desirable and undesirable:
        return ""
    kind = "desirable" if desirable else "undesirable"
    if any("shift" in term.inputs for term in objective.terms):
        raise DataError(
            f"all {len(encoded.sequences)} rows are {kind}; the loss bco tells the two kinds "
            "apart and needs both"
        )
    return (
        f"all {len(encoded.sequences)} rows are {kind}: what is learnt has no counterweight but "
        "the reference"
    )


def _balance(encoded: Encoded, losses: list[Component]) -> str:
    desirable, undesirable = _counts(encoded)
    text = f"{desirable} desirable, {undesirable} undesirable"
    for loss in losses:
        if loss.name == "kto":
            weights = [
                loss.settings.get(f"{kind}_weight", 1.0) for kind in ("desirable", "undesirable")
            ]
            share = (
                desirable * weights[0] / (undesirable * weights[1]) if weights[1] else float("inf")
            )
            text += (
                f"; weighted {share:.2f} to 1 (1 to 1.33 is advised: desirable_weight, "
                "undesirable_weight)"
            )
    return text


def _partners(run: Run, encoded: Encoded, objective: Objective) -> dict[int, Any]:
    """Mismatched sequences, where a loss asks for what is measured on them."""
    if "kl" not in objective.needs:
        return {}
    if len(encoded.sequences) < 2:
        raise ConfigError(
            "kto needs at least two rows: the KL to the reference is measured on completions of "
            "other prompts"
        )
    return mismatched(
        encoded.sequences, seed=run.recipe.seed, max_length=int(encoded.lengths.max())
    )
