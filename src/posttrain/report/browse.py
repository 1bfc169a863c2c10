"""What the page's browsers hold: sampled groups of the run, and problems with every stage's
samples side by side.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from posttrain.report.run_folder import Group, Measured, Problem
from posttrain.report.series import number, spread

MAX_BYTES = 160_000
MAX_TEXT = 4000
MAX_GROUPS = 160
MAX_PROBLEMS = 40

# Rewards that say whether a completion is right; others (format, length, keywords) only say how
# good it is.
_VERIFIERS = ("task", "exact", "math")


def safe_json(values: Any) -> str:
    """JSON that may stand inside a script element: without "<", no text of it can end that
    element.
    """
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace(
        "<", "\\u003c"
    )


def clip(text: str, limit: int) -> str:
    """The start and the end of a long text (the end is where the answer stands)."""
    if len(text) <= limit:
        return text
    head, tail = limit * 3 // 4, limit // 4
    return (
        f"{text[:head]}\n[… {len(text) - head - tail:,} characters left out "
        f"…]\n{text[len(text) - tail :]}"
    )


def sampled_groups(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Groups for the page: evenly spread over the run and clipped until they fit MAX_BYTES."""
    kept, limit = spread(groups, MAX_GROUPS), MAX_TEXT
    while True:
        plain = [_group(g, limit) for g in kept]
        if len(safe_json(plain)) <= MAX_BYTES or (len(kept) <= 4 and limit <= 250):
            return plain
        # Few groups with their whole texts tell less than many with clipped ones, down to a point.
        if limit > 1000 or len(kept) <= 24:
            limit = max(limit // 2, 250)
        if len(kept) > 4:
            kept = spread(kept, max(4, len(kept) * 3 // 4))


def marks(group: Group) -> list[str]:
    """For each completion: "right", "wrong", or, where no reward verifies, "best" for the
    group's highest reward.
    """
    verdicts = [
        [c.rewards[v] for v in _VERIFIERS if c.rewards.get(v) is not None]
        for c in group.completions
    ]
    rewards = [c.reward for c in group.completions if c.reward is not None]
    best = max(rewards) if len(set(rewards)) > 1 else None
    out = []
    for completion, verdict in zip(group.completions, verdicts, strict=True):
        if verdict:
            out.append("right" if all((v or 0) >= 1 for v in verdict) else "wrong")
        else:
            out.append("best" if best is not None and completion.reward == best else "")
    return out


def _group(group: Group, limit: int) -> dict[str, Any]:
    return {
        "step": group.step,
        "id": group.id,
        "prompt": clip(group.prompt, limit),
        "answer": group.answer,
        "completions": [
            {
                "text": clip(c.text, limit),
                "mark": mark,
                "reward": number(c.reward),
                "rewards": {k: number(v) for k, v in c.rewards.items()}
                if len(c.rewards) > 1
                else {},
                "advantage": number(c.advantage),
                "num_tokens": c.num_tokens,
                "cut": c.finish_reason == "length",
                "error": c.error,
            }
            for c, mark in zip(group.completions, marks(group), strict=True)
        ],
    }


def same_problems(stages: Sequence[tuple[str, Measured]]) -> list[dict[str, Any]]:
    """Problems that every stage was measured on, with each stage's share of right samples and
    its first texts.
    """
    known = [
        {(p.id, p.prompt, p.answer): p for p in measured.problems if p.texts}
        for _, measured in stages
    ]
    common = [name for name in known[0] if all(name in k for k in known)] if known else []
    chosen, limit = spread(common, MAX_PROBLEMS), MAX_TEXT
    while True:
        plain = []
        for name in chosen:
            columns = [
                {
                    "stage": stage,
                    "right": sum(k[name].correct),
                    "samples": len(k[name].correct),
                    "texts": _texts(k[name], measured, limit),
                }
                for (stage, measured), k in zip(stages, known, strict=True)
            ]
            first = known[0][name]
            plain.append(
                {"prompt": clip(first.prompt, limit), "answer": first.answer, "stages": columns}
            )
        if len(safe_json(plain)) <= MAX_BYTES or (len(chosen) <= 4 and limit <= 250):
            return plain
        limit, chosen = max(limit // 2, 250), spread(chosen, max(4, len(chosen) * 3 // 4))


def _texts(problem: Problem, measured: Measured, limit: int) -> list[list[Any]]:
    """[text, 1 right / 0 wrong / None unknown] of the first samples. A search is right or wrong
    as a whole.
    """
    verdicts = [None] * len(problem.texts) if measured.search else [int(c) for c in problem.correct]
    return [[clip(t, limit), v] for t, v in zip(problem.texts, verdicts, strict=False)][:3]
