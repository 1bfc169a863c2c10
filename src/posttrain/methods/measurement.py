"""Measuring a model on a task, by objects or by names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from posttrain.config import (
    AgentConfig,
    Component,
    ComponentLike,
    EndpointConfig,
    EvaluationConfig,
    Limits,
    SamplingConfig,
)
from posttrain.data.account import Account
from posttrain.engines.base import Engine
from posttrain.errors import ConfigError
from posttrain.evaluation.outcomes import Evaluation
from posttrain.evaluation.run import Acting, Measurement, prepare
from posttrain.methods.amateur import amateur_engine, amateur_of, identity
from posttrain.methods.endpoint import EndpointModel, Spec, engine_of, spec_of
from posttrain.methods.episodes import EnvironmentLike, Episodes
from posttrain.methods.objects import ModelLike, TaskLike, settings_of_task, task_of
from posttrain.methods.prompts import sampling_of
from posttrain.model_config import model_name
from posttrain.models.spec import ModelSpec
from posttrain.search.base import Selection
from posttrain.search.journal import Journal
from posttrain.search.run import SearchLimits
from posttrain.search.strategy import Strategy
from posttrain.tasks.answers import refuse_unscored
from posttrain.terminal import write, write_wrapped
from posttrain.training.plan import Facts
from posttrain.training.progress import ItemProgress
from posttrain.typecheck import check_in_python
from posttrain.types import Sampling, Task

EVALUATED = "evaluation prompts"
"""What the prompts of an evaluation are called where their losses are reported."""


SamplingLike = SamplingConfig | Sampling | Mapping[str, Any] | None
"""How completions are sampled; None is as the task says."""


class Measuring:
    """An evaluation that is prepared for a model, and how its outcome is printed.

    Args:
        spec: the model that is measured, before its weights are loaded; or a served one.
        search, scorer, oracle, budget: as `evaluate` takes them.
        console: where progress is shown; None shows none.
        task_settings: by which the task was named, for the record; None are those of the config.
        episodes: in what the model acts; None is the config's environment.
        amateur: the weaker model of a search that asks for one.
    """

    def __init__(
        self,
        spec: Spec,
        config: EvaluationConfig,
        *,
        limits: Limits,
        account: Account,
        search: ComponentLike | Strategy | None = None,
        scorer: ComponentLike | None = None,
        oracle: bool = False,
        console: Console | None = None,
        task_settings: Mapping[str, Any] | None = None,
        episodes: Episodes | None = None,
        budget: int | SearchLimits | None = None,
        amateur: ModelLike | None = None,
    ) -> None:
        task = (
            spec.chat_task(task_of(config.task))
            if isinstance(spec, EndpointModel)
            else task_of(config.task)
        )
        episodes = episodes or Episodes.of(config.environment, config.agent)
        acting: Acting | None = None
        if episodes is None:
            refuse_unscored(task, "an evaluation")
        elif isinstance(spec, EndpointModel):
            raise ConfigError(
                "environment: an evaluation by episodes samples from a model that is loaded, and "
                f"{spec.place} is a server; leave endpoint or environment out"
            )
        else:
            episodes.check(spec, task)
            acting = Acting(episodes.text(), partial(episodes.sampler, task=task, limits=limits))
        sampling = sampling_of(config.sampling, task)
        self.console = console
        self.measurement: Measurement = prepare(
            task,
            spec.tokenizer,
            spec.context_length(),
            search=search,
            scorer=scorer,
            oracle=oracle,
            num_examples=config.num_examples,
            num_samples=config.num_samples,
            sampling=sampling,
            seed=config.seed,
            max_prompts_dropped=limits.max_prompts_dropped,
            max_failed_rewards=limits.max_failed_rewards,
            reward_timeout_seconds=limits.reward_timeout_seconds,
            task_settings=(
                settings_of_task(config.task) if task_settings is None else task_settings
            ),
            acting=acting,
            budget=config.budget if budget is None else budget,
        )
        self._spec = spec
        self._amateur = amateur_of(spec, self.strategy, amateur)
        self._amateur_engine: Engine | None = None
        _note_dropped(self.measurement, account, spec)

    @property
    def facts(self) -> Facts:
        """What a check shows."""
        return self.measurement.facts

    @property
    def strategy(self) -> Strategy | None:
        """The search whose choices are measured."""
        return self.measurement.strategy

    def of(
        self,
        model: Any,
        journal: Journal | None = None,
        on_selection: Callable[[int, Selection], None] | None = None,
    ) -> Evaluation:
        """Outcomes of a model, alone or under the search.

        Args:
            model: with its weights, or a served one.
            journal: answers of an earlier run that was interrupted, for a search.
            on_selection: called with a problem's place and what a search chose.
        """
        if self._amateur_engine is None:
            self._amateur_engine = amateur_engine(self._amateur)
        options: dict[str, Any] = {
            "journal": journal,
            "engine": engine_of(model),
            "amateur": self._amateur_engine,
            "on_selection": on_selection,
        }
        if self.console is None:
            return self.measurement.of(model, **options)
        number = len(self.measurement.problems.fitting)
        with ItemProgress(
            number, title=self.measurement.task.name, console=self.console
        ) as progress:
            return self.measurement.of(
                model, progress=lambda done, total: progress(done), **options
            )

    def journal(self, path: Path) -> Journal | None:
        """The file of a search's calls, continued where it is there; None without a search."""
        measurement, chosen = self.measurement, self.strategy
        if chosen is None:
            return None
        header = journal_header(
            self._spec,
            measurement.task,
            chosen,
            measurement.sampling,
            measurement.limits,
            measurement.seed,
            self._amateur,
        )
        return Journal(path, header)

    def report(self, result: Evaluation, console: Console) -> None:
        """Print the accuracy with its interval, and what belongs to it."""
        write_wrapped(console, result.headline())
        for line in result.details():
            write_wrapped(console, f"  {line}", style="dim")
        if warning := result.warning():
            write(console, warning, style="yellow")

    def close(self) -> None:
        """Release what a scorer holds."""
        self.measurement.close()


