"""A search on a loaded model, in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from posttrain.config import ComponentLike
from posttrain.data.templates import encode_prompt
from posttrain.engines.base import Engine
from posttrain.engines.torch import TorchEngine
from posttrain.episodes.drive import Failed
from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.rewards.exact import Extractor, canonical, extract_answer
from posttrain.rewards.grader import TaskGrader
from posttrain.search.base import Selection
from posttrain.search.journal import Journal
from posttrain.search.run import SearchLimits, SearchTools, run_searches
from posttrain.search.strategy import Strategy, strategy
from posttrain.types import Example, Sampling, Task, Text

Problems = Task | Text | Sequence[Text] | Sequence[Example]
"""A task, one prompt, several prompts, or examples."""


def run_search(
    model: LanguageModel,
    problems: Problems,
    search: ComponentLike | Strategy,
    *,
    scorer: ComponentLike | None = None,
    oracle: bool = False,
    extract: Extractor | Callable[[str], str | None] = "last_number",
    sampling: Sampling | None = None,
    budget: int | SearchLimits | None = None,
    seed: int = 0,
    engine: Engine | None = None,
    journal: str | Path | None = None,
) -> list[Selection | Failed]:
    """What a search strategy chooses for each problem.

        (answer,) = run_search(model, "12 + 30 = ?", majority_vote(num_samples=8))
        answer.text, answer.answer, answer.ledger.sampled_tokens

    Args:
        problems: a task, one prompt, a list of prompts, or a list of examples.
        scorer, oracle: what the search chooses by, see `strategy`.
        extract: how an answer is read from a text; of a task, the task says it.
        sampling: of a whole completion; None is temperature 1 with the task's length and stop
            strings.
        budget: most tokens of the search about one problem, or its limits.
        engine: samples in place of an embedded engine on the model.
        journal: a file of the engine's answers; a search that was interrupted goes on where it
            stopped.

    Raises:
        ConfigError: a setting or a scorer is wrong. RewardError: the scorer fails too often.
    """
    task = _task(problems, extract)
    if not task.examples:
        raise ConfigError("run_search: there are no problems; give at least one prompt")
    sampling = sampling or Sampling(max_tokens=task.max_tokens)
    sampling = replace(sampling, stop=sampling.stop or task.stop)
    chosen = strategy(search)
    value = model.critic.at_ends if model.critic is not None else None
    if "value" in chosen.inputs and value is None:
        raise ConfigError(
            f"search {chosen.name!r} asks for values, and the model has no critic; train one with "
            "pt.offline and losses that ask for values, such as oreo_policy and oreo_value"
        )
    if scorer is not None or oracle:
        chosen = chosen.with_scorer(scorer, oracle)
    chosen = chosen.open(task)
    verdicts = TaskGrader(task)
    calls = None if journal is None else Journal(journal, _about(task, chosen, sampling, seed))
    tools = SearchTools(model.tokenizer, verdicts.answer, verdicts, value, task.system, calls)
    prompts = [
        tuple(encode_prompt(model.tokenizer, e.prompt, system=task.system)) for e in task.examples
    ]
    try:
        return run_searches(
            chosen,
            list(zip(task.examples, prompts, strict=True)),
            engine or TorchEngine(model),
            tools,
            sampling=sampling,
            seeds=[seed + place for place in range(len(prompts))],
            limits=SearchLimits(max_tokens=budget) if isinstance(budget, int) else budget,
        )
    finally:
        chosen.close()
        if calls is not None:
            calls.close()


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


def _about(task: Task, chosen: Strategy, sampling: Sampling, seed: int) -> dict[str, Any]:
    """What a journal belongs to."""
    return {
        "task": task.name,
        "search": chosen.name,
        "settings": chosen.settings,
        "sampling": sampling,
        "seed": seed,
    }
