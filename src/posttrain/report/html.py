"""report.html: one page that holds everything a run has to show, and needs nothing from anywhere else."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from posttrain.report.charts import curve, finite_points, intervals
from posttrain.report.run_folder import RunFolder, read_run
from posttrain.report.tables import p_text, percent

MAX_GROUPS = 160
MAX_TEXT = 4000

# Metric -> title of its curve, in the order of the page.
_CURVES = {
    "loss": "loss",
    "eval_loss": "held-out loss",
    "reward": "reward",
    "kl": "KL to the reference (nats)",
    "entropy": "entropy (nats a token)",
    "completions/mean_length": "completion length (tokens)",
    "completions/clipped_ratio": "share cut off",
    "frac_reward_zero_std": "share of groups without signal",
    "clip_ratio/region_mean": "share of clipped tokens",
    "grad_norm": "gradient norm",
    "learning_rate": "learning rate",
    "tokens_per_second": "distinct tokens a second",
    "sampling/sampling_logp_difference/max": "largest sampler-trainer gap (nats)",
}


def write_report(folder: Path) -> Path:
    """Write report.html into a run folder and return its path.

    Raises:
        DataError: the folder holds no run, or a broken file.
    """
    run = read_run(folder)
    target = folder / "report.html"
    partial = folder / ".report.html.partial"
    partial.write_text(page(run), encoding="utf-8")
    partial.replace(target)
    return target


def write_picture(folder: Path, target: Path) -> None:
    """Write the interval chart of a pipeline's stages as an SVG file."""
    summary = read_run(folder).summary
    rows = summary["rows"] if summary else []
    target.write_text(intervals(rows, standalone=True) + "\n", encoding="utf-8")


def page(run: RunFolder) -> str:
    """The page as text."""
    title = run.summary["title"] if run.summary else run.path.name
    sections = [_head(run, title)]
    if run.summary and run.summary["rows"]:
        sections.append(_stages(run.summary["rows"]))
    elif run.evaluation:
        sections.append(_evaluation(run.evaluation))
    for number, stage in enumerate([run, *run.stages]):
        sections += _training(stage, number, title if stage is run else stage.path.name)
    style = files("posttrain.report").joinpath("page.css").read_text(encoding="utf-8")
    script = files("posttrain.report").joinpath("page.js").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} - posttrain</title><style>{style}</style></head><body><main>"
        f"{''.join(sections)}</main><script>{script}</script></body></html>\n"
    )


def _head(run: RunFolder, title: str) -> str:
    command = f'<p class="dim"><code>{escape(run.command)}</code></p>' if run.command else ""
    recipe = f"<details><summary>recipe</summary><pre>{escape(run.recipe)}</pre></details>" if run.recipe else ""
    return f"<h1>{escape(title)}</h1>{command}{recipe}"


def _stages(rows: list[dict[str, Any]]) -> str:
    ks = sorted({k for row in rows for k in row["pass@k"]}, key=int)[-2:]
    votes = sorted({k for row in rows for k in row["maj@k"]}, key=int)[-1:]
    head = [
        "stage",
        "accuracy",
        "95 % interval",
        "p vs above",
        *(f"pass@{k}" for k in ks),
        *(f"maj@{k}" for k in votes),
    ]
    head += ["tokens a problem", "seconds"]
    body = []
    for row in rows:
        cells = [
            row["stage"],
            f"{row['accuracy']:.1%}",
            f"{row['low']:.1%} to {row['high']:.1%}",
            p_text(row["p_value"]),
        ]
        cells += [percent(row["pass@k"].get(k)) for k in ks] + [percent(row["maj@k"].get(k)) for k in votes]
        cells += [f"{row['mean_tokens']:.0f}", "" if row["seconds"] is None else f"{row['seconds']:.0f}"]
        body.append("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in cells) + "</tr>")
    note = "Each stage is compared with the one above on the same problems (paired bootstrap, two-sided)."
    return (
        f'<h2>Stages</h2><div class="scroll"><table><thead><tr>{"".join(f"<th scope=col>{escape(h)}</th>" for h in head)}'
        f'</tr></thead><tbody>{"".join(body)}</tbody></table></div>{intervals(rows)}<p class="dim">{note}</p>'
    )


def _evaluation(evaluation: dict[str, Any]) -> str:
    rows = []
    for name, value in evaluation["metrics"].items():
        if isinstance(value, dict):
            cells = (name, f"{value['estimate']:.1%}", f"{value['low']:.1%} to {value['high']:.1%}")
        elif name in ("truncated", "unparsed"):
            cells = (name, f"{value:.1%}", "")
        else:
            cells = (name, f"{value:.4g}", "")
        rows.append("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in cells) + "</tr>")
    what = f"{evaluation['task']}: {evaluation['num_examples']} problems, {evaluation['num_samples']} samples each"
    return (
        f'<h2>Evaluation</h2><p class="dim">{escape(what)}</p><div class="scroll"><table><thead><tr><th scope=col>metric</th>'
        f"<th scope=col>value</th><th scope=col>95 % interval</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _training(run: RunFolder, number: int, name: str) -> list[str]:
    """Curves and rollouts of a run that trained."""
    charts = []
    steps = [row.get("step") for row in run.metrics]
    rewards = sorted({k for row in run.metrics for k in row if k.startswith("rewards/") and k.endswith("/mean")})
    titles = {**_CURVES, **({k: k for k in rewards} if len(rewards) > 1 else {})}
    for key, title in titles.items():
        points = finite_points(steps, [row.get(key) for row in run.metrics])
        if points:
            charts.append(curve(title, points, _reward_band(run) if key == "reward" else None))
    if not charts:
        return []
    errors = sum(row.get("rewards/errors") or 0 for row in run.metrics)
    warning = f'<p class="dim">{errors:.0f} completions got no reward because a reward function failed.</p>' if errors else ""
    parts = [f'<h2>Training: {escape(name)}</h2>{warning}<div class="charts">{"".join(charts)}</div>']
    if run.rollouts:
        parts.append(_rollouts(run, f"rollouts-{number}"))
    return parts


def _reward_band(run: RunFolder) -> list[tuple[float, float, float]]:
    rows = [r for r in run.metrics if isinstance(r.get("reward"), float) and isinstance(r.get("reward_std"), float)]
    band = [(float(r["step"]), r["reward"] - r["reward_std"], r["reward"] + r["reward_std"]) for r in rows]
    every = max(1, len(band) // 150)
    return band[::every]


def _rollouts(run: RunFolder, name: str) -> str:
    groups = run.rollouts
    if len(groups) > MAX_GROUPS:  # spread over the run, so that early and late behaviour can be compared
        groups = [groups[i * (len(groups) - 1) // (MAX_GROUPS - 1)] for i in range(MAX_GROUPS)]
    for group in groups:
        for completion in group["completions"]:
            if len(completion["text"]) > MAX_TEXT:
                completion["text"] = completion["text"][:MAX_TEXT] + f" … ({len(completion['text'])} characters in all)"
    # "<" is written as an escape, so that no text can end the script element that carries it.
    data = json.dumps(groups, ensure_ascii=False).replace("<", "\\u003c")
    return (
        f'<h3>Sampled completions</h3><div data-rollouts="{name}"><div class="picker"><label>step<select></select></label>'
        '<label>prompt<select></select></label><button type="button" data-move="previous">previous</button>'
        '<button type="button" data-move="next">next</button></div><div class="view" aria-live="polite"></div></div>'
        f'<script type="application/json" id="{name}">{data}</script>'
    )
