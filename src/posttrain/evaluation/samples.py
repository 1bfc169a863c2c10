"""Completions of a task's problems, graded: sampled alone, or chosen by a search."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from posttrain.engines.base import Engine
from posttrain.episodes.drive import Failed
from posttrain.evaluation.outcomes import Evaluation, Outcome
from posttrain.evaluation.overthinking import overthinking_notes
from posttrain.rewards.grader import Grader, TaskGrader
from posttrain.search.base import Selection
from posttrain.search.journal import Journal
from posttrain.search.run import SearchLimits, SearchTools, run_searches
from posttrain.search.strategy import Strategy
from posttrain.types import Example, Request, Sample, Sampling, Task, plain_text

NUM_TEXTS = 4
"""Texts of each problem that are kept."""

Problem = tuple[Example, tuple[int, ...]]
"""An example and its prompt as token ids."""

Progress = Callable[[int, int], None]
"""Called with the number of problems that are graded and the number of all."""


def example_seed(seed: int, example: Example) -> int:
    """A seed from the run's seed and the example's id, so that two models are asked with the
    same random numbers.
    """
    return int.from_bytes(
        hashlib.blake2b(f"{seed} {example.id}".encode(), digest_size=7).digest(), "big"
    )


def measure_samples(
    engine: Engine,
    problems: Sequence[Problem],
    task: Task,
    decode: Callable[[Sample], str],
    *,
    num_samples: int,
    sampling: Sampling,
    seed: int,
    grader: Grader | None = None,
    progress: Progress | None = None,
    ids_text: Callable[[Sequence[int]], str] | None = None,
) -> Evaluation:
    """Sample `num_samples` completions of each problem and grade them.

    Args:
        decode: sample -> text.
        grader: calls the task's verdicts, within its time limit.
        progress: is called after each problem.
        ids_text: token ids -> text; where it is given, each completion is looked into for its first
            right answer (`overthinking`).

    Raises:
        RewardError: verdicts exceed the time limit again and again.
    """
    requests = [
        Request(ids, sampling, n=num_samples, seed=example_seed(seed, e), reuse=False)
        for e, ids in problems
    ]
    verdicts = TaskGrader(task, grader)
    outcomes: list[Outcome] = []
    truncated = 0
    for (example, _), samples in zip(problems, engine.generate(requests), strict=True):
        texts = [decode(s) for s in samples]
        truncated += sum(s.finish_reason != "stop" for s in samples)
        outcomes.append(
            Outcome(
                example.id,
                plain_text(example.prompt),
                str(example.answer),
                verdicts.correct(texts, example),
                verdicts.answers(texts),
                [len(s.ids) for s in samples],
                texts[:NUM_TEXTS],
                notes={}
                if ids_text is None
                else overthinking_notes(samples, texts, ids_text, task, example),
            )
        )
        if progress is not None:
            progress(len(outcomes), len(problems))
    total = max(len(problems) * num_samples, 1)
    return Evaluation(
        task.name,
        asdict(sampling),
        seed,
        num_samples,
        outcomes,
        truncated / total,
        verdicts.errors,
    )


def measure_search(
    engine: Engine,
    problems: Sequence[Problem],
    task: Task,
    tokenizer: Any,
    strategy: Strategy,
    *,
    sampling: Sampling,
    seed: int,
    limits: SearchLimits | None = None,
    value: Callable[[Sequence[tuple[int, ...]]], list[float]] | None = None,
    amateur: Engine | None = None,
    grader: Grader | None = None,
    journal: Journal | None = None,
    on_selection: Callable[[int, Selection], None] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Grade what a search strategy chooses.

    A search that fails is a wrong outcome without an answer, and is counted in `errors`.

    Args:
        strategy: with its scorer open (`Strategy.open`).
        limits: of the search about one problem.
        value: a critic's values of states, for strategies that ask for them.
        amateur: an engine of a weaker model, for strategies that ask for one.
        journal: answers of an earlier run that was interrupted.
        on_selection: called with a problem's place and what was chosen, as searches end.
        grader, progress: see `measure_samples`.

    Raises:
        ConfigError: the strategy has no scorer, or calls it wrongly.
        RewardError: verdicts exceed the time limit again and again.
    """
    verdicts = TaskGrader(task, grader)
    tools = SearchTools(tokenizer, verdicts.answer, verdicts, value, task.system, journal, amateur)
    done = itertools.count(1)

    def finished(place: int, result: Selection | Failed) -> None:
        if on_selection is not None and isinstance(result, Selection):
            on_selection(place, result)
        if progress is not None:
            progress(next(done), len(problems))

    results = run_searches(
        strategy,
        problems,
        engine,
        tools,
        sampling=sampling,
        seeds=[example_seed(seed, example) for example, _ in problems],
        limits=limits,
        on_finished=finished,
    )
    selections = [result for result in results if isinstance(result, Selection)]
    outcomes = [
        _outcome(example, result, verdicts)
        for (example, _), result in zip(problems, results, strict=True)
    ]
    candidates = [c for selection in selections for c in selection.candidates]
    scorer = strategy.scorer
    return Evaluation(
        task.name,
        asdict(sampling),
        seed,
        1,
        outcomes,
        sum(not c.ended for c in candidates) / max(len(candidates), 1),
        verdicts.errors + len(results) - len(selections),
        strategy.name,
        search_settings=dict(strategy.settings),
        strategy=str(strategy),
        scorer=None if scorer is None else {"name": scorer.name, **scorer.settings},
        oracle=strategy.oracle,
        accounts=_accounts(selections, limits),
        failures=[result.reason for result in results if isinstance(result, Failed)],
    )


def _outcome(example: Example, result: Selection | Failed, verdicts: TaskGrader) -> Outcome:
    """The graded choice of a search; wrong where it failed."""
    prompt, answer = plain_text(example.prompt), str(example.answer)
    if isinstance(result, Failed):
        return Outcome(example.id, prompt, answer, [0], [None], [result.num_tokens])
    correct = [0] if result.abstained else verdicts.correct([result.text], example)
    return Outcome(
        example.id,
        prompt,
        answer,
        correct,
        [result.answer],
        [result.num_tokens],
        [result.text, *(c.text for c in result.candidates)][:NUM_TEXTS],
        notes=dict(result.notes),
    )


def _accounts(selections: Sequence[Selection], limits: SearchLimits | None) -> dict[str, float]:
    """Means over the problems of what the searches spent and report."""
    sums: Counter[str] = Counter()
    for selection in selections:
        if selection.ledger is not None:
            sums.update(asdict(selection.ledger))
        sums.update({f"notes/{name}": value for name, value in selection.notes.items()})
    means = {name: total / len(selections) for name, total in sums.items()}
    if limits is not None and limits.max_tokens is not None:
        means["max_tokens"] = float(limits.max_tokens)
    return means
