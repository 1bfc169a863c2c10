"""Learning from several completions of a prompt, ranked or scored."""

from __future__ import annotations

from posttrain.data.account import Account
from posttrain.data.comparisons import encode_lists
from posttrain.data.preview import preview
from posttrain.data.training_data import steps_text
from posttrain.inputs import LISTS
from posttrain.methods.comparisons import (
    comparison_facts,
    encode_data,
    held_out_measure,
)
from posttrain.methods.objects import Losses, Rows, components_of, data_of
from posttrain.models.spec import ModelSpec
from posttrain.registry import methods
from posttrain.sources.rows import DataSource
from posttrain.training.objective import Objective
from posttrain.training.optim import Schedule
from posttrain.training.plan import AdamW, Plan, Work, steps_of
from posttrain.training.reference_model import Reference


@methods.register(trains="language")
def listwise(
    data: Rows,
    *,
    eval_data: Rows | None = None,
    losses: Losses = ("plackett_luce_dpo",),
    cache_reference: bool = False,
    reference_every: int = 0,
    reference_mix: float = 0.6,
    learning_rate: float = 1e-6,
    batch_size: int = 8,
    num_train_epochs: float = 1.0,
    lr_scheduler_type: Schedule = "linear",
) -> Plan:
    """Preference optimisation on rankings.

    Rows are {prompt, completions, scores} or {prompt, completions, ranks} (1 is best). The
    completions of a prompt share its computation and stay together; lists may differ in length.
    The loss is the mean over the prompts of a step. Lists of fewer than two completions, or with
    equal scores, are left out and counted.
      Plackett-Luce:  losses: [plackett_luce_dpo]
      LiPO:           losses: [lipo]
      RRHF:           losses: [rrhf]
      PRO:            losses: [pro]
      mDPO, mIPO:     losses: [mdpo], losses: [mipo] (groups of better and of worse samples, arXiv
                      2410.12138)

    Args:
        data: rows of prompt, completions, and scores or ranks.
        eval_data: held-out rows; the loss is reported before, during and after training.
        losses: losses of lists, with weights.
        cache_reference: compute the reference's log-probs once and keep them on disk.
        reference_every: steps after which the reference moves; 0 = never.
        reference_mix: share of the policy in the reference when it moves.
        learning_rate: peak learning rate of the run.
        batch_size: lists per step.
        num_train_epochs: passes over the data, where the number of steps is not set.
        lr_scheduler_type: how the learning rate changes.
    """
    settings = dict(locals())
    objective = Objective(components_of(losses), groups=True, carries=LISTS)
    reference = Reference(cached=cache_reference, every=reference_every, mix=reference_mix)
    reference.check(objective)

    def prepare(spec: ModelSpec, seed: int, steps: int | None) -> Work:
        reference.check_model(spec)
        account = Account()
        encoded = encode_data(spec, data_of(data), encode_lists, account=account)
        source = DataSource(encoded.groups, batch_size=batch_size, seed=seed, whole=objective.whole)
        number = steps_of(steps, num_train_epochs, source.steps_per_epoch)
        groups, measure = list(encoded.groups), None
        if eval_data is not None:
            held_out = encode_data(
                spec, data_of(eval_data), encode_lists, account=account, key="eval_data"
            )
            groups += held_out.groups
            measure = held_out_measure(objective, lambda source: source.batch(held_out.groups))
        sizes = [len(group) for group in encoded.groups]
        return Work(
            steps=number,
            source=lambda learner: source,
            facts=[
                *comparison_facts(spec, encoded, objective, "lists"),
                (
                    "steps",
                    steps_text(number, batch_size, len(sizes), "lists")
                    + f" of {min(sizes)} to {max(sizes)} completions",
                ),
            ],
            account=account,
            preview=lambda console, num: preview(encoded, spec.tokenizer, console, num),
            measure=measure,
            compared=groups,
        )

    return Plan(
        method="listwise",
        settings=settings,
        objective=objective,
        prepare=prepare,
        optimizer=AdamW(learning_rate, lr_scheduler_type),
        reference=reference,
    )
