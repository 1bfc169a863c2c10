"""Learning from single completions that are desirable or not: KTO and its kin are losses of this
one method.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from posttrain.config import Component
from posttrain.data.account import Account
from posttrain.data.comparisons import encode_labelled
from posttrain.data.encoded import Encoded
from posttrain.data.preview import preview
from posttrain.data.training_data import steps_text
from posttrain.errors import ConfigError, DataError
from posttrain.inputs import LABELLED
from posttrain.methods.comparisons import (
    Groups,
    comparison_facts,
    encode_data,
    held_out_measure,
)
from posttrain.methods.objects import Losses, Rows, components_of, data_of
from posttrain.models.spec import ModelSpec
from posttrain.registry import methods
from posttrain.sources.unpaired import UnpairedSource, mismatched
from posttrain.training.objective import Objective
from posttrain.training.optim import Schedule
from posttrain.training.plan import AdamW, Facts, Learner, Measure, Plan, Work, steps_of
from posttrain.training.reference_model import Reference


@methods.register(trains="language")
def kto(
    data: Rows,
    *,
    eval_data: Rows | None = None,
    losses: Losses = ("kto",),
    cache_reference: bool = False,
    reference_every: int = 0,
    reference_mix: float = 0.6,
    learning_rate: float = 1e-6,
    batch_size: int = 32,
    num_train_epochs: float = 1.0,
    lr_scheduler_type: Schedule = "linear",
) -> Plan:
    """Preference optimisation on single completions, each desirable or not (KTO, arXiv 2402.01306).

    Rows have prompt, completion and label; pairs are taken apart. The reference is the model that
    the run starts from, frozen. Before each step the log-ratios of the rows' prompts with
    completions of other prompts (drawn once, by the seed) are measured without a gradient. Their
    mean is KTO's estimate of the KL to the reference.
      KTO:       losses: [{name: kto, desirable_weight: 1.33}]
      APO-zero:  losses: [apo_zero_unpaired]
      BCO:       losses: [bco]
    KTO's authors want desirable_weight times the number of desirable rows to be 1 to 4/3 of the
    same of the others. With rows of one kind alone KTO still runs, with a warning. BCO, which
    separates the kinds, is refused then. BCO's shift is a running mean, which checkpoints keep.

    Args:
        data: rows of prompt, completion and label.
        eval_data: held-out rows; loss and rewards are reported before, during and after training.
        losses: losses of single completions, with weights.
        cache_reference: compute the reference's log-probs once and keep them on disk.
        reference_every: steps after which the reference moves; 0 = never.
        reference_mix: share of the policy in the reference when it moves.
        learning_rate: peak learning rate of the run.
        batch_size: completions per step.
        num_train_epochs: passes over the data, where the number of steps is not set.
        lr_scheduler_type: how the learning rate changes.
    """
    settings = dict(locals())
    items = components_of(losses)
    objective = Objective(items, accuracy=True, carries=LABELLED)
    reference = Reference(cached=cache_reference, every=reference_every, mix=reference_mix)
    reference.check(objective)

    def prepare(spec: ModelSpec, seed: int, steps: int | None) -> Work:
        reference.check_model(spec)
        account = Account()
        encoded = encode_data(spec, data_of(data), encode_labelled, account=account)
        warning = _check_labels(encoded, objective)
        held_out = _held_out(spec, eval_data, account)
        partners = _partners(encoded, held_out, objective, seed)

        def source(learner: Learner) -> UnpairedSource:
            return UnpairedSource(
                encoded.sequences,
                partners,
                model=learner.model,
                wanted=objective.needs,
                batch_size=batch_size,
                seed=seed,
                max_tokens=learner.max_tokens,
                world=learner.world,
            )

        number = steps_of(steps, num_train_epochs, -(-len(encoded.sequences) // batch_size))
        return Work(
            steps=number,
            source=source,
            facts=_facts(spec, encoded, objective, items, warning, number, batch_size),
            notes=(warning,) if warning else (),
            account=account,
            preview=lambda console, num: preview(encoded, spec.tokenizer, console, num),
            measure=_measure(objective, held_out),
            compared=_compared(encoded, held_out, partners),
        )

    return Plan(
        method="kto",
        settings=settings,
        objective=objective,
        prepare=prepare,
        optimizer=AdamW(learning_rate, lr_scheduler_type),
        reference=reference,
    )


def _held_out(spec: ModelSpec, eval_data: Rows | None, account: Account) -> Encoded | None:
    if eval_data is None:
        return None
    return encode_data(spec, data_of(eval_data), encode_labelled, account=account, key="eval_data")


def _measure(objective: Objective, held_out: Encoded | None) -> Measure | None:
    if held_out is None:
        return None
    groups = [[s] for s in held_out.sequences]
    return held_out_measure(objective, lambda source: source.measured(groups))


def _compared(encoded: Encoded, held_out: Encoded | None, partners: dict[int, Any]) -> Groups:
    """Whatever the reference's log-probs are asked of."""
    held_out_sequences = held_out.sequences if held_out else ()
    return [[s] for s in [*encoded.sequences, *held_out_sequences, *partners.values()]]


def _facts(
    spec: ModelSpec,
    encoded: Encoded,
    objective: Objective,
    losses: list[Component],
    warning: str,
    steps: int,
    batch_size: int,
) -> Facts:
    return [
        *comparison_facts(spec, encoded, objective, "completions"),
        ("labels", warning or _balance(encoded, losses)),
        ("steps", steps_text(steps, batch_size, len(encoded.sequences), "completions")),
    ]


def _counts(encoded: Encoded) -> tuple[int, int]:
    labels = np.array([s.values["label"] for s in encoded.sequences])
    return int((labels > 0.5).sum()), int((labels <= 0.5).sum())


def _check_labels(encoded: Encoded, objective: Objective) -> str:
    """A warning where all rows are of one kind.

    Raises:
        DataError: a loss cannot do with one kind.
    """
    desirable, undesirable = _counts(encoded)
    if desirable and undesirable:
        return ""
    kind = "desirable" if desirable else "undesirable"
    if any("shift" in term.inputs for term in objective.terms):
        raise DataError(
            f"all {len(encoded.sequences)} rows are {kind}; the loss bco separates the two kinds "
            "and needs both"
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
            good = loss.settings.get("desirable_weight", 1.0)
            bad = loss.settings.get("undesirable_weight", 1.0)
            share = desirable * good / (undesirable * bad) if bad else float("inf")
            text += (
                f"; weighted {share:.2f} to 1 (1 to 1.33 is advised: desirable_weight, "
                "undesirable_weight)"
            )
    return text


def _partners(
    encoded: Encoded, held_out: Encoded | None, objective: Objective, seed: int
) -> dict[int, Any]:
    """Mismatched sequences, where a loss asks for what is measured on them."""
    if "kl" not in objective.needs:
        return {}
    if held_out is not None:
        own = _partners(encoded, None, objective, seed)
        return own | _partners(held_out, None, objective, seed)
    if len(encoded.sequences) < 2:
        raise ConfigError(
            "kto needs at least two rows: the KL to the reference is measured on completions of "
            "other prompts"
        )
    return mismatched(encoded.sequences, seed=seed, max_length=int(encoded.lengths.max()))
