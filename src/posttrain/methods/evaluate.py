"""Measure a model, alone or under a search strategy."""

from __future__ import annotations

import time

from posttrain.config import ComponentLike, EvaluationConfig, Limits
from posttrain.data.account import Account
from posttrain.errors import ConfigError
from posttrain.evaluation.outcomes import Evaluation
from posttrain.methods.measurement import Measuring, check_critic
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

    def prepare(spec: ModelSpec | None, seed: int) -> PreparedJob:
        spec = needed(spec)
        account = Account()
        measuring = Measuring(
            spec,
            evaluation,
            limits=limits,
            account=account,
            search=search,
            scorer=scorer,
            oracle=oracle,
        )
        strategy = measuring.strategy
        if strategy is not None:
            check_critic(spec, strategy)

        def run(place: Place) -> Evaluation:
            model = spec.load()
            if strategy is not None and "value" in strategy.inputs:
                model.critic = spec.load_critic()
            place.open()
            started = time.perf_counter()
            measuring.console = place.console
            result = measuring.of(model)
            seconds = time.perf_counter() - started
            result.save(place.path / "evaluation.json", seconds=seconds)
            measuring.report(result, place.console)
            return result

        return PreparedJob(facts=measuring.facts, run=run, account=account, close=measuring.close)

    return Job(method="evaluate", settings=settings, prepare=prepare, leaves="evaluation.json")


def needed(spec: ModelSpec | None) -> ModelSpec:
    """The model of a job that cannot do without.

    Raises:
        ConfigError: there is none.
    """
    if spec is None:
        raise ConfigError("missing key 'model': a folder, a hub id, or 'embedded'")
    return spec
