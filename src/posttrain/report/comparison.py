"""What two or more runs have in common and where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import yaml

from posttrain.report.curves import CURVES, compared_curves
from posttrain.report.markup import Row, folded, table
from posttrain.report.records import RunFolder
from posttrain.report.series import number, short
from posttrain.report.tables import percent, time_text

Named = Sequence[tuple[str, RunFolder]]

# Steps whose mean stands for a run's last value: one step of RL is too noisy to compare.
_LAST_STEPS = 5
# More differences than these are folded.
_MAX_DIFFERENCES = 15
_COMPARED = (
    "reward",
    "rewards/accuracies",
    "rewards/margins",
    "accuracy",
    "eval_accuracy",
    "loss",
    "eval_loss",
    "kl",
    "completions/mean_length",
    "memory/peak_mib",
)


def compared(runs: Named) -> tuple[str, str, str]:
    """Charts with one line per run, a table of results, and the recipes' differences."""
    charts = compared_curves([(name, run.metrics) for name, run in runs])
    body = f'<div class="charts">{"".join(charts)}</div>' if charts else ""
    return body, _results(runs), _recipes(runs)


def _results(runs: Named) -> str:
    """A row for each run: its accuracy, and the means of its last steps."""
    titles = {key: entry.title for entry in CURVES for key in entry.metrics}
    keys = [key for key in _COMPARED if any(_last(run, key) is not None for _, run in runs)]
    evaluated = any(run.evaluation for _, run in runs)
    head = ["run", *(["accuracy", "95% interval"] if evaluated else [])]
    for key in keys:
        held_out = key.startswith("eval_") and key != "eval_loss"
        title = titles[key].partition(" ±")[0].partition(":")[0]
        head.append(f"{title} (held out)" if held_out else title)
    rows = []
    for name, run in runs:
        cells = _accuracy(run) if evaluated else []
        for key in keys:
            value = _last(run, key)
            cells.append("" if value is None else short(value))
        steps = int(run.metrics[-1]["step"]) if run.metrics else 0
        seconds = sum(number(row.get("step_time")) or 0 for row in run.metrics)
        cells += [f"{steps:,}" if steps else "", time_text(seconds) if seconds else ""]
        rows.append(Row(name, cells, ["strong"] if evaluated else []))
    note = f'<p class="dim">Metrics of training: mean over the last {_LAST_STEPS} steps.</p>'
    return table([*head, "steps", "time"], rows, "Runs") + (note if keys else "")


def _accuracy(run: RunFolder) -> list[str]:
    interval = run.evaluation.intervals.get("accuracy") if run.evaluation else None
    if interval is None:
        return ["", ""]
    return [percent(interval.estimate), f"{interval.low:.1%} to {interval.high:.1%}"]


def _last(run: RunFolder, key: str) -> float | None:
    values = [v for row in run.metrics if (v := number(row.get(key))) is not None]
    last = values[-_LAST_STEPS:]
    return sum(last) / len(last) if last else None


def _recipes(runs: Named) -> str:
    """The keys whose values differ, one column per run; and each whole recipe, folded."""
    plain = [_flat(_loaded(run.recipe)) for _, run in runs]
    names = [name for name, _ in runs]
    rows = []
    for key in dict.fromkeys(key for values in plain for key in values):
        texts = [str(values.get(key, "")) for values in plain]
        if len(set(texts)) > 1 and key not in ("output", "title"):
            rows.append(Row(key, texts))
    body = '<p class="dim">The recipes differ in nothing but their output.</p>'
    if rows:
        body = table(["key", *names], rows, "Differences of the recipes", words=True)
    if len(rows) > _MAX_DIFFERENCES:
        body = folded(f"{len(rows)} keys differ", body)
    whole = "".join(
        folded(name, f"<pre tabindex=0>{escape(run.recipe)}</pre>")
        for name, run in runs
        if run.recipe
    )
    return body + whole if any(run.recipe for _, run in runs) else ""


def _loaded(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return {}


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings by dotted keys."""
    if not isinstance(values, Mapping):
        return {prefix: values} if prefix else {}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
