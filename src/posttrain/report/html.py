"""report.html: one page that holds everything a run has to show, and needs nothing from
anywhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from posttrain.files import write_text_whole
from posttrain.report.browse import safe_json, same_problems, sampled_groups
from posttrain.report.charts import Band, by_samples, curve, intervals, picture, several
from posttrain.report.losses import data_losses
from posttrain.report.run_folder import Interval, Measured, RunFolder, StageRow, read_run
from posttrain.report.series import finite_points, number
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

# Metric -> title of its curve and its unit, in the order of the page.
_CURVES = {
    "loss": ("loss", ""),
    "eval_loss": ("held-out loss", ""),
    "reward": ("reward ± standard deviation", ""),
    "kl": ("KL to the reference, nats", ""),
    "entropy": ("entropy, nats a token", ""),
    "completions/mean_length": ("completion length, tokens", ""),
    "completions/clipped_ratio": ("completions cut off", "%"),
    "frac_reward_zero_std": ("groups without signal", "%"),
    "clip_ratio/region_mean": ("clipped tokens", "%"),
    "mean_token_accuracy": ("token accuracy", "%"),
    "evaluation/accuracy": ("accuracy in evaluation", "%"),
    "grad_norm": ("gradient norm", ""),
    "learning_rate": ("learning rate", ""),
    "tokens_per_second": ("tokens a second", ""),
    "sampling/sampling_logp_difference/max": ("largest gap of sampler and trainer, nats", ""),
}
# Nothing is fetched from anywhere; the browser is told to keep it so.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def write_report(folder: Path) -> Path:
    """Write report.html into a run folder and return its path.

    Raises:
        DataError: the folder holds no run, or a broken file.
    """
    text = page(read_run(folder))
    target = folder / "report.html"
    write_text_whole(
        target, text, errors="replace"
    )  # a completion may hold half of a surrogate pair
    return target


def write_picture(folder: Path, target: Path) -> None:
    """Write the interval chart of a pipeline's stages as an SVG file, for a README: readable in
    light and dark.

    Raises:
        DataError: the folder holds no run, or a broken file.
    """
    run = read_run(folder)
    rows = run.summary.rows if run.summary else ()
    measured = next((s.evaluation for s in run.stages if s.evaluation), None)
    on = f" on {measured.task}, {measured.problems_text}" if measured else ""
    write_text_whole(target, picture(f"{run.title}: accuracy{on}, 95% intervals", rows) + "\n")


def page(run: RunFolder) -> str:
    """The page as text."""
    names = {row.folder: row.label for row in run.summary.rows} if run.summary else {}
    stages = [(names.get(s.path.name, s.path.name), s) for s in run.stages]
    everything = [(run.title, run), *stages]
    sections: list[tuple[str, str]] = []
    if run.summary and run.summary.rows:
        sections.append(("Result", _result(run.summary.rows)))
    elif run.evaluation:
        sections.append(("Result", _evaluation(run.evaluation)))
    measured = [(name, s.evaluation) for name, s in everything if s.evaluation]
    sections.append(("More samples", _more_samples(measured)))
    for i, (name, stage) in enumerate(everything):
        label = f"Training: {name}" if stage is not run else "Training"
        sections.append((label, _training(stage, i, show_recipe=stage is not run)))
    sections.append(("Problems", _problems(measured)))
    sections.append(("What went wrong", _failures(everything)))
    sections = [(title, body) for title, body in sections if body]
    links = "".join(
        f'<a href="#part-{i}">{escape(title)}</a>' for i, (title, _) in enumerate(sections)
    )
    bodies = "".join(
        f'<section id="part-{i}"><h2>{escape(title)}</h2>{body}</section>'
        for i, (title, body) in enumerate(sections)
    )
    style = files("posttrain.report").joinpath("page.css").read_text(encoding="utf-8")
    script = files("posttrain.report").joinpath("page.js").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(run.title)} - posttrain</title><style>{style}</style></head><body><main>"
        f'{_head(run, measured)}<nav aria-label="Parts of this page">{links}</nav>{bodies}</main>'
        f"<script>{script}</script></body></html>\n"
    )


def _head(run: RunFolder, measured: Sequence[tuple[str, Measured]]) -> str:
    command = run.command or (run.summary.command if run.summary else "")
    parts = [f"<h1>{escape(run.title)}</h1>"]
    if measured:
        one = measured[0][1]
        samples = max(m.num_samples for _, m in measured)
        facts = [one.task, one.problems_text]
        facts += (
            [f"{samples} sample{'s' * (samples > 1)} each"]
            if not all(m.search for _, m in measured)
            else []
        )
        facts += [one.strategy] if len(measured) == 1 and one.strategy else []
        if "temperature" in one.sampling:
            facts.append(f"temperature {one.sampling['temperature']:g}")
        parts.append(f'<p class="dim">{escape(" · ".join(facts))}</p>')
    if run.summary and len(run.summary.rows) > 1:
        reachable = [row for row in run.summary.rows if not row.oracle]  # an oracle is no result
        parts += [_headline(reachable[0], reachable[-1])] if len(reachable) > 1 else []
    if command:
        parts.append(f"<pre class=command>{escape(command)}</pre>")
    return f"<header>{''.join(parts)}{_recipe(run)}</header>"


def _headline(first: StageRow, last: StageRow) -> str:
    return (
        f'<p class="headline"><span><b>{percent(first.accuracy)}</b> {escape(first.stage)}</span>'
        f'<span><i aria-label="to">→</i> <b>{percent(last.accuracy)}</b> '
        f"{escape(last.stage)}</span></p>"
    )


def _recipe(run: RunFolder) -> str:
    if not run.recipe:
        return ""
    text = run.recipe.split("\n", 1)[1] if run.command and "\n" in run.recipe else run.recipe
    return f"<details><summary>Recipe</summary><pre tabindex=0>{escape(text)}</pre></details>"


def _table(head: Sequence[str], rows: Sequence[str], caption: str) -> str:
    cells = "".join(f'<th scope="col">{escape(h)}</th>' for h in head)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(first: str, cells: Sequence[str], classes: Sequence[str] = ()) -> str:
    named = [*classes, *[""] * (len(cells) - len(classes))]
    plain = "".join(
        f'<td class="{n}">{escape(c)}</td>' if n else f"<td>{escape(c)}</td>"
        for c, n in zip(cells, named, strict=True)
    )
    return f'<tr><th scope="row">{escape(first)}</th>{plain}</tr>'


def _result(rows: Sequence[StageRow]) -> str:
    passes, votes = best_k([r.pass_at for r in rows]), best_k([r.maj_at for r in rows])
    head = ["stage", "accuracy", "95% interval", "vs above", "p (paired)"]
    head += (
        [f"pass@{passes}"] * bool(passes)
        + [f"maj@{votes}"] * bool(votes)
        + ["tokens per answer", "time"]
    )
    body = []
    for i, row in enumerate(rows):
        gain = row.accuracy - rows[i - 1].accuracy if i else 0.0
        told = row.p_value is not None and row.p_value < SIGNIFICANT and not row.oracle
        cells = [
            percent(row.accuracy),
            interval_text(row),
            f"{100 * gain:+.1f}" if i else "",
            p_text(row.p_value),
        ]
        cells += [percent(row.pass_at.get(passes))] if passes else []
        cells += [percent(row.maj_at.get(votes))] if votes else []
        cells += [count(row.mean_tokens), time_text(row.seconds)]
        body.append(
            _row(row.label, cells, ["strong", "", ("good" if gain > 0 else "bad") if told else ""])
        )
    said = "".join(f"<p>{escape(line)}</p>" for line in [*verdicts(rows), *oracles(rows)])
    said += "".join(f'<p class="dim">{escape(line)}</p>' for line in searches(rows))
    note = (
        "vs above: points of accuracy, compared on the same problems (paired bootstrap, or "
        "McNemar's exact test where each "
        "problem has one outcome; two-sided). tokens per answer: of one completion, or of all "
        "that a search samples for it."
    )
    chart = (
        '<figure class="stages"><figcaption>Accuracy with 95% '
        f"intervals</figcaption>{intervals(rows)}</figure>"
    )
    return f'{said}{_table(head, body, "Stages")}<p class="dim">{note}</p>{chart}'


def _evaluation(evaluation: Measured) -> str:
    rows = [
        _row(
            name,
            [percent(v.estimate), f"{v.low:.1%} to {v.high:.1%}"],
            ["strong"] * (name == "accuracy"),
        )
        for name, v in sorted(
            evaluation.intervals.items(), key=lambda item: item[0].startswith("maj@")
        )
    ]
    for name, value in evaluation.numbers.items():
        label = name.replace("_", " ")
        if name == "mean_tokens":
            label = "tokens per problem" if evaluation.search else "tokens per completion"
        rows.append(
            _row(
                label,
                [percent(value) if name in ("truncated", "unparsed") else f"{value:,.4g}", ""],
            )
        )
    return _choice(evaluation) + _table(["metric", "value", "95% interval"], rows, "Evaluation")


def _choice(evaluation: Measured) -> str:
    """The search with all its settings, and whether the gold chose."""
    if not evaluation.search:
        return ""
    settings = "; ".join(f"{k}: {v}" for k, v in evaluation.search_settings.items())
    parts = [f"Search: {evaluation.search}{f' ({settings})' if settings else ''}."]
    if evaluation.scorer:
        named = ", ".join(f"{k}: {v}" for k, v in evaluation.scorer.items() if k != "name")
        parts.append(f"Scorer: {evaluation.scorer['name']}{f' ({named})' if named else ''}.")
    if evaluation.oracle:
        parts.append(oracle_text("Oracle", evaluation.search_settings.get("num_samples")))
    return "".join(f"<p>{escape(part)}</p>" for part in parts)


def _more_samples(measured: Sequence[tuple[str, Measured]]) -> str:
    """pass@k (any of k is right) and maj@k (the vote of k is right), a curve a stage."""
    charts = []
    for name, title in (
        ("pass", "pass@k: any of k samples is right"),
        ("maj", "maj@k: the vote of k samples is right"),
    ):
        series = [
            (stage, _from_one(m, m.by_k(name))) for stage, m in measured if len(m.by_k(name)) > 1
        ]
        if series:
            charts.append(by_samples(title, series))
    return f'<div class="charts two">{"".join(charts)}</div>' if charts else ""


def _from_one(measured: Measured, values: dict[int, Interval]) -> dict[int, Interval]:
    """One sample is the accuracy, where the accuracy is of single samples."""
    one = measured.intervals.get("accuracy")
    return {1: one, **values} if one and not measured.search else values


def _training(run: RunFolder, index: int, *, show_recipe: bool) -> str:
    """Curves and rollouts of a run that trained; nothing for one that did not."""
    charts = []
    steps = [row["step"] for row in run.metrics]
    for key, (title, unit) in _CURVES.items():
        values = [row.get(key) for row in run.metrics]
        points = finite_points(steps, values)
        if points:
            gaps = [float(r["step"]) for r in run.metrics if key in r and number(r[key]) is None]
            band, smoothed = _band(run) if key == "reward" else None, key != "learning_rate"
            charts.append(curve(title, points, band=band, gaps=gaps, unit=unit, smoothed=smoothed))
            if key == "reward":
                charts += _by_function(run)
    if not charts:
        return ""
    toggle = '<label class="toggle"><input type="checkbox" checked data-smoothing> smoothed</label>'
    seconds = sum(number(row.get("step_time")) or 0 for row in run.metrics)
    last = int(run.metrics[-1]["step"])
    facts = [f"{last:,} step{'s' * (last != 1)}", *([time_text(seconds)] if seconds else [])]
    tokens = number(run.metrics[-1].get("num_tokens"))
    facts += [f"{tokens:,.0f} tokens"] if tokens else []
    parts = [f'<div class="bar"><p class="dim">{escape(" · ".join(facts))}</p>{toggle}</div>']
    parts.append(_recipe(run) if show_recipe else "")
    parts.append(f'<div class="charts">{"".join(charts)}</div>')
    if run.rollouts:
        shown = sampled_groups(run.rollouts)
        note = (
            ""
            if len(shown) == len(run.rollouts)
            else f"{len(shown)} of {len(run.rollouts):,} groups, over the whole run"
        )
        parts.append(
            "<h3>Sampled completions <span "
            f'class="dim">{note}</span></h3>{_browser("rollouts", index, shown)}'
        )
    return "".join(parts)


def _band(run: RunFolder) -> Band:
    rows = [(r["step"], number(r.get("reward")), number(r.get("reward_std"))) for r in run.metrics]
    return [
        (float(s), mean - std, mean + std)
        for s, mean, std in rows
        if mean is not None and std is not None
    ]


def _by_function(run: RunFolder) -> list[str]:
    """Rewards by function, where there are several."""
    keys = sorted(
        {k for row in run.metrics for k in row if k.startswith("rewards/") and k.endswith("/mean")}
    )
    steps = [row["step"] for row in run.metrics]
    series = [
        (k.split("/")[1], finite_points(steps, [row.get(k) for row in run.metrics])) for k in keys
    ]
    series = [(name, points) for name, points in series if points]
    return [several("rewards by function", series)] if len(series) > 1 else []


def _browser(kind: str, index: int, values: object) -> str:
    """Data and an empty place; the script fills it in."""
    name = f"{kind}-{index}"
    return (
        f'<div class="browser" data-browse="{kind}" data-from="{name}"><noscript>Needs '
        "JavaScript.</noscript></div>"
        f'<script type="application/json" id="{name}">{safe_json(values)}</script>'
    )


def _problems(measured: Sequence[tuple[str, Measured]]) -> str:
    problems = same_problems(measured)
    if not problems:
        return ""
    note = (
        "The same problem, answered by each stage."
        if len(measured) > 1
        else "What the model answered."
    )
    return f'<p class="dim">{note}</p>{_browser("problems", 0, problems)}'


def _failures(runs: Sequence[tuple[str, RunFolder]]) -> str:
    found = [(name, *cells) for name, run in runs for cells in _failures_of(run)]
    rows = [
        _row(first, rest) for first, *rest in (found if len(runs) > 1 else [f[1:] for f in found])
    ]
    if not rows:
        return (
            "<p>Nothing: no row of the data was cut or dropped, no reward failed, no completion "
            "was cut off, "
            "every metric was a number.</p>"
        )
    head = ["stage", "what", "how much"] if len(runs) > 1 else ["what", "how much"]
    return _table(head, rows, "Failures").replace("<table>", '<table class="words">')


def _failures_of(run: RunFolder) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    def mean(key: str) -> float:
        values = [v for row in run.metrics if (v := number(row.get(key))) is not None]
        return sum(values) / len(values) if values else 0.0

    found += data_losses(run)
    failed = sum(number(row.get("rewards/errors")) or 0 for row in run.metrics)
    if failed:
        found.append(("reward functions that failed", f"{failed:,.0f} completions got no reward"))
    messages = Counter(c.error for g in run.rollouts for c in g.completions if c.error)
    found += [
        (f"of these sampled: {error[:200]}", f"{n} times") for error, n in messages.most_common(5)
    ]
    for key, label in (
        ("completions/clipped_ratio", "cut off at the length limit"),
        ("frac_reward_zero_std", ""),
    ):
        if mean(key) >= 0.0005:
            what = (
                f"completions {label}"
                if label
                else "groups whose rewards are all equal (nothing to learn from)"
            )
            found.append((what, f"{mean(key):.1%} in training"))
    broken = Counter(
        key for row in run.metrics for key, v in row.items() if number(v) is None and v is not True
    )
    found += [
        (f"{key} was not a number", f"at {n} of {len(run.metrics)} steps")
        for key, n in broken.most_common(5)
    ]
    for name, label in (
        ("truncated", "samples cut off at the length limit"),
        ("unparsed", "samples without an answer"),
    ):
        share = run.evaluation.numbers.get(name, 0.0) if run.evaluation else 0.0
        if share >= 0.0005:
            found.append((label, f"{share:.1%} in evaluation"))
    if run.evaluation and run.evaluation.numbers.get("errors"):
        found.append(("verifier errors in evaluation", f"{run.evaluation.numbers['errors']:,.0f}"))
    found += [
        (f"{name} ends in a half-written line", "the run was killed while writing")
        for name in run.cut_off
    ]
    return found
