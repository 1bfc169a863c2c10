"""Measure a model on a task, alone or under a search: prepared without weights, then run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from posttrain.config import ComponentLike
from posttrain.data.templates import decode_completion
from posttrain.engines.base import Engine
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError
from posttrain.evaluation.episodes import measure_episodes
from posttrain.evaluation.outcomes import Evaluation, problems_text
from posttrain.evaluation.problems import Problems, encode_problems
from posttrain.evaluation.samples import Progress, measure_samples, measure_search
from posttrain.evaluation.strategy import make_strategy
from posttrain.models.language_model import LanguageModel
from posttrain.rewards.grader import Grader
from posttrain.search.base import Selection
from posttrain.search.journal import Journal
from posttrain.search.run import SearchLimits
from posttrain.search.strategy import Strategy
from posttrain.sources.episodes import EpisodeSampler
from posttrain.types import Sampling, Task


@dataclass(frozen=True, slots=True)
class Acting:
    """How a model acts in an environment.

    Attributes:
        environment: in words. sampler: of a tokenizer, what runs the episodes.
    """

    environment: str
    sampler: Callable[[Any], EpisodeSampler]


@dataclass(frozen=True, slots=True)
class Measurement:
    """An evaluation that is ready to run: problems encoded, search and scorer checked.

    It needs no weights until `of` is called, and measures any number of models of one tokenizer.
    `prepare` makes one.
    """

    task: Task
    problems: Problems
    sampling: Sampling
    num_samples: int
    seed: int
    strategy: Strategy | None = None
    timeout_seconds: float = 600.0
    task_settings: Mapping[str, Any] = field(default_factory=dict)
    acting: Acting | None = None
    limits: SearchLimits | None = None
    overthinking: bool = False

    @property
    def problems_text(self) -> str:
        """How many problems are asked: "200 of 300 problems"."""
        return problems_text(len(self.problems.fitting), self.problems.num_available)

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What a check shows, as pairs of name and text."""
        number, sampling = self.num_samples, self.sampling
        samples = "" if self.strategy else f", {number} sample{'s' * (number > 1)} each"
        facts = [
            ("task", f"{self.task.name}: {self.problems_text}{samples}"),
            (
                "sampling",
                f"at most {sampling.max_tokens} tokens, temperature {sampling.temperature:g}",
            ),
            ("search", str(self.strategy or "none")),
        ]
        if self.acting is not None:
            facts[-1] = ("environment", self.acting.environment)
        if self.strategy is not None and self.strategy.oracle:
            facts.append(("oracle", self.strategy.warning().partition(": ")[2]))
        return facts

    def of(
        self,
        model: LanguageModel,
        *,
        engine: Engine | None = None,
        amateur: Engine | None = None,
        progress: Progress | None = None,
        journal: Journal | None = None,
        on_selection: Callable[[int, Selection], None] | None = None,
    ) -> Evaluation:
        """Outcomes of a model.

        Args:
            engine: samples in place of an embedded engine on the model.
            amateur: an engine of a weaker model, for a search that asks for one.
            journal: where the calls of searches are recorded; those of an interrupted run are not
                sampled again.
            on_selection: called with a problem's place and what a search chose.
            progress: is called with (problems done, problems in all).

        Raises:
            ConfigError: the search asks for values, and the model has no critic.
        """

        options: dict[str, Any] = {
            "sampling": self.sampling,
            "seed": self.seed,
            "grader": Grader(timeout_seconds=self.timeout_seconds),
            "progress": progress,
        }
        engine = engine or TorchEngine(model)
        problems = self.problems.fitting
        if self.acting is not None:
            result = measure_episodes(
                engine,
                problems,
                self.task,
                self.acting.sampler(model.tokenizer),
                environment=self.acting.environment,
                num_samples=self.num_samples,
                **options,
            )
        elif self.strategy is None:
            result = measure_samples(
                engine,
                problems,
                self.task,
                partial(decode_completion, model.tokenizer),
                num_samples=self.num_samples,
                ids_text=self._ids_text(model.tokenizer) if self.overthinking else None,
                **options,
            )
        else:
            result = measure_search(
                engine,
                problems,
                self.task,
                model.tokenizer,
                self.strategy,
                limits=self.limits,
                value=_values(model, self.strategy),
                amateur=amateur,
                journal=journal,
                on_selection=on_selection,
                **options,
            )
        result.num_available = self.problems.num_available
        result.prompts_dropped = len(self.problems.dropped)
        result.task_settings = dict(self.task_settings)
        return result

    @staticmethod
    def _ids_text(tokenizer: Any) -> Callable[[Sequence[int]], str]:
        """The text of the beginning of a completion."""

        def text(ids: Sequence[int]) -> str:
            return str(tokenizer.decode(list(ids), skip_special_tokens=True))

        return text

    def close(self) -> None:
        """Release what the scorer holds."""
        if self.strategy is not None:
            self.strategy.close()


