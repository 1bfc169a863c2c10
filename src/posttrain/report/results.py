"""Sections of a page that show results: stages, an evaluation, the measures of a reward model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from posttrain.report.charts import by_samples
from posttrain.report.intervals import intervals
from posttrain.report.markup import Row, paragraphs, table
from posttrain.report.records import Interval, Measured, RewardMeasured, StageRow
from posttrain.report.tables import (
    SIGNIFICANT,
    best_k,
    count,
    interval_text,
    oracle_text,
    oracles,
    p_text,
    percent,
    searches,
    time_text,
    verdicts,
)

_NOTE = (
    "change: points of accuracy against the previous stage, compared on the same problems. p: "
    "paired bootstrap, or McNemar's exact test where each problem has one outcome (two-sided). "
    "tokens per answer: of one completion, or of all that a search samples for it."
)
_SHARES = ("truncated", "unparsed")
_LABELS = {
    "truncated": "completions cut off",
    "unparsed": "completions without an answer",
    "errors": "verifier errors",
}
_REWARD_LABELS = {
    "ece": "calibration error",
    "brier": "Brier score",
    "auc": "AUC",
    "mse": "mean squared error",
    "correlation": "correlation with the reward",
    "length_correlation": "correlation with the length",
    "accuracy_rejected_longer": "accuracy where the rejected one is longer",
    "accuracy_rejected_shorter": "accuracy where the rejected one is shorter",
    "best": "accuracy of the highest score",
    "first_error_error": "first wrong steps named exactly",
    "first_error_correct": "right solutions without a wrong step",
    "first_error_f1": "F1 of the two",
}


def stages(rows: Sequence[StageRow]) -> str:
    """The table of a pipeline's stages, what it means in words, and the intervals."""
    passes, votes = best_k([r.pass_at for r in rows]), best_k([r.maj_at for r in rows])
    head = ["stage", "accuracy", "95% interval", "change", "p (paired)"]
    head += [f"pass@{passes}"] * bool(passes) + [f"maj@{votes}"] * bool(votes)
    head += ["tokens per answer", "time"]
    body = []
    for i, row in enumerate(rows):
        change = row.accuracy - rows[i - 1].accuracy if i else 0.0
        significant = row.p_value is not None and row.p_value < SIGNIFICANT and not row.oracle
        colour = ("good" if change > 0 else "bad") if significant else ""
        cells = [percent(row.accuracy), interval_text(row)]
        cells += [f"{100 * change:+.1f}" if i else "", p_text(row.p_value)]
        cells += [percent(row.pass_at.get(passes))] if passes else []
        cells += [percent(row.maj_at.get(votes))] if votes else []
        cells += [count(row.mean_tokens), time_text(row.seconds)]
        body.append(Row(row.label, cells, ["strong", "", colour]))
    chart = (
        '<figure class="stages"><figcaption>Accuracy with 95% '
        f"intervals</figcaption>{intervals(rows)}</figure>"
    )
    return (
        paragraphs([*verdicts(rows), *oracles(rows)])
        + paragraphs(searches(rows), dim=True)
        + table(head, body, "Stages")
        + paragraphs([_NOTE], dim=True)
        + chart
    )


def evaluation(measured: Measured) -> str:
    """All metrics of one evaluation, and how its search chose."""
    named = sorted(measured.intervals.items(), key=lambda item: item[0].startswith("maj@"))
    rows = [
        Row(name, [percent(v.estimate), _ends(v, "%")], ["strong"] * (name == "accuracy"))
        for name, v in named
    ]
    for name, value in measured.numbers.items():
        label = _LABELS.get(name, name.replace("_", " "))
        if name == "mean_tokens":
            label = "tokens per problem" if measured.search else "tokens per completion"
        text = percent(value) if name in _SHARES else f"{value:,.4g}"
        rows.append(Row(label, [text, ""]))
    head = ["metric", "value", "95% interval"]
    return paragraphs(_search_lines(measured)) + table(head, rows, "Evaluation")


def _ends(interval: Interval, unit: str = "") -> str:
    if unit == "%":
        return f"{interval.low:.1%} to {interval.high:.1%}"
    return f"{interval.low:.3f} to {interval.high:.3f}"


