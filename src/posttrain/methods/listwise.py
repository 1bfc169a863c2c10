"""Learning from several completions of a prompt, ranked or scored."""

from __future__ import annotations

from typing import Any, Literal

from posttrain.config import Component, DataConfig, EvaluationConfig
from posttrain.data.encode import encode_lists
from posttrain.data.preview import preview
from posttrain.data.stream import DataSource
from posttrain.inputs import LISTS
from posttrain.methods.comparing import (
    ReferencePlan,
    comparison_facts,
    encode_data,
    held_out_hooks,
)
from posttrain.methods.evaluating import evaluate_model, evaluation_hooks
from posttrain.methods.run import TrainingJob
from posttrain.registry import methods
from posttrain.training.objective import Objective


@methods.register
def listwise(
    run,
    *,
    data: DataConfig,
    eval_data: DataConfig | None = None,
    evaluation: EvaluationConfig | None = None,
    losses: list[Component] = ("plackett_luce_dpo",),  # type: ignore[assignment]
    cache_reference: bool = False,
    reference_every: int = 0,
    reference_mix: float = 0.6,
    learning_rate: float = 1e-6,
    batch_size: int = 8,
    num_train_epochs: float = 1.0,
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear",
) -> TrainingJob:
    """Preference optimisation on rankings: rows {prompt, completions, scores} or {prompt,
    completions, ranks} (1 is best).

    The completions of a prompt share its computation and stay together; lists may differ in length.
    The loss is the mean over the prompts of a step. Lists of fewer than two completions, or with
    equal scores, are left out and counted.
      Plackett-Luce: losses: [plackett_luce_dpo]
      LiPO: losses: [lipo]
      RRHF: losses: [rrhf]
      PRO: losses: [pro]
      mDPO, mIPO (groups of better and of worse samples, arXiv 2410.12138): losses: [mdpo], losses:
      [mipo]
    cache_reference, reference_every, reference_mix: as in dpo.
    """
    encoded = encode_data(run, data, encode_lists)
    objective = Objective(losses, groups=True, carries=LISTS)
    plan = ReferencePlan(cache_reference, reference_every, reference_mix)
    plan.check(run, objective)
    others = encode_data(run, eval_data, encode_lists, key="eval_data") if eval_data else None
    source = DataSource(
        encoded.groups, batch_size=batch_size, seed=run.recipe.seed, whole=objective.whole
    )
    steps = run.steps_for(source.steps_per_epoch)

    def make_hooks(model: Any, _: Any) -> list[Any]:
        batch = (lambda: source.batch(others.groups)) if others else None
        hooks = [*plan.hooks(model), *held_out_hooks(run, model, objective, batch, steps)]
        return [*hooks, *evaluation_hooks(run, model, evaluation, steps)]

    def execute() -> None:
        plan.prepare(run, encoded.groups, others.groups if others else [])
        model = plan.train(run, lambda _: source, objective, steps=steps, make_hooks=make_hooks)
        evaluate_model(run, model, evaluation)

    sizes = [len(group) for group in encoded.groups]
    facts = [
        *comparison_facts(run, encoded, objective, "lists"),
        ("steps", f"{steps} of {batch_size} lists of {min(sizes)} to {max(sizes)} completions"),
    ]
    return TrainingJob(
        facts, execute, lambda num: preview(encoded, run.tokenizer, run.console, num)
    )
