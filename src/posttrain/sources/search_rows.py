"""Rows to train on from what a search has sampled.

The candidates of a search share their prompts and trunks, so that the rows of one problem are one
tree, whose distinct tokens are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any, Literal

from posttrain.errors import ConfigError
from posttrain.search.base import Candidate, Selection, distinct
from posttrain.types import Example, Sample, Trace, TraceGroup

Grade = Callable[[str, Example], float]
"""(completion, example) -> grade in [0, 1], such as a task's verdict."""

Kind = Literal["completions", "preferences", "rewards", "steps"]

KINDS: tuple[Kind, ...] = ("completions", "preferences", "rewards", "steps")


def search_rows(
    examples: Sequence[Example],
    selections: Sequence[Any],
    kind: Kind = "completions",
    *,
    grade: Grade | None = None,
    min_grade: float = 1.0,
    max_per_prompt: int | None = None,
    separator: str = "\n",
) -> list[dict[str, Any]]:
    """Rows from searches about training problems.

        selections = pt.run_search(model, task, pt.strategy.step_beam(scorer="judge"))
        pt.fit(model, pt.sft(pt.search_rows(task.examples, selections)), steps=50)

    kind:
        completions: prompt, completion. The search's choices where they are whole; with `grade`
            instead all whole candidates whose grade is at least min_grade, the likeliest first.
            Texts that the search has put into them (budget_forcing, rstar) are imitated too. For
            pt.sft.
        preferences: prompt, chosen, rejected, margin. Pairs of whole candidates with different
            grades (without `grade`: scores), those that share the longest beginning first. For
            pt.dpo.
        rewards: prompt, completion, reward. All whole candidates with their grades (scores),
            which the policy sampled alone. For pt.offline.
        steps: prompt, completions (the steps), labels. The label of a step is the mean grade
            (score) of the whole candidates that go through it, which is the value that a tree
            search backs up (ReST-MCTS*, arXiv 2406.03816). For pt.reward_model.

    Args:
        examples: the problems, in the order of the selections. They are training problems: a search
            on held-out ones gives nothing to train on.
        selections: of `run_search`; failed searches and abstentions give no rows.
        grade: judges whole candidates; None takes the scores that the search's scorer gave.
        max_per_prompt: most rows per problem; None = all.
        separator: between steps.

    Raises:
        ConfigError: a wrong kind, not one selection per example, scores are asked for that the
            search has not, or rewards of candidates with tokens that were not sampled.
    """
    if kind not in KINDS:
        raise ConfigError(f"search_rows: kind {kind!r} is none of {', '.join(KINDS)}")
    if len(examples) != len(selections):
        raise ConfigError(
            f"search_rows: {len(examples)} examples and {len(selections)} selections; give the "
            "selections of these examples, in their order"
        )
    rows: list[dict[str, Any]] = []
    for example, selection in zip(examples, selections, strict=True):
        if isinstance(selection, Selection) and not selection.abstained:
            columns = _rows(example, selection, kind, grade, min_grade, separator)
            rows += [{"prompt": example.prompt, **row} for row in columns][:max_per_prompt]
    return rows


def _rows(
    example: Example,
    selection: Selection,
    kind: Kind,
    grade: Grade | None,
    min_grade: float,
    separator: str,
) -> Iterable[dict[str, Any]]:
    if kind == "completions" and grade is None:
        is_whole = selection.candidates[selection.index].ended
        return [{"completion": selection.text}] * is_whole
    graded = _graded(example, selection, grade)
    if kind == "completions":
        passed = [c for c, g in graded if g >= min_grade]
        passed.sort(key=lambda c: -c.mean_logprob)
        return [{"completion": c.text} for c in passed]
    if kind == "rewards":
        _refuse_given(example, graded)
        return [{"completion": c.text, "reward": g} for c, g in graded]
    if kind == "preferences":
        return _pairs(graded)
    return _step_rows(graded, separator)


