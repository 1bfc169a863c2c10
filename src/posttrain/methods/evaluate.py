"""Measure a model, alone or under a search strategy."""

from __future__ import annotations

import time
from typing import Any

from posttrain.config import ComponentLike, EndpointConfig, EvaluationConfig, Limits
from posttrain.data.account import Account
from posttrain.errors import ConfigError
from posttrain.evaluation.outcomes import Evaluation
from posttrain.methods.endpoint import EndpointModel, Spec
from posttrain.methods.measurement import Measuring, check_critic
from posttrain.methods.objects import ModelLike
from posttrain.models.spec import ModelSpec
from posttrain.registry import methods
from posttrain.training.plan import Job, Place, PreparedJob

JOURNAL = "journal.jsonl"
"""The calls of a search, in the folder of its evaluation."""


@methods.register
def evaluate(
    evaluation: EvaluationConfig,
    *,
    search: ComponentLike | None = None,
    scorer: ComponentLike | None = None,
    oracle: bool = False,
    amateur: ModelLike | None = None,
    endpoint: EndpointConfig | None = None,
    limits: Limits = Limits(),
) -> Job:
    """Sample completions of a task's problems and report accuracy, pass@k and maj@k with intervals.

    With `search` (such as {name: majority_vote, num_samples: 8}) the strategy's choice is measured,
    and all tokens that it samples are counted. A strategy that asks for a score needs a `scorer` by
    name: a reward that a deployed system can compute (such as {name: reward_model, path: FOLDER}),
    or `scorer: oracle`, the task's own verdict. An oracle shows what a perfect scorer would give.
    No deployed system can reach it, and it is reported as an oracle everywhere. A reward that reads
    the gold (answer, examples, task, a column of the data) is an oracle too, and is refused without
    `oracle: true`. The calls of a search are written to journal.jsonl: a run that was interrupted
    goes on where it stopped.

    Args:
        evaluation: the task, the number of problems and samples, and how they are sampled.
        search: the strategy that chooses among samples; None measures samples alone.
        scorer: what the strategy chooses by, where it asks for a score.
        oracle: allow a scorer that reads the gold.
        amateur: a weaker model with the same vocabulary, for contrastive_decoding.
        endpoint: a model behind an OpenAI-compatible server that is measured in the model's place.
        limits: how much may fail or be dropped.
    """
    settings = dict(locals())

    def prepare(spec: ModelSpec | None, seed: int) -> PreparedJob:
        measured: Spec = needed(spec) if endpoint is None else EndpointModel(endpoint)
        account = Account()
        measuring = Measuring(
            measured,
            evaluation,
            limits=limits,
            account=account,
            search=search,
            scorer=scorer,
            oracle=oracle,
            amateur=amateur,
        )
        strategy = measuring.strategy
        if strategy is not None:
            check_critic(measured, strategy)

        def run(place: Place) -> Evaluation:
            model: Any = measured.load()
            if strategy is not None and "value" in strategy.inputs:
                model.critic = measured.load_critic()
            place.open()
            started = time.perf_counter()
            measuring.console = place.console
            journal = measuring.journal(place.path / JOURNAL)
            try:
                result = measuring.of(model, journal)
            finally:
                if journal is not None:
                    journal.close()
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