def _values(
    model: LanguageModel, strategy: Strategy
) -> Callable[[Sequence[tuple[int, ...]]], list[float]] | None:
    """A critic's values of states; None of a model without one.

    Raises:
        ConfigError: the strategy asks for values, and there is no critic.
    """
    if model.critic is not None:
        return model.critic.at_ends
    if "value" in strategy.inputs:
        raise ConfigError(
            f"search {strategy.name!r} asks for values, and the model has no critic; train one "
            "with method offline and losses that ask for values, such as oreo_policy and oreo_value"
        )
    return None


def prepare(
    task: Task,
    tokenizer: Any,
    context_length: int | None,
    *,
    search: ComponentLike | Strategy | None = None,
    scorer: ComponentLike | None = None,
    oracle: bool = False,
    num_examples: int | None = 200,
    num_samples: int = 1,
    sampling: Sampling | None = None,
    seed: int = 1234,
    max_prompts_dropped: float = 0.1,
    max_failed_rewards: float = 0.5,
    reward_timeout_seconds: float = 600.0,
    task_settings: Mapping[str, Any] | None = None,
    acting: Acting | None = None,
    budget: int | SearchLimits | None = None,
    overthinking: bool = False,
) -> Measurement:
    """Check an evaluation and encode its problems, without a model's weights.

    Args:
        context_length: positions of the model; None = no bound.
        task_settings: by which the task was named, for the record.
        acting: the environment in which the model acts; None asks for single completions.
        others: see `evaluate`.

    Raises:
        ConfigError, DataError, RewardError: what cannot be measured, before any weights are loaded.
    """
    _check_counts(task, num_examples, num_samples)
    Grader(max_failed=max_failed_rewards, timeout_seconds=reward_timeout_seconds)
    limits = {"max_failed": max_failed_rewards, "timeout_seconds": reward_timeout_seconds}
    strategy = make_strategy(search, scorer, oracle=oracle, task=task, limits=limits)
    if strategy is not None:
        _check_search(strategy, num_samples, acting)
    elif budget is not None:
        raise ConfigError(
            "evaluation.budget: it bounds a search and there is none; name one, or leave it out"
        )
    if overthinking:
        _check_single(strategy, acting)
    sampling = sampling or Sampling(max_tokens=task.max_tokens, stop=task.stop)
    if not sampling.stop:
        sampling = replace(sampling, stop=task.stop)
    if acting is not None:  # what is said first is known when an episode begins
        problems = Problems([(e, ()) for e in task.examples[:num_examples]], [], len(task.examples))
    else:
        problems = encode_problems(
            task,
            tokenizer,
            context_length,
            sampling,
            num_examples=num_examples,
            max_dropped=max_prompts_dropped,
        )
    return Measurement(
        task,
        problems,
        sampling,
        num_samples,
        seed,
        strategy,
        reward_timeout_seconds,
        task_settings or {},
        acting,
        SearchLimits(max_tokens=budget) if isinstance(budget, int) else budget,
        overthinking,
    )