def journal_header(
    spec: Spec,
    task: Task,
    strategy: Strategy,
    sampling: Sampling,
    limits: SearchLimits | None,
    seed: int,
    amateur: ModelSpec | None,
) -> dict[str, Any]:
    """What a journal belongs to. A budget cuts samples off, so that it is a part of it."""
    return {
        "model": identity(spec),
        "task": task.name,
        "search": strategy.name,
        "settings": strategy.settings,
        "sampling": sampling,
        "budget": limits,
        "seed": seed,
        "amateur": identity(amateur),
    }


def _note_dropped(measurement: Measurement, account: Account, spec: Spec) -> None:
    dropped, fitting = measurement.problems.dropped, measurement.problems.fitting
    if not dropped:
        return
    longest, ids = max(dropped, key=lambda problem: len(problem[1]))
    account.losses[f"{EVALUATED} lost"] = (
        f"{len(dropped):,} of {len(dropped) + len(fitting):,} dropped: with "
        f"{measurement.sampling.max_tokens} new tokens they exceed the model's context of "
        f"{spec.context_length()} (the longest, {longest.id}, has {len(ids):,} tokens)"
    )
    name = EVALUATED.replace(" ", "_")
    account.metrics[f"data/{name}_dropped"] = float(len(dropped))


def evaluate(
    model: ModelLike | EndpointConfig,
    task: TaskLike,
    *,
    search: ComponentLike | Strategy | None = None,
    scorer: ComponentLike | None = None,
    oracle: bool = False,
    budget: int | SearchLimits | None = None,
    amateur: ModelLike | None = None,
    environment: EnvironmentLike | None = None,
    agent: AgentConfig = AgentConfig(),
    num_examples: int = 200,
    num_samples: int = 1,
    sampling: SamplingLike = None,
    seed: int = 1234,
    limits: Limits = Limits(),
    console: Console | None = None,
) -> Evaluation:
    """Measure a model on a task.

        print(pt.evaluate(model, task, num_samples=4))
        print(pt.evaluate(model, task, search=pt.majority_vote(num_samples=8)))

    Args:
        model: a loaded model, a folder, a hub id, "embedded", or a server: pt.Endpoint(url, name).
        task: a task, rows with answers, or the name of a task.
        search: a strategy whose choices are measured; None measures samples alone.
        scorer: what the search chooses by, where it asks for a score: a reward, or "oracle", the
            task's own verdict, which no deployed system has.
        oracle: permits a scorer that reads the gold, and reports it.
        budget: most tokens that the search about one problem samples, the discarded ones included;
            or its limits.
        amateur: a weaker model with the same vocabulary, for contrastive_decoding.
        environment: what the model acts in, as for `pt.grpo`: it is then measured by episodes.
            Where the task cannot grade, an episode is right if the environment's reward is at
            least 1.
        agent: how the model acts there.
        num_examples: the first so many problems are asked.
        num_samples: completions (or episodes) of each problem; not read under a search.
        sampling: of the completions, as pt.Sampling or {"max_tokens": 8}; None is temperature 1
            with the task's length.
        seed: of the samples. It is the same for every model, so that models are asked with the
            same random numbers.
        limits: how much may fail or be dropped.
        console: where progress is shown; None shows none.

    Returns:
        accuracy with its interval, pass@k, maj@k, tokens per problem, and each problem's outcome.

    Raises:
        ConfigError, DataError: what cannot be measured, before any weights are loaded.
    """
    spec = spec_of(model)
    measuring = measuring_of(
        spec,
        task,
        search=search,
        scorer=scorer,
        oracle=oracle,
        budget=check_in_python(budget, int | SearchLimits | None, "evaluate: budget"),
        amateur=amateur,
        num_examples=num_examples,
        num_samples=num_samples,
        sampling=sampling,
        seed=seed,
        limits=limits,
        console=console,
        episodes=Episodes.of(environment, agent),
    )
    try:
        loaded = spec.load()
        if measuring.strategy is not None and "value" in measuring.strategy.inputs:
            check_critic(spec, measuring.strategy)
            loaded.critic = spec.load_critic()
        return measuring.of(loaded)
    finally:
        measuring.close()


