"""A search on a model, in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from posttrain.config import ComponentLike, EndpointConfig, SamplingConfig
from posttrain.engines.base import Engine
from posttrain.engines.torch import TorchEngine
from posttrain.episodes.drive import Failed
from posttrain.errors import ConfigError
from posttrain.methods.amateur import amateur_engine, amateur_of
from posttrain.methods.endpoint import EndpointModel, Spec, engine_of, spec_of
from posttrain.methods.measurement import SamplingLike, check_critic, journal_header
from posttrain.methods.objects import ModelLike
from posttrain.methods.prompts import sampling_of
from posttrain.rewards.exact import Extractor, canonical, extract_answer
from posttrain.rewards.grader import TaskGrader
from posttrain.search.base import Selection
from posttrain.search.journal import Journal
from posttrain.search.run import SearchLimits, SearchTools, run_searches
from posttrain.search.strategy import Strategy, strategy
from posttrain.typecheck import check_in_python
from posttrain.types import Example, Sampling, Task, Text

Problems = Task | Text | Sequence[Text] | Sequence[Example]
"""A task, one prompt, several prompts, or examples."""


def run_search(
    model: ModelLike | EndpointConfig,
    problems: Problems,
    search: ComponentLike | Strategy,
    *,
    scorer: ComponentLike | None = None,
    oracle: bool = False,
    extract: Extractor | Callable[[str], str | None] = "last_number",
    sampling: SamplingLike = None,
    budget: int | SearchLimits | None = None,
    seed: int = 0,
    engine: Engine | None = None,
    journal: str | Path | None = None,
    amateur: ModelLike | None = None,
) -> list[Selection | Failed]:
    """What a search strategy chooses for each problem.

        (answer,) = run_search(model, "12 + 30 = ?", majority_vote(num_samples=8))
        answer.text, answer.answer, answer.ledger.sampled_tokens

    Args:
        model: a loaded model, a folder, a hub id, "embedded", or a server: pt.Endpoint(url, name).
        problems: a task, one prompt, a list of prompts, or a list of examples.
        scorer, oracle: what the search chooses by, see `strategy`.
        extract: how an answer is read from a text; of a task, the task says it.
        sampling: of a whole completion, as pt.Sampling or {"max_tokens": 8}; None is temperature 1
            with the task's length and stop strings.
        budget: most tokens of the search about one problem, or its limits.
        engine: samples in place of an embedded engine on the model.
        journal: a file of the engine's answers; a search that was interrupted goes on where it
            stopped.
        amateur: a weaker model with the same vocabulary, for contrastive_decoding.

    Raises:
        ConfigError: a setting or a scorer is wrong. RewardError: the scorer fails too often.
    """
    task = _task(problems, extract)
    if not task.examples:
        raise ConfigError("run_search: there are no problems; give at least one prompt")
    spec = spec_of(model)
    task = spec.chat_task(task) if isinstance(spec, EndpointModel) else task
    if not isinstance(sampling, Sampling):
        sampling = check_in_python(sampling or {}, SamplingConfig, "run_search: sampling")
    how = sampling_of(cast(SamplingConfig, sampling), task)
    chosen = strategy(search)
    check_critic(spec, chosen)
    weaker = amateur_of(spec, chosen, amateur)
    if scorer is not None or oracle:
        chosen = chosen.with_scorer(scorer, oracle)
    chosen = chosen.open(task)
    limits = SearchLimits(max_tokens=budget) if isinstance(budget, int) else budget
    calls = None
    if journal is not None:
        header = journal_header(spec, task, chosen, how, limits, seed, weaker)
        calls = Journal(journal, header)
    try:
        loaded: Any = spec.load()
        tools = _tools(spec, loaded, task, chosen, calls)
        tools = replace(tools, amateur=amateur_engine(weaker))
        return run_searches(
            chosen,
            [(e, tools.render(e.prompt)) for e in task.examples],
            engine or engine_of(loaded) or TorchEngine(loaded),
            tools,
            sampling=how,
            seeds=[seed + place for place in range(len(task.examples))],
            limits=limits,
        )
    finally:
        chosen.close()
        if calls is not None:
            calls.close()


def _tools(
    spec: Spec, loaded: Any, task: Task, chosen: Strategy, journal: Journal | None
) -> SearchTools:
    """What the searches share, the critic's values among it where one is asked for."""
    critic = loaded.critic
    if critic is None and "value" in chosen.inputs:
        critic = spec.load_critic()
    verdicts = TaskGrader(task)
    value = None if critic is None else critic.at_ends
    return SearchTools(loaded.tokenizer, verdicts.answer, verdicts, value, task.system, journal)


def _task(problems: Problems, extract: Extractor | Callable[[str], str | None]) -> Task:
    """The problems as a task."""
    if isinstance(problems, Task):
        return problems
    items: list[Any] = list(problems)
    one = isinstance(problems, str) or bool(items and isinstance(items[0], dict))
    prompts = [problems] if one else items
    examples = [
        p if isinstance(p, Example) else Example(p, id=str(i)) for i, p in enumerate(prompts)
    ]

    def read(text: str) -> str | None:
        return extract(text) if callable(extract) else canonical(extract_answer(text, extract))

    def unscored(text: str, example: Example) -> float:
        raise ConfigError("scorer: oracle needs a task, whose verdict it is; give run_search one")

    return Task("prompts", examples, unscored, read, unscored="prompts have no verdict")