def _graded(
    example: Example, selection: Selection, grade: Grade | None
) -> list[tuple[Candidate, float]]:
    """The whole candidates, equal ones once, with their grades or scores."""
    whole = distinct(c for c in selection.candidates if c.ended)
    if grade is not None:
        return [(c, float(grade(c.text, example))) for c in whole]
    missing = [c for c in whole if c.score is None]
    if missing:
        raise ConfigError(
            f"search_rows: {len(missing)} of {len(whole)} candidates of example {example.id!r} "
            "have no score; give grade, such as task.score, or a search with a scorer"
        )
    return [(c, float(c.score)) for c in whole if c.score is not None]


def _refuse_given(example: Example, graded: Sequence[tuple[Candidate, float]]) -> None:
    """Rows of text cannot say which of their tokens the policy has not chosen."""
    if any(any(c.given) for c, _ in graded):
        raise ConfigError(
            f"search_rows: candidates of example {example.id!r} hold tokens that the search put "
            "there, whose reward is not the policy's; take search_group, which masks them, or "
            "kind completions, which imitates the text"
        )


def _pairs(graded: Sequence[tuple[Candidate, float]]) -> list[dict[str, Any]]:
    """Pairs of a better and a worse candidate, by the length of what they share."""
    pairs = []
    for one, other in combinations(graded, 2):
        (better, high), (worse, low) = sorted((one, other), key=lambda pair: -pair[1])
        if high > low:
            pairs.append((_shared(better, worse), better.text, worse.text, high - low))
    pairs.sort(key=lambda pair: -pair[0])
    return [{"chosen": b, "rejected": w, "margin": margin} for _, b, w, margin in pairs]


def _shared(one: Candidate, other: Candidate) -> int:
    """Tokens that two candidates begin with."""
    pairs = zip(one.ids, other.ids, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one.ids), len(other.ids)))


def _step_rows(
    graded: Sequence[tuple[Candidate, float]], separator: str
) -> Iterator[dict[str, Any]]:
    texts = [[s for s in c.text.split(separator) if s.strip()] for c, _ in graded]
    grades: dict[tuple[str, ...], list[float]] = {}
    for steps, (_, number) in zip(texts, graded, strict=True):
        for end in range(1, len(steps) + 1):
            grades.setdefault(tuple(steps[:end]), []).append(number)
    for steps in texts:
        values = [grades[tuple(steps[:end])] for end in range(1, len(steps) + 1)]
        if steps:
            yield {"completions": steps, "labels": [sum(v) / len(v) for v in values]}


def search_group(example: Example, selection: Selection) -> TraceGroup:
    """The whole and cut candidates of a search as the traces of one prompt, for rewards and
    policy-gradient losses.

    Their log-probs are those that the engine reported. Tokens that the search has put there
    (`Candidate.given`) are context: no loss counts them. A strategy that chose among partial
    candidates has not sampled from the policy alone; importance ratios correct for it only in part.

    Raises:
        ConfigError: candidates that have no log-probs, or several contexts.
    """
    contexts = {c.context_ids for c in selection.candidates}
    if len(contexts) != 1:
        raise ConfigError(
            f"search_group: the candidates of example {example.id!r} have {len(contexts)} "
            "contexts; only searches that go on behind one prompt make a group"
        )
    traces = []
    for candidate in distinct(selection.candidates):
        if len(candidate.logprobs) != len(candidate.ids):
            raise ConfigError(
                f"search_group: a candidate of example {example.id!r} has no log-probs; take an "
                "engine that reports them"
            )
        logprobs = list(candidate.logprobs)
        reason: Any = "stop" if candidate.ended else "length"
        sample = Sample(list(candidate.ids), logprobs, logprobs, reason, candidate.stop_string)
        trace = Trace.of_sample(candidate.context_ids, sample, candidate.text)
        trace.turns[0].given = candidate.given
        traces.append(trace)
    return TraceGroup(example, next(iter(contexts)), traces)
