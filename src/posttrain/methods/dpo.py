"""Learning from pairs of a chosen and a rejected completion: DPO and its kin are losses of this
one method.
"""

from __future__ import annotations

from typing import Any, Literal

from posttrain.config import Component, DataConfig, EvaluationConfig
from posttrain.data.encode import encode_pairs
from posttrain.data.forest import Batch, Tree
from posttrain.data.preview import preview
from posttrain.data.stream import DataSource
from posttrain.errors import ConfigError
from posttrain.inputs import PAIRS
from posttrain.methods.comparing import (
    ReferencePlan,
    check_carried,
    comparison_facts,
    encode_data,
    held_out_hooks,
    within_perplexity,
)
from posttrain.methods.evaluating import evaluate_model, evaluation_hooks
from posttrain.methods.run import TrainingJob
from posttrain.registry import methods
from posttrain.training.objective import Objective


@methods.register
def dpo(
    run,
    *,
    data: DataConfig,
    eval_data: DataConfig | None = None,
    evaluation: EvaluationConfig | None = None,
    losses: list[Component] = ("dpo",),  # type: ignore[assignment]
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
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear",
) -> TrainingJob:
    """Preference optimisation on pairs (DPO, arXiv 2305.18290; others by `losses`, weighted mixes
    too).

    Each row has a prompt, a chosen and a rejected completion; the two share the prompt's
    computation. The reference is the model that the run starts from, frozen: with LoRA the model
    without its adapters, else a copy; losses without a reference need none. The loss is the mean
    over the pairs of a step. With eval_data, loss and reward accuracy are told before, every
    eval_every steps, and after.
      IPO: losses: [{name: ipo, beta: 0.1}]
      SimPO: losses: [simpo]
      CPO: losses: [cpo, chosen_nll]
      ORPO: losses: [orpo, chosen_nll]          RPO: losses: [dpo, {name: chosen_nll, weight: 1.0}]
      TDPO: losses: [tdpo]    AOT: losses: [aot]    ODPO: losses: [odpo], with a column margin
      f-DPO: losses: [{name: dpo, divergence: js}], also of hinge_dpo, ipo, dpo_norm, exo,
      robust_dpo and discopop
      TPO: losses: [tpo, gold_nll], with a column reference
      LD-DPO: tail_weight: 0.5
      WPO: on_policy_weight: true
      any of them with any loss of pairs
      Step-DPO: rows with initial_reason_steps, chosen, rejected (the next step), or with
      full_chosen, full_rejected
    cache_reference computes the reference's log-probs once and keeps them in POSTTRAIN_CACHE
    (~/.cache/posttrain), so that no copy is held. reference_every (0: never) mixes reference_mix of
    the policy into the reference each so many steps. perplexity_percentile (0: off, 95 is usual)
    leaves out pairs of which a completion is less likely under the reference than that share of
    perplexity_samples completions that it writes itself.
    """
    encoded = encode_data(run, data, encode_pairs)
    objective = Objective(
        losses,
        roles=encoded.roles,
        accuracy=True,
        tail_weight=tail_weight,
        on_policy_weight=on_policy_weight,
        carries=PAIRS,
    )
    plan = ReferencePlan(cache_reference, reference_every, reference_mix)
    plan.check(run, objective)
    check_carried(objective, encoded.sequences, encoded.roles)
    _check(objective, tail_weight, perplexity_percentile, perplexity_samples)
    others = encode_data(run, eval_data, encode_pairs, key="eval_data") if eval_data else None
    if others is not None:
        check_carried(objective, others.sequences, others.roles, where="eval_data")
    if others is not None and others.roles != encoded.roles:
        raise ConfigError(
            f"eval_data: its rows are of format {others.form.name}, those of data of "
            f"{encoded.form.name}"
        )

    def make(groups: Any) -> tuple[DataSource, int]:
        source = DataSource(
            groups, batch_size=batch_size, seed=run.recipe.seed, whole=objective.whole
        )
        return source, run.steps_for(source.steps_per_epoch)

    def execute() -> None:
        groups = encoded.groups
        if perplexity_percentile:
            groups = within_perplexity(run, groups, perplexity_percentile, perplexity_samples)
        source, steps = make(groups)
        plan.prepare(run, groups, others.groups if others else [])
        trees = [Tree.build(pair) for pair in others.groups] if others else []
        batch = (lambda: Batch(trees, whole=objective.whole)) if others else None

        def make_hooks(model: Any, _: Any) -> list[Any]:
            hooks = [*plan.hooks(model), *held_out_hooks(run, model, objective, batch, steps)]
            return [*hooks, *evaluation_hooks(run, model, evaluation, steps)]

        model = plan.train(run, lambda _: source, objective, steps=steps, make_hooks=make_hooks)
        evaluate_model(run, model, evaluation)

    facts = [
        *comparison_facts(
            run, encoded, objective, "triples" if len(encoded.roles) == 3 else "pairs"
        ),
        (
            "steps",
            f"{make(encoded.groups)[1]} of {batch_size} pairs"
            + (", if the perplexity filter leaves all" if perplexity_percentile else ""),
        ),
    ]
    return TrainingJob(
        facts, execute, lambda num: preview(encoded, run.tokenizer, run.console, num)
    )


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