def measuring_of(
    spec: Spec,
    task: TaskLike,
    *,
    num_examples: int = 200,
    num_samples: int = 1,
    sampling: SamplingLike = None,
    seed: int = 1234,
    limits: Limits = Limits(),
    **options: Any,
) -> Measuring:
    """An evaluation, prepared for a model. options: as `Measuring` takes them.

    Raises:
        ConfigError, DataError: what cannot be measured.
    """
    if not isinstance(sampling, Sampling):
        sampling = check_in_python(sampling or {}, SamplingConfig, "evaluate: sampling")
    problems = task_of(task)
    config = EvaluationConfig(
        Component(problems.name, function=lambda: problems),
        num_examples=check_in_python(num_examples, int, "evaluate: num_examples"),
        num_samples=check_in_python(num_samples, int, "evaluate: num_samples"),
        sampling=cast(SamplingConfig, sampling),
        seed=check_in_python(seed, int, "evaluate: seed"),
    )
    return Measuring(
        spec,
        config,
        limits=limits,
        account=Account(),
        task_settings=settings_of_task(task),
        **options,
    )


def check_critic(spec: Spec, strategy: Strategy) -> None:
    """Refuse a strategy that asks for values of a model without a critic.

    Raises:
        ConfigError: there is none, and no earlier stage trains one.
    """
    if "value" not in strategy.inputs or spec.has_critic:
        return
    ahead = getattr(spec, "critic_ahead", None) is not None
    place = model_name(str(spec.place))
    where = "the stage that trains it has no critic" if ahead else f"there is no {place}/critic"
    raise ConfigError(
        f"search {strategy.name!r} asks for values, and the model {place} has no critic "
        f"({where}). Train one with method offline and losses that ask for values, such as "
        "oreo_policy and oreo_value"
    )
