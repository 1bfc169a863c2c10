"""Metrics, rollouts and evaluations as HTML for the cells of a notebook.

All take plain data and return `Html`, a string that a notebook renders. Nothing here runs a
script, so the cells also show in a saved or exported notebook.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from posttrain.report.browse import clip, marks
from posttrain.report.curves import CURVES, learning_curves
from posttrain.report.markup import Row, folded, table
from posttrain.report.records import Completion, Group
from posttrain.report.results import evaluation as evaluation_table
from posttrain.report.run_folder import group_record, measured_record
from posttrain.report.series import number, short, spread
from posttrain.types import TraceGroup, plain_text

MAX_GROUPS = 24
MAX_TEXT = 2000
MAX_COLUMNS = 6
# What the script of a report needs and a static chart does not.
_FOR_SCRIPT = re.compile(r' (?:data-(?:series|log|unit|box|rest)|tabindex)="[^"]*"')
_MARKS = {
    "right": "✓ right",
    "wrong": "✗ wrong",
    "best": "★ best of its group",
    "chosen": "✓ chosen",
    "rejected": "✗ rejected",
    "": "",
}

Metrics = Sequence[Mapping[str, Any]]


class Html(str):
    """Markup that a notebook renders. It brings its own style."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(self)


class Rollouts(list[Any]):
    """A list of rollout groups, or of lines of rollouts.jsonl, that a notebook shows as a browser
    of completions.
    """

    def _repr_html_(self) -> str:
        return rollouts_html(self)


def result_html(
    metrics: Metrics,
    rollouts: Iterable[TraceGroup | Group | Mapping[str, Any]] = (),
    evaluation: Mapping[str, Any] | None = None,
    *,
    title: str = "",
) -> Html:
    """A whole training in one cell: its evaluation, its curves, and folded the table of metrics
    and the completions.

    Args:
        metrics: one mapping per step with the key "step". rollouts: as in `rollouts_html`.
        evaluation: as in evaluation.json. title: a line above.
    """
    parts = [f"<p><b>{escape(title)}</b></p>"] if title else []
    if evaluation is not None:
        parts.append(_evaluation(evaluation))
    parts.append(_charts(metrics))
    if metrics:
        parts.append(folded("Metrics", _table(metrics, 12)))
    groups = [_record(group) for group in rollouts]
    if groups:
        parts.append(folded("Completions", _browser(groups)))
    return _styled("".join(parts))


def metrics_table(metrics: Metrics, max_rows: int = 12) -> Html:
    """A table of the main metrics: one row per step, at most `max_rows`, evenly spread.

    Args:
        metrics: one mapping per step with the key "step", as in metrics.jsonl.
    """
    return _styled(_table(metrics, max_rows))


def _table(metrics: Metrics, max_rows: int) -> str:
    titles = {metric: _column(metric) for entry in CURVES for metric in entry.metrics}
    names = [n for n in titles if any(number(row.get(n)) is not None for row in metrics)]
    names = names[:MAX_COLUMNS]
    rows = [
        Row(f"{int(row['step']):,}", [_cell(row.get(name)) for name in names])
        for row in spread(list(metrics), max_rows)
    ]
    head = ["step", *(titles[name] for name in names)]
    return table(head, rows, "Metrics")


def _column(metric: str) -> str:
    """The name of a metric as a column's title: without its group."""
    return metric.removeprefix("completions/").replace("_", " ")


def _cell(value: Any) -> str:
    finite = number(value)
    return "" if finite is None else short(finite)


def curves(metrics: Metrics) -> Html:
    """The learning curves as inline SVG, those of a report.

    Args:
        metrics: one mapping per step with the key "step", as in metrics.jsonl.
    """
    return _styled(_charts(metrics))


def _charts(metrics: Metrics) -> str:
    charts = "".join(learning_curves(metrics))
    if not charts:
        return "<p>No metric has a number yet.</p>"
    return f'<div class="charts">{_FOR_SCRIPT.sub("", charts)}</div>'


def rollouts_html(groups: Iterable[TraceGroup | Group | Mapping[str, Any]]) -> Html:
    """Completions by prompt, each prompt folded; equal completions once, with a count.

    Args:
        groups: rollout groups of a run in memory, or lines of rollouts.jsonl. At most MAX_GROUPS
        are shown, evenly spread.
    """
    return _styled(_browser([_record(group) for group in groups]))