def _check_counts(task: Task, num_examples: int | None, num_samples: int) -> None:
    """There is something to ask, at least once."""
    for name, number in (("num_examples", num_examples), ("num_samples", num_samples)):
        if number is not None and number < 1:
            raise ConfigError(f"evaluation.{name}: {number} must be at least 1")
    if not task.examples:
        raise ConfigError(f"task {task.name!r} has no examples; give it some")


def _check_search(strategy: Strategy, num_samples: int, acting: Acting | None) -> None:
    """A search samples by its own setting, and completions of a prompt alone."""
    if num_samples != 1:
        raise ConfigError(
            f"evaluation.num_samples: {num_samples} is not read under a search, whose own setting "
            "says how many; leave it out"
        )
    if acting is not None:
        raise ConfigError(
            f"search {strategy.name!r} chooses among completions of a prompt, and an environment "
            f"has episodes ({acting.environment}); leave search or environment out"
        )


def _check_single(strategy: Strategy | None, acting: Acting | None) -> None:
    """Overthinking is a matter of single completions."""
    if strategy is not None or acting is not None:
        raise ConfigError(
            "evaluation.overthinking: it looks into single completions of a prompt; leave it out, "
            "or the search or environment"
        )


def evaluate(
    model: LanguageModel,
    task: Task,
    *,
    search: ComponentLike | Strategy | None = None,
    scorer: ComponentLike | None = None,
    oracle: bool = False,
    num_examples: int | None = 200,
    num_samples: int = 1,
    sampling: Sampling | None = None,
    seed: int = 1234,
    max_prompts_dropped: float = 0.1,
    max_failed_rewards: float = 0.5,
    reward_timeout_seconds: float = 600.0,
    budget: int | SearchLimits | None = None,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a model on a task.

        print(evaluate(model, task, num_samples=4))
        print(evaluate(model, task, search=strategy("majority_vote", num_samples=8)))

    Args:
        search: a strategy whose choices are measured; None measures samples alone.
        scorer: what the search chooses by, where it asks for a score: a reward, or "oracle", the
            task's own verdict, which no deployed system has.
        oracle: permits a scorer that reads the gold, and reports it.
        num_examples: the first so many problems are asked; None = all.
        num_samples: completions of each problem; not read under a search.
        sampling: None is temperature 1 with the task's length and stop strings. The task's stop
            strings also apply where `sampling` has none.
        seed: of the samples: the same for every model, so that models are asked with the same
            random numbers.
        max_prompts_dropped: largest share of the problems that may be dropped because they are too
            long for the model's context.
        max_failed_rewards: largest share of the completions on which the scorer may fail.
        reward_timeout_seconds: time limit of the task's verdicts on one problem, and of one call of
            the scorer; 0 = no limit. A verdict beyond it is wrong and counted in `errors`.
        budget: most tokens that the search about one problem samples, the discarded ones included.
        engine: samples in place of an embedded engine on the model.
        progress: is called with (problems done, problems in all).

    Raises:
        ConfigError: a setting or a scorer is wrong. DataError: prompts are too long.
        RewardError: the scorer fails too often, or verdicts exceed the time limit again and again.
    """
    measurement = prepare(
        task,
        model.tokenizer,
        model.context_length,
        search=search,
        scorer=scorer,
        oracle=oracle,
        num_examples=num_examples,
        num_samples=num_samples,
        sampling=sampling,
        seed=seed,
        max_prompts_dropped=max_prompts_dropped,
        max_failed_rewards=max_failed_rewards,
        reward_timeout_seconds=reward_timeout_seconds,
        budget=budget,
    )
    try:
        return measurement.of(model, engine=engine, progress=progress)
    finally:
        measurement.close()
