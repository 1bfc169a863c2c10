"""Learning from pairs of a chosen and a rejected completion: DPO and its kin are losses of this one
method.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from posttrain.config import Component
from posttrain.data.account import Account
from posttrain.data.comparisons import encode_pairs
from posttrain.data.encoded import Encoded
from posttrain.data.forest import Batch, Tree
from posttrain.data.preview import preview
from posttrain.data.training_data import steps_text
from posttrain.errors import ConfigError
from posttrain.inputs import TRIPLES
from posttrain.methods.comparisons import (
    Groups,
    check_carried,
    comparison_facts,
    encode_data,
    held_out_measure,
    within_perplexity,
)
from posttrain.methods.objects import Losses, Rows, components_of, data_of
from posttrain.models.spec import ModelSpec
from posttrain.registry import methods
from posttrain.sources.rows import DataSource
from posttrain.training.objective import Objective
from posttrain.training.optim import Schedule
from posttrain.training.plan import AdamW, Measure, Plan, Work, steps_of
from posttrain.training.reference_model import Reference

ROLES = ("chosen", "rejected")


@methods.register(trains="language")
def dpo(
    data: Rows,
    *,
    eval_data: Rows | None = None,
    losses: Losses = ("dpo",),
    cache_reference: bool = False,
    reference_every: int = 0,
    reference_mix: float = 0.6,
    tail_weight: float = 1.0,
    on_policy_weight: bool = False,
    perplexity_percentile: float = 0.0,
    perplexity_samples: int = 256,
    learning_rate: float = 1e-6,
    batch_size: int = 16,
    num_train_epochs: float = 1.0,
    lr_scheduler_type: Schedule = "linear",
) -> Plan:
    """Preference optimisation on pairs (DPO, arXiv 2305.18290); other methods are other losses.

    Each row has a prompt, a chosen and a rejected completion. The two share the prompt's
    computation. The reference is the model that the run starts from, frozen: with LoRA the model
    without its adapters, else a copy. Losses without a reference need none. The loss is the mean
    over the pairs of a step.
      IPO:      losses: [{name: ipo, beta: 0.1}]
      SimPO:    losses: [simpo]
      CPO:      losses: [cpo, chosen_nll]
      ORPO:     losses: [orpo, chosen_nll]
      RPO:      losses: [dpo, {name: chosen_nll, weight: 1.0}]
      TDPO:     losses: [tdpo]
      AOT:      losses: [aot]
      ODPO:     losses: [odpo], with a column margin
      f-DPO:    losses: [{name: dpo, divergence: js}], also of hinge_dpo, ipo, dpo_norm, exo,
                robust_dpo and discopop
      TPO:      losses: [tpo, gold_nll], with a column reference
      LD-DPO:   tail_weight: 0.5, with any loss of pairs
      WPO:      on_policy_weight: true, with any loss of pairs
      Step-DPO: rows with initial_reason_steps, chosen, rejected (the next step), or with
                full_chosen, full_rejected

    Args:
        data: rows of prompt, chosen and rejected.
        eval_data: held-out pairs; loss and reward accuracy are reported before, during and after
            training.
        losses: losses of pairs, with weights.
        cache_reference: compute the reference's log-probs once and keep them in POSTTRAIN_CACHE
            (~/.cache/posttrain), so that no copy of the model is held.
        reference_every: steps after which the reference moves to reference_mix * policy +
            (1 - reference_mix) * reference; 0 = never.
        reference_mix: share of the policy in that.
        tail_weight: of the tokens by which a completion is longer than the other, from 0 to 1.
        on_policy_weight: multiply each pair's loss by how likely the policy is to write it.
        perplexity_percentile: leave out pairs of which a completion is less likely under the
            reference than this share of its own samples, in per cent (0 = off, 95 is usual).
        perplexity_samples: number of samples for that.
        learning_rate: peak learning rate of the run.
        batch_size: pairs per step.
        num_train_epochs: passes over the data, where the number of steps is not set.
        lr_scheduler_type: how the learning rate changes.
    """
    settings = dict(locals())
    items = components_of(losses)
    plan_objective = _objective(items, ROLES, tail_weight, on_policy_weight)
    reference = Reference(cached=cache_reference, every=reference_every, mix=reference_mix)
    reference.check(plan_objective)
    _check(plan_objective, tail_weight, perplexity_percentile, perplexity_samples)

    def prepare(spec: ModelSpec, seed: int, steps: int | None) -> Work:
        reference.check_model(spec)
        account = Account()
        pairs = encode_data(spec, data_of(data), encode_pairs, account=account)
        # Rows with a third text are triples, whatever the losses read of them.
        objective = _objective(items, pairs.roles, tail_weight, on_policy_weight)
        check_carried(objective, pairs.sequences, pairs.roles)
        held_out = _held_out(spec, eval_data, objective, pairs, account)
        comparisons = _Comparisons(spec, pairs, held_out, objective, account)

        def work_of(groups: Groups) -> Work:
            source = DataSource(groups, batch_size=batch_size, seed=seed, whole=objective.whole)
            number = steps_of(steps, num_train_epochs, source.steps_per_epoch)
            text = steps_text(number, batch_size, len(groups), "pairs")
            if perplexity_percentile:
                text += ", if the perplexity filter leaves all"
            return comparisons.work(groups, source, number, text)

        def filtered(model: Any, max_tokens: int, console: Console) -> Work:
            limits = perplexity_percentile, perplexity_samples, seed, max_tokens
            groups, dropped = within_perplexity(model, pairs.groups, *limits, console)
            account.metrics["data/perplexity_dropped"] = float(dropped)
            return work_of(groups)

        work = work_of(pairs.groups)
        return replace(work, filtered=filtered) if perplexity_percentile else work

    return Plan(
        method="dpo",
        settings=settings,
        objective=plan_objective,
        prepare=prepare,
        optimizer=AdamW(learning_rate, lr_scheduler_type),
        reference=reference,
    )


def _objective(
    losses: list[Component], roles: tuple[str, ...], tail_weight: float, on_policy_weight: bool
) -> Objective:
    return Objective(
        losses,
        roles=roles,
        accuracy=True,
        tail_weight=tail_weight,
        on_policy_weight=on_policy_weight,
        carries=TRIPLES,
    )


@dataclass(frozen=True, slots=True)
class _Comparisons:
    """Pairs and held-out pairs, encoded for one model, and the objective that reads them."""

    spec: ModelSpec
    pairs: Encoded
    held_out: Encoded | None
    objective: Objective
    account: Account

    def work(self, groups: Groups, source: DataSource, steps: int, steps_text: str) -> Work:
        """The training on groups, which may be less than all pairs."""
        what = "triples" if len(self.pairs.roles) == 3 else "pairs"
        facts = comparison_facts(self.spec, self.pairs, self.objective, what)
        return Work(
            steps=steps,
            source=lambda learner: source,
            objective=self.objective,
            facts=[*facts, ("steps", steps_text)],
            account=self.account,
            preview=self._preview,
            measure=_measure(self.objective, self.held_out),
            compared=[*groups, *(self.held_out.groups if self.held_out else [])],
        )

    def _preview(self, console: Console, num: int) -> None:
        preview(self.pairs, self.spec.tokenizer, console, num)


def _held_out(
    spec: ModelSpec,
    eval_data: Rows | None,
    objective: Objective,
    pairs: Encoded,
    account: Account,
) -> Encoded | None:
    """The held-out pairs, which must be of the format of those that are trained on."""
    if eval_data is None:
        return None
    held_out = encode_data(spec, data_of(eval_data), encode_pairs, account=account, key="eval_data")
    check_carried(objective, held_out.sequences, held_out.roles, where="eval_data")
    if held_out.roles != pairs.roles:
        raise ConfigError(
            f"eval_data: its rows are of format {held_out.form.name}, those of data of "
            f"{pairs.form.name}"
        )
    return held_out


def _measure(objective: Objective, held_out: Encoded | None) -> Measure | None:
    if held_out is None:
        return None

    def batch(source: Any) -> Batch:
        # Cached log-probs of the reference are among the streams only once the training starts.
        trees = [Tree.build(pair) for pair in held_out.groups]
        return Batch(trees, whole=objective.whole)

    return held_out_measure(objective, batch)


def _check(objective: Objective, tail_weight: float, percentile: float, num_samples: int) -> None:
    if not 0 <= tail_weight <= 1:
        raise ConfigError(
            f"tail_weight: {tail_weight} must be from 0 (ignore what is longer) to 1 (off)"
        )
    if not 0 <= percentile < 100 or num_samples < 1:
        raise ConfigError(
            f"perplexity_percentile: {percentile} must be from 0 (off) to below 100, with at "
            "least one sample"
        )
    lone = [t.name for t in objective.terms if t.per != "pair"]
    if objective.on_policy_weight and lone:
        raise ConfigError(
            f"on_policy_weight: {lone[0]!r} has no value of its own for each pair, which could be "
            "weighted"
        )
