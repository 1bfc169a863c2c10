"""Measure strategies at budgets: accuracy against tokens, seconds and FLOPs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.config import ComponentLike, EndpointConfig, Limits
from posttrain.errors import ConfigError
from posttrain.evaluation.outcomes import Evaluation
from posttrain.evaluation.tradeoff import POOLED, Point, Pool, Tradeoff, at_k, waste_of
from posttrain.methods.amateur import amateur_of
from posttrain.methods.endpoint import Spec, spec_of
from posttrain.methods.measurement import Measuring, SamplingLike, check_critic, measuring_of
from posttrain.methods.objects import ModelLike, TaskLike, task_of
from posttrain.models.forest_model import ForestModel
from posttrain.rewards.grader import TaskGrader
from posttrain.search.base import Candidate, Selection
from posttrain.search.strategy import Strategy, strategy
from posttrain.types import Example, Task


def tradeoff(
    model: ModelLike | EndpointConfig,
    task: TaskLike,
    strategies: Sequence[ComponentLike | Strategy],
    budgets: Sequence[int],
    *,
    scorer: ComponentLike | None = None,
    oracle: bool = False,
    amateur: ModelLike | None = None,
    num_examples: int = 200,
    sampling: SamplingLike = None,
    seed: int = 1234,
    limits: Limits = Limits(),
    num_parameters: int | None = None,
    output: str | Path | None = None,
) -> Tradeoff:
    """Accuracy of strategies against tokens, wall seconds and estimated FLOPs, on one task.

        result = pt.tradeoff(model, task, ["sample", pt.majority_vote(num_samples=16)], [64, 256])
        print(result)
        result.save("runs/tradeoff")

    Votes and best-of-N run once, with all their samples, and every budget is an unbiased estimate
    over the subsets of k samples that fit into it on average. Every other strategy runs at each
    budget.

    Args:
        strategies: names, or strategies with settings; of votes and best-of-N num_samples is the
            size of the pool.
        budgets: tokens per problem.
        scorer, oracle: of the strategies that ask for a score and have none of their own.
        amateur: a weaker model with the same vocabulary, of the strategies that ask for one.
        num_examples: the first so many problems are asked.
        num_parameters: of a model behind a server, for FLOPs: 2 x parameters x computed tokens.
        output: a folder for tradeoff.json, tradeoff.svg and tradeoff.txt.

    Raises:
        ConfigError: no strategies or budgets, or a strategy that cannot run.
    """
    if not strategies or not budgets or min(budgets) < 1:
        raise ConfigError(
            f"tradeoff: budgets are {list(budgets)} and there are {len(strategies)} strategies; "
            "give at least one of each, and budgets of at least 1 token"
        )
    problems = task_of(task)
    spec = spec_of(model)
    chosen = [_with_scorer(strategy(s), scorer, oracle) for s in strategies]
    for search in chosen:
        check_critic(spec, search)
    weaker = _amateur(spec, chosen, amateur)
    loaded: Any = spec.load()
    if any("value" in search.inputs for search in chosen):
        loaded.critic = spec.load_critic()
    if num_parameters is None and hasattr(loaded, "hf"):
        num_parameters = sum(p.numel() for p in loaded.hf.parameters())
    options: dict[str, Any] = {
        "num_examples": num_examples,
        "sampling": sampling,
        "seed": seed,
        "limits": limits,
    }
    result = Tradeoff(problems.name, str(spec.place), [], [], {}, num_parameters, seed)
    for search in chosen:
        of_search = {**options, "amateur": weaker if "amateur" in search.inputs else None}
        measured = _Measured(loaded, problems, search, of_search, num_parameters)
        points, pools = measured.points(sorted(set(budgets)))
        result.points += points
        result.waste[str(search)] = waste_of(pools)
        result.ids = [example.id for example in measured.examples]
    if output is not None:
        result.save(output)
    return result


def _amateur(
    spec: Spec, strategies: Sequence[Strategy], amateur: ModelLike | None
) -> ForestModel | None:
    """The weaker model, loaded once for all strategies that ask for it."""
    asking = [search for search in strategies if "amateur" in search.inputs]
    checked = [amateur_of(spec, search, amateur) for search in asking or strategies[:1]]
    return None if checked[0] is None else checked[0].load()


def _with_scorer(search: Strategy, scorer: ComponentLike | None, oracle: bool) -> Strategy:
    if search.needs_score and search.scorer_component is None:
        return search.with_scorer(scorer, oracle)
    return search


class _Measured:
    """One strategy on the problems, at any budget.

    examples: the problems that were asked.
    """

    def __init__(
        self,
        loaded: Any,
        task: Task,
        search: Strategy,
        options: dict[str, Any],
        num_parameters: int | None,
    ) -> None:
        self.loaded, self.task, self.search = loaded, task, search
        self.options, self.num_parameters = options, num_parameters
        self.examples: list[Example] = []

    def points(self, budgets: Sequence[int]) -> tuple[list[Point], list[Pool]]:
        """A point per budget, and the samples at the largest."""
        if self.search.name in POOLED and self.search.function is None:
            return self._pooled(budgets)
        points: list[Point] = []
        pools: list[Pool] = []
        for budget in budgets:
            evaluation, selections, seconds = self._run(budget)
            pools = self._pools(selections)
            accounts = evaluation.accounts
            correct = evaluation.means()
            points.append(
                self._point(budget, None, correct, accounts["sampled_tokens"], accounts, seconds)
            )
        return points, pools

    def _pooled(self, budgets: Sequence[int]) -> tuple[list[Point], list[Pool]]:
        """Estimates over subsets of one run with all samples."""
        evaluation, selections, seconds = self._run(None)
        pools = self._pools(selections)
        number = int(self.search.settings["num_samples"])
        per_sample = evaluation.accounts["sampled_tokens"] / number
        points = []
        for budget in budgets:
            k = int(min(max(budget // max(per_sample, 1e-9), 1), number))
            correct = [at_k(self.search.name, pool, k, seed=self.options["seed"]) for pool in pools]
            share = seconds * k / number
            points.append(
                self._point(budget, k, correct, k * per_sample, evaluation.accounts, share)
            )
        return points, pools

    def _point(
        self,
        budget: int,
        k: int | None,
        correct: list[float],
        tokens: float,
        accounts: dict[str, float],
        seconds: float,
    ) -> Point:
        read = accounts["prompt_tokens"] - accounts["reused_tokens"]
        flops = None
        if self.num_parameters is not None:
            flops = 2.0 * self.num_parameters * (tokens + read)
        return Point(
            str(self.search),
            self.search.name,
            dict(self.search.settings),
            budget,
            k,
            correct,
            tokens,
            seconds,
            flops,
            self.search.oracle,
        )

    def _run(self, budget: int | None) -> tuple[Evaluation, dict[int, Selection], float]:
        """An evaluation, its selections by place, and wall seconds per problem."""
        spec = spec_of(self.loaded)
        measuring: Measuring = measuring_of(
            spec, self.task, search=self.search, budget=budget, **self.options
        )
        selections: dict[int, Selection] = {}
        try:
            started = time.perf_counter()
            evaluation = measuring.of(
                self.loaded,
                on_selection=lambda place, selection: selections.update({place: selection}),
            )
            seconds = time.perf_counter() - started
        finally:
            measuring.close()
        if not selections:
            raise ConfigError(
                f"search {self.search.name!r} failed on every problem; the first reason: "
                f"{evaluation.failures[0]}"
            )
        self.examples = [example for example, _ in measuring.measurement.problems.fitting]
        return evaluation, selections, seconds / max(len(self.examples), 1)

    def _pools(self, selections: dict[int, Selection]) -> list[Pool]:
        """The graded candidates of each problem; none of a search that failed."""
        verdicts = TaskGrader(self.task)
        pools = []
        for place, example in enumerate(self.examples):
            selection = selections.get(place)
            candidates: list[Candidate] = [] if selection is None else selection.candidates
            texts = [c.text for c in candidates]
            pools.append(
                Pool(
                    verdicts.answers(texts) if texts else [],
                    verdicts.correct(texts, example) if texts else [],
                    [_score(self.search, c) for c in candidates],
                    [len(c.ids) for c in candidates],
                    [c.mean_logprob for c in candidates],
                )
            )
        return pools


def _score(search: Strategy, candidate: Candidate) -> float:
    if search.name == "most_likely":
        return candidate.mean_logprob
    score = candidate.score
    return 1.0 if score is None or np.isnan(score) else float(score)
