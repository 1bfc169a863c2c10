"""Completions of a task's problems, graded: sampled alone, or chosen by a search."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from posttrain.engines.base import Engine
from posttrain.errors import ConfigError
from posttrain.evaluation.outcomes import Evaluation, Outcome
from posttrain.rewards.grader import Grader, TaskGrader
from posttrain.search.base import Candidate, Sampler
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
) -> Evaluation:
    """Sample `num_samples` completions of each problem and grade them.

    Args:
        decode: sample -> text.
        grader: calls the task's verdicts, within its time limit.
        progress: is called after each problem.

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
    decode: Callable[[Sample], str],
    strategy: Strategy,
    *,
    sampling: Sampling,
    seed: int,
    value: Callable[[Sequence[tuple[int, ...]]], list[float]] | None = None,
    grader: Grader | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Grade what a search strategy chooses.

    Args:
        strategy: with its scorer open (`Strategy.open`).
        value: a critic's values of states, for strategies that ask for them.
        decode, grader, progress: see `measure_samples`.

    Raises:
        ConfigError: the strategy has no scorer, or calls it wrongly.
        RewardError: verdicts exceed the time limit again and again.
    """
    verdicts = TaskGrader(task, grader)
    inputs: dict[str, Any] = {
        "prompts": [ids for _, ids in problems],
        "generate": Sampler(engine, decode, sampling, [example_seed(seed, e) for e, _ in problems]),
        "extract": verdicts.answer,
        "score": _score_of(strategy, problems, verdicts),
        "value": value,
        "decode": lambda ids: decode(Sample(list(ids), [], [], "stop")),
    }
    outcomes: list[Outcome] = []
    candidates: list[Candidate] = []
    for (example, _), chosen in zip(problems, strategy.select(inputs), strict=True):
        candidates += chosen.candidates
        outcomes.append(
            Outcome(
                example.id,
                plain_text(example.prompt),
                str(example.answer),
                verdicts.correct([chosen.text], example),
                [chosen.answer],
                [chosen.num_tokens],
                [chosen.text, *(c.text for c in chosen.candidates)][:NUM_TEXTS],
            )
        )
        if progress is not None:
            progress(len(outcomes), len(problems))
    truncated = sum(not c.ended for c in candidates) / max(len(candidates), 1)
    scorer = strategy.scorer
    return Evaluation(
        task.name,
        asdict(sampling),
        seed,
        1,
        outcomes,
        truncated,
        verdicts.errors,
        strategy.name,
        search_settings=dict(strategy.settings),
        strategy=str(strategy),
        scorer=None if scorer is None else {"name": scorer.name, **scorer.settings},
        oracle=strategy.oracle,
    )


def _score_of(
    strategy: Strategy, problems: Sequence[Problem], verdicts: TaskGrader
) -> Callable[[int, Sequence[Candidate]], list[float]]:
    """What the strategy calls to score candidates of a prompt."""

    def score(index: int, candidates: Sequence[Candidate]) -> list[float]:
        if strategy.scorer is None:
            raise ConfigError(f"search {strategy.name!r} needs a scorer")
        if not isinstance(index, int):
            raise ConfigError(
                f"search {strategy.name!r} calls score with {type(index).__name__}; score(index, "
                "candidates) takes the place of the prompt among `prompts`, because two problems "
                "may have one prompt"
            )
        return strategy.scorer.score(problems[index][0], candidates, verdicts)

    return score
