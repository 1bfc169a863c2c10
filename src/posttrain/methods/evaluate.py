"""Measure a model, alone or under a search strategy."""

from __future__ import annotations

from pathlib import Path

from posttrain.config import Component, EvaluationConfig
from posttrain.errors import ConfigError
from posttrain.evaluation.strategy import Strategy, make_strategy
from posttrain.methods.evaluating import Measurement, evaluate_model
from posttrain.methods.prompting import reward_limits
from posttrain.methods.run import Job, Run
from posttrain.registry import methods


@methods.register
def evaluate(
    run,
    *,
    evaluation: EvaluationConfig,
    search: Component | None = None,
    scorer: Component | None = None,
    oracle: bool = False,
) -> Job:
    """Sample completions of a task's problems and report accuracy, pass@k and maj@k with intervals.

    With `search` (such as {name: majority_vote, num_samples: 8}) the strategy's choice is measured,
    and all tokens it samples are counted. A strategy that asks for a score needs a `scorer` by
    name: a reward that a deployed system can compute (such as {name: reward_model, path: FOLDER}),
    or `scorer: oracle`, the task's own verdict. An oracle shows what a perfect scorer would give;
    no deployed system can reach it, and it is reported as an oracle everywhere. A reward that reads
    the gold (answer, examples, task, a column of the data) is an oracle too, and is refused without
    `oracle: true`.
    """
    measurement = Measurement(run, evaluation)
    strategy = make_strategy(
        search, scorer, oracle=oracle, task=measurement.task, limits=reward_limits(run)
    )
    if strategy is not None and evaluation.num_samples != 1:
        raise ConfigError(
            f"evaluation.num_samples: {evaluation.num_samples} is not read under a search, whose "
            "own setting says how many; "
            "leave it out"
        )
    critic = None if strategy is None else _critic(run, strategy)
    number = evaluation.num_samples
    samples = "" if strategy is not None else f", {number} sample{'s' * (number > 1)} each"
    facts = [
        ("task", f"{measurement.task.name}: {measurement.problems}{samples}"),
        (
            "sampling",
            f"at most {measurement.sampling.max_tokens} tokens, temperature "
            f"{measurement.sampling.temperature:g}",
        ),
        ("search", str(strategy or "none")),
    ]
    if strategy is not None and strategy.oracle:
        facts.append(("oracle", strategy.warning().partition(": ")[2]))

    def execute() -> None:
        model = run.load_model()
        if critic is not None:
            model.critic = run.load_score_model(per="token", weights=critic)
        run.open()
        try:
            evaluate_model(run, model, evaluation, strategy)
        finally:
            if strategy is not None and strategy.scorer is not None:
                strategy.scorer.close()

    return Job(facts, execute)


def _critic(run: Run, strategy: Strategy) -> Path | None:
    """The folder of the model's critic, where the strategy asks for values.

    Raises:
        ConfigError: there is none, and no earlier stage trains one.
    """
    if "value" not in strategy.inputs:
        return None
    folder = Path(run.model_path) / "critic"
    there = (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file()
    if not (there if run.critic_ahead is None else run.critic_ahead):
        where = (
            f"there is no {folder}"
            if run.critic_ahead is None
            else "the stage that trains it has no critic"
        )
        raise ConfigError(
            f"search {strategy.name!r} asks for values, and the model {run.model_path} has no "
            f"critic ({where}). "
            "Train one with method offline and losses that ask for values, such as oreo_policy "
            "and oreo_value"
        )
    return folder
