"""Measure a model, alone or under a search strategy."""

from __future__ import annotations

import json
import time

from posttrain.config import Component, ComponentLike, EvaluationConfig, Limits
from posttrain.data.account import Account
from posttrain.errors import ConfigError
from posttrain.evaluation.run import Evaluation
from posttrain.evaluation.strategy import Strategy, make_strategy
from posttrain.files import write_text_whole
from posttrain.methods.measurement import Measurement
from posttrain.methods.objects import reward_limits, task_of
from posttrain.models.spec import ModelSpec
from posttrain.registry import methods
from posttrain.training.plan import Job, Place, PreparedJob


@methods.register
def evaluate(
    evaluation: EvaluationConfig,
    *,
    search: ComponentLike | None = None,
    scorer: ComponentLike | None = None,
    oracle: bool = False,
    limits: Limits = Limits(),
) -> Job:
    """Sample completions of a task's problems and report accuracy, pass@k and maj@k with intervals.

    With `search` (such as {name: majority_vote, num_samples: 8}) the strategy's choice is measured,
    and all tokens that it samples are counted. A strategy that asks for a score needs a `scorer` by
    name: a reward that a deployed system can compute (such as {name: reward_model, path: FOLDER}),
    or `scorer: oracle`, the task's own verdict. An oracle shows what a perfect scorer would give.
    No deployed system can reach it, and it is reported as an oracle everywhere. A reward that reads
    the gold (answer, examples, task, a column of the data) is an oracle too, and is refused without
    `oracle: true`.

    Args:
        evaluation: the task, the number of problems and samples, and how they are sampled.
        search: the strategy that chooses among samples; None measures samples alone.
        scorer: what the strategy chooses by, where it asks for a score.
        oracle: allow a scorer that reads the gold.
        limits: how much may fail or be dropped.
    """
    settings = dict(locals())
    strategy = make_strategy(
        None if search is None else Component.of(search),
        None if scorer is None else Component.of(scorer),
        oracle=oracle,
        task=task_of(evaluation.task) if search is not None else None,
        limits=reward_limits(limits),
    )
    if strategy is not None and evaluation.num_samples != 1:
        raise ConfigError(
            f"evaluation.num_samples: {evaluation.num_samples} is not read under a search, whose "
            "own setting says how many; leave it out"
        )

    def prepare(spec: ModelSpec | None, seed: int) -> PreparedJob:
        spec = needed(spec)
        account = Account()
        measurement = Measurement(
            spec, evaluation, limits=limits, account=account, strategy=strategy
        )
        if strategy is not None:
            _check_critic(spec, strategy)

        def run(place: Place) -> Evaluation:
            model = spec.load()
            if strategy is not None and "value" in strategy.inputs:
                model.critic = spec.load_critic()
            place.open()
            started = time.perf_counter()
            result = measurement.of(model)
            values = {**result.to_json(), "seconds": time.perf_counter() - started}
            write_text_whole(place.path / "evaluation.json", json.dumps(values))
            measurement.report(result, place.console)
            return result

        def close() -> None:
            if strategy is not None and strategy.scorer is not None:
                strategy.scorer.close()

        return PreparedJob(facts=measurement.facts, run=run, account=account, close=close)

    return Job(method="evaluate", settings=settings, prepare=prepare, leaves="evaluation.json")


def needed(spec: ModelSpec | None) -> ModelSpec:
    """The model of a job that cannot do without.

    Raises:
        ConfigError: there is none.
    """
    if spec is None:
        raise ConfigError("missing key 'model': a folder, a hub id, or 'embedded'")
    return spec


def _check_critic(spec: ModelSpec, strategy: Strategy) -> None:
    """Refuse a strategy that asks for values of a model without a critic.

    Raises:
        ConfigError: there is none, and no earlier stage trains one.
    """
    if "value" not in strategy.inputs or spec.has_critic:
        return
    ahead = getattr(spec, "critic_ahead", None) is not None
    where = (
        "the stage that trains it has no critic" if ahead else f"there is no {spec.place}/critic"
    )
    raise ConfigError(
        f"search {strategy.name!r} asks for values, and the model {spec.place} has no critic "
        f"({where}). Train one with method offline and losses that ask for values, such as "
        "oreo_policy and oreo_value"
    )
