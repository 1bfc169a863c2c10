"""Data of the page's two browsers: the completions of a run by prompt, and problems with the
samples of every stage side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain.report.markup import safe_json
from posttrain.report.records import Completion, Group, Measured, Problem, TurnRecord
from posttrain.report.series import number, spread

MAX_BYTES = 160_000
MAX_TEXT = 4000
MAX_GROUPS = 160
MAX_PROBLEMS = 40
MAX_TURNS = 24

# Rewards that say whether a completion is right. Others (format, length) only say how good it is.
_VERIFIERS = ("task", "exact", "math")


def clip(text: str, limit: int) -> str:
    """The start and the end of a long text (the end is where the answer stands)."""
    if len(text) <= limit:
        return text
    head, tail = limit * 3 // 4, limit // 4
    return (
        f"{text[:head]}\n[… {len(text) - head - tail:,} characters left out "
        f"…]\n{text[len(text) - tail :]}"
    )


def browsable_groups(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Groups for the page: evenly spread over the run and clipped until they fit MAX_BYTES."""
    shown, limit = spread(groups, MAX_GROUPS), MAX_TEXT
    while True:
        values = [_group_values(g, limit) for g in shown]
        if len(safe_json(values)) <= MAX_BYTES or (len(shown) <= 4 and limit <= 250):
            return values
        # Many groups with clipped texts show more than a few with whole texts, down to a point.
        if limit > 1000 or len(shown) <= 24:
            limit = max(limit // 2, 250)
        if len(shown) > 4:
            shown = spread(shown, max(4, len(shown) * 3 // 4))


def marks(group: Group) -> list[str]:
    """A mark for each completion: "right" or "wrong" by a reward that verifies. Where no reward
    does, "best" for the group's highest reward, "" for the others.
    """
    rewards = [c.reward for c in group.completions if c.reward is not None]
    best = max(rewards) if len(set(rewards)) > 1 else None
    return [_mark(c, best) for c in group.completions]


def _mark(completion: Completion, best: float | None) -> str:
    if completion.role:
        return completion.role
    verdicts = [v for name in _VERIFIERS if (v := completion.rewards.get(name)) is not None]
    if verdicts:
        return "right" if all(v >= 1 for v in verdicts) else "wrong"
    return "best" if best is not None and completion.reward == best else ""


def _group_values(group: Group, limit: int) -> dict[str, Any]:
    """A group as the script reads it. Equal completions are one entry with a count."""
    entries: dict[tuple[Any, ...], dict[str, Any]] = {}
    for completion, mark in zip(group.completions, marks(group), strict=True):
        rewards = tuple(completion.rewards.items())
        same = (
            completion.text,
            completion.turns,
            mark,
            completion.reward,
            rewards,
            _stop(completion),
        )
        entry = entries.get((*same, completion.error))
        if entry is None:
            entries[(*same, completion.error)] = _entry(completion, mark, limit)
        else:
            entry["count"] += 1
    return {
        "step": group.step,
        "id": group.id,
        "prompt": clip(group.prompt, limit),
        "answer": group.answer,
        "num_completions": len(group.completions),
        "completions": list(entries.values()),
    }


def _entry(completion: Completion, mark: str, limit: int) -> dict[str, Any]:
    rewards = {k: number(v) for k, v in completion.rewards.items()}
    return {
        "text": clip(completion.text, limit),
        "count": 1,
        "mark": mark,
        "reward": number(completion.reward),
        "rewards": rewards if len(rewards) > 1 else {},
        "advantage": number(completion.advantage),
        "num_tokens": completion.num_tokens,
        "num_characters": len(completion.text),
        "stop": _stop(completion),
        "error": completion.error,
        "turns": _turns(completion, limit),
    }


def _stop(completion: Completion) -> str | None:
    """Why an episode ended, or its only completion."""
    return completion.stop_reason or completion.finish_reason


def _turns(completion: Completion, limit: int) -> list[dict[str, Any]] | None:
    """The turns of an episode; None where the completion is all. Of many the first and the last."""
    if not completion.turns:
        return None
    limit = max(limit // max(len(completion.turns) // 2, 1), 250)
    values = [_turn_values(n, turn, limit) for n, turn in enumerate(completion.turns, 1)]
    return values if len(values) <= MAX_TURNS else [*values[: MAX_TURNS - 8], *values[-8:]]


def _turn_values(place: int, turn: TurnRecord, limit: int) -> dict[str, Any]:
    return {
        "place": place,
        "messages": [{"role": m.role, "text": clip(m.text, limit)} for m in turn.messages],
        "text": clip(turn.text, limit),
        "calls": [
            {
                "name": call.name,
                "arguments": clip(call.arguments, limit),
                "result": clip(call.result or "", limit) if call.error is None else None,
                "error": call.error and clip(call.error, limit),
            }
            for call in turn.calls
        ],
        "reward": turn.reward,
        "num_tokens": turn.num_tokens,
        "trained": turn.is_trained,
        "branch": turn.starts_branch,
    }


def same_problems(stages: Sequence[tuple[str, Measured]]) -> list[dict[str, Any]]:
    """Problems that every stage was measured on, with each stage's verdicts and first texts."""
    problems = [
        {(p.id, p.prompt, p.answer): p for p in measured.problems if p.texts}
        for _, measured in stages
    ]
    shared = [key for key in problems[0] if all(key in p for p in problems)] if problems else []
    shown, limit = spread(shared, MAX_PROBLEMS), MAX_TEXT
    while True:
        values = []
        for key in shown:
            columns = [
                _stage_values(stage, measured, by_key[key], limit)
                for (stage, measured), by_key in zip(stages, problems, strict=True)
            ]
            _, prompt, answer = key
            values.append({"prompt": clip(prompt, limit), "answer": answer, "stages": columns})
        if len(safe_json(values)) <= MAX_BYTES or (len(shown) <= 4 and limit <= 250):
            return values
        limit, shown = max(limit // 2, 250), spread(shown, max(4, len(shown) * 3 // 4))


def _stage_values(stage: str, measured: Measured, problem: Problem, limit: int) -> dict[str, Any]:
    """One stage's outcome on a problem.

    right, samples: of all its samples (1 under a search). candidates: what a search chose among,
    None where it is not known or there is no search. texts: those that the file holds.
    """
    candidates = measured.search_settings.get("num_samples") if measured.search else None
    texts = _chosen_texts(problem) if measured.search else _sampled_texts(problem)
    return {
        "stage": stage,
        "right": sum(problem.correct),
        "samples": len(problem.correct),
        "search": measured.search is not None,
        "candidates": candidates if isinstance(candidates, int) else None,
        "texts": [{**text, "text": clip(text["text"], limit)} for text in texts],
    }


def _sampled_texts(problem: Problem) -> list[dict[str, Any]]:
    """The texts with their verdicts; equal ones are one entry with a count."""
    counts: dict[tuple[str, int], int] = {}
    for text, correct in zip(problem.texts, problem.correct, strict=False):
        counts[text, int(correct)] = counts.get((text, int(correct)), 0) + 1
    return [
        {"text": text, "mark": "right" if correct else "wrong", "count": count}
        for (text, correct), count in counts.items()
    ]


def _chosen_texts(problem: Problem) -> list[dict[str, Any]]:
    """What a search chose, then the candidates that the file holds; equal ones once.

    Only the choice has a verdict. Where it is among the first candidates its count is theirs.
    """
    choice, *candidates = problem.texts
    verdict = "right" if sum(problem.correct) else "wrong"
    counts = {choice: 0} | {text: candidates.count(text) for text in candidates}
    return [
        {
            "text": text,
            "mark": verdict if text == choice else "",
            "count": max(count, 1),
            "chosen": text == choice,
        }
        for text, count in counts.items()
    ]