def _search_lines(measured: Measured) -> list[str]:
    """The search with all its settings, and whether the gold answer chose."""
    if not measured.search:
        return []
    settings = "; ".join(f"{k}: {v}" for k, v in measured.search_settings.items())
    lines = [f"Search: {measured.search}{f' ({settings})' if settings else ''}."]
    if measured.scorer:
        named = ", ".join(f"{k}: {v}" for k, v in measured.scorer.items() if k != "name")
        lines.append(f"Scorer: {measured.scorer['name']}{f' ({named})' if named else ''}.")
    if measured.oracle:
        lines.append(oracle_text("Oracle", measured.search_settings.get("num_samples")))
    return lines


def reward_model(measured: RewardMeasured) -> str:
    """How good the scores of a reward model are: on held-out rows, and for best of N."""
    parts = []
    if measured.on_rows:
        rows = []
        for name, value in measured.on_rows.items():
            label = _REWARD_LABELS.get(name, name.replace("_", " "))
            if isinstance(value, Interval):
                cells = [percent(value.estimate), _ends(value, "%")]
            else:
                cells = [f"{value:.3f}", ""]
            rows.append(Row(label, cells, ["strong"] * (name == "accuracy")))
        where = f"{measured.rows:,} held-out rows of format {measured.format}."
        head = ["measure", "value", "95% interval"]
        parts.append(paragraphs([where], dim=True) + table(head, rows, "Reward model on rows"))
    if measured.curve:
        parts.append(_best_of(measured))
    return "".join(parts)


def _best_of(measured: RewardMeasured) -> str:
    gain = measured.gain
    lines = []
    if gain is not None:
        p = p_text(measured.p_value)
        lines.append(
            f"Best of {measured.num_samples} by score against one sample: {gain.estimate:+.3f} "
            f"reward (95% interval {gain.low:+.3f} to {gain.high:+.3f}, paired, "
            f"p {p if p.startswith('<') else f'= {p}'}), on {measured.problems:,} problems."
        )
    rows = [
        Row(
            f"best of {point.n}",
            [
                f"{point.reward.estimate:.3f}",
                _ends(point.reward),
                f"{point.ceiling:.3f}",
                f"{point.score:.3f}",
                f"{point.kl:.3f}",
            ],
            ["strong"],
        )
        for point in measured.curve
    ]
    head = ["choice by score", "reward", "95% interval", "best possible", "score", "KL bound, nats"]
    series = [
        ("choice by score", {point.n: point.reward for point in measured.curve}),
        (
            "best possible",
            {p.n: Interval(p.ceiling, p.ceiling, p.ceiling) for p in measured.curve},
        ),
    ]
    chart = by_samples("reward of the best of N", series, unit="")
    note = (
        "Where the score still rises with N and the reward falls, the reward model is being "
        "exploited."
    )
    return (
        f"<h3>Best of N</h3>{paragraphs(lines)}{table(head, rows, 'Best of N')}"
        f'{paragraphs([note], dim=True)}<div class="charts two">{chart}</div>'
    )


def sample_curves(
    measured: Sequence[tuple[str, Measured]], colours: Mapping[str, int] | None = None
) -> str:
    """pass@k (any of k is right) and maj@k (the vote of k is right), one curve per stage.

    colours: the number of each stage's colour; left out, the order of `measured`.
    """
    numbers = colours or {stage: i for i, (stage, _) in enumerate(measured)}
    charts = []
    for name, title in (
        ("pass", "pass@k: any of k samples is right"),
        ("maj", "maj@k: the vote of k samples is right"),
    ):
        series = [
            (stage, _with_one_sample(m, m.by_k(name)))
            for stage, m in measured
            if len(m.by_k(name)) > 1
        ]
        if series:
            order = [numbers[stage] for stage, _ in series]
            charts.append(by_samples(title, series, colours=order))
    return f'<div class="charts two">{"".join(charts)}</div>' if charts else ""


def _with_one_sample(measured: Measured, values: dict[int, Interval]) -> dict[int, Interval]:
    """k = 1 is the accuracy, where the accuracy is of single samples."""
    accuracy = measured.intervals.get("accuracy")
    return {1: accuracy, **values} if accuracy and not measured.search else values