def _browser(records: Sequence[Group]) -> str:
    shown = spread(records, MAX_GROUPS)
    note = ""
    if len(shown) < len(records):
        note = f"<p>{len(shown)} of {len(records):,} prompts, spread evenly.</p>"
    folds = "".join(_group(group, opened=i == 0) for i, group in enumerate(shown))
    return note + (folds or "<p>No completion was recorded.</p>")


def _record(group: TraceGroup | Group | Mapping[str, Any]) -> Group:
    if isinstance(group, Group):
        return group
    if isinstance(group, Mapping):
        return group_record(dict(group))
    example = group.example
    completions = tuple(
        Completion(
            r.text,
            r.reward,
            r.rewards,
            r.advantage,
            len(r.sample.ids),
            r.sample.finish_reason,
            r.error,
        )
        for r in group.traces
    )
    answer = None if example.answer is None else str(example.answer)
    return Group(None, example.id, plain_text(example.prompt), answer, completions)


def _group(group: Group, *, opened: bool) -> str:
    """One prompt with its completions, the highest reward first."""
    rewards = [r for c in group.completions if (r := number(c.reward)) is not None]
    facts = [f"step {group.step}"] if group.step is not None else []
    facts.append(f"{len(group.completions)} completions")
    facts += [f"mean reward {short(sum(rewards) / len(rewards))}"] if rewards else []
    line = " ".join(group.prompt.split())
    summary = f"{escape(clip(line, 90))} <small>{escape(' · '.join(facts))}</small>"
    answer = "" if group.answer is None else f"<p>gold answer <b>{escape(group.answer)}</b></p>"
    cards = "".join(_cards(group))
    return (
        f"<details{' open' if opened else ''}><summary>{summary}</summary>"
        f"<pre>{escape(clip(group.prompt, MAX_TEXT))}</pre>{answer}"
        f'<div class="cards">{cards}</div></details>'
    )


def _cards(group: Group) -> list[str]:
    counts: dict[tuple[Any, ...], int] = {}
    first: dict[tuple[Any, ...], tuple[Completion, str]] = {}
    for completion, mark in zip(group.completions, marks(group), strict=True):
        same = (completion.text, mark, completion.reward, completion.finish_reason)
        counts[same] = counts.get(same, 0) + 1
        first.setdefault(same, (completion, mark))
    order = sorted(first, key=lambda same: -(number(same[2]) or 0.0))
    return [_card(*first[same], counts[same]) for same in order]


def _card(completion: Completion, mark: str, count: int) -> str:
    facts = [_MARKS[mark]] if mark else []
    facts += [f"× {count}"] if count > 1 else []
    facts.append(f"reward {_cell(completion.reward) or 'none'}")
    advantage = number(completion.advantage)
    facts += [f"advantage {short(advantage)}"] if advantage is not None else []
    facts += [f"{completion.num_tokens} tokens"] if completion.num_tokens is not None else []
    facts += ["cut off"] if completion.finish_reason == "length" else []
    facts += [completion.error] if completion.error else []
    return (
        f'<div class="card {mark}"><small>{escape(" · ".join(facts))}</small>'
        f"<pre>{escape(clip(completion.text, MAX_TEXT))}</pre></div>"
    )


def evaluation_html(values: Mapping[str, Any]) -> Html:
    """The metrics of an evaluation with their intervals, and how its search chose.

    Args:
        values: as in evaluation.json (`Evaluation.to_json()`).
    """
    return _styled(_evaluation(values))


def _evaluation(values: Mapping[str, Any]) -> str:
    measured = measured_record(dict(values))
    facts = [measured.task, measured.problems_text]
    facts += [measured.strategy] if measured.strategy else []
    return f"<p>{escape(' · '.join(facts))}</p>{evaluation_table(measured)}"


def _styled(inside: str) -> Html:
    style = files("posttrain.report").joinpath("notebook.css").read_text(encoding="utf-8")
    return Html(f'<div class="posttrain"><style>{style}</style>{inside}</div>')
