"""report.html: one page that shows everything in a run's folder and loads nothing from anywhere
else.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from posttrain.files import write_text_whole
from posttrain.report.browse import browsable_groups, same_problems
from posttrain.report.comparison import compared
from posttrain.report.continual import benchmark
from posttrain.report.curves import learning_curves, other_curves
from posttrain.report.failures import failures
from posttrain.report.forgetting import ledger
from posttrain.report.hacking import watch_section
from posttrain.report.intervals import picture
from posttrain.report.markup import browser, folded, recipe, switch
from posttrain.report.records import Measured, RunFolder, StageRow
from posttrain.report.results import evaluation, reward_model, sample_curves, stages
from posttrain.report.run_folder import read_run
from posttrain.report.sequences import sequences
from posttrain.report.series import number
from posttrain.report.tables import percent, time_text

# The browser loads nothing, whatever the texts of a run hold.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_LOG_HINT = "Charts with zero or negative values, or with values close together, stay linear."

Section = tuple[str, str]
"""Title and body."""


def write_report(runs: Path | Sequence[Path], target: Path | None = None) -> Path:
    """Write the report of a run, or one that compares several, and return its path.

    Args:
        runs: a run folder, or several. target: the file; by default report.html in the run's
        folder, and comparison.html beside the first of several.
    Raises:
        DataError: a folder holds no run, or a broken file.
    """
    folders = [runs] if isinstance(runs, Path) else list(dict.fromkeys(runs))
    if len(folders) == 1:
        target = target or folders[0] / "report.html"
        text = page(read_run(folders[0]))
    else:
        target = target or folders[0].resolve().parent / "comparison.html"
        text = comparison_page([read_run(folder) for folder in folders])
    # A completion may hold half of a surrogate pair, which cannot be encoded.
    write_text_whole(target, text, errors="replace")
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
    where = f" on {measured.task}, {measured.problems_text}" if measured else ""
    title = f"{run.title}: accuracy{where}, 95% intervals"
    write_text_whole(target, picture(title, rows) + "\n")


def page(run: RunFolder) -> str:
    """The page of one run, as text."""
    names = {row.folder: row.label for row in run.summary.rows} if run.summary else {}
    parts = [(run.title, run), *((names.get(s.path.name, s.path.name), s) for s in run.stages)]
    measured = [(name, s.evaluation) for name, s in parts if s.evaluation]
    sections: list[Section] = []
    if run.summary and run.summary.rows:
        sections.append(("Result", stages(run.summary.rows)))
    elif run.evaluation:
        sections.append(("Result", evaluation(run.evaluation)))
    for name, part in parts:
        if part.forgetting:
            title = "Forgetting" if part is run else f"Forgetting: {name}"
            sections.append((title, ledger(part.forgetting)))
        if part.continual:
            title = "Continual pretraining" if part is run else f"Continual pretraining: {name}"
            sections.append((title, benchmark(part.continual)))
        if part.sequences:
            title = "Continual learning" if part is run else f"Continual learning: {name}"
            sections.append((title, sequences(part.sequences)))
        if part.reward:
            title = "Reward model" if part is run else f"Reward model: {name}"
            sections.append((title, reward_model(part.reward)))
    sections.append(("Accuracy by number of samples", sample_curves(measured)))
    for i, (name, part) in enumerate(parts):
        title = "Training" if part is run else f"Training: {name}"
        sections.append((title, _training(part, i, show_recipe=part is not run)))
        title = "Reward hacking" if part is run else f"Reward hacking: {name}"
        sections.append((title, watch_section(part.metrics)))
        title = "Samples" if part is run else f"Samples: {name}"
        sections.append((title, _samples(part, i)))
    sections.append(("Problems", _problems(measured)))
    sections.append(("What went wrong", failures(parts)))
    return document(run.title, _head(run, measured), sections)


def comparison_page(runs: Sequence[RunFolder]) -> str:
    """The page that compares several runs, as text."""
    named = _named(runs)
    names = [name for name, _ in named]
    title = " and ".join(names) if len(names) <= 3 else f"Comparison of {len(names)} runs"
    measured = [(name, run.evaluation) for name, run in named if run.evaluation]
    head = f"<header><h1>{escape(title)}</h1></header>"
    charts, result, recipes = compared(named)
    colours = {name: i for i, name in enumerate(names)}
    sections = [
        ("Runs", result),
        ("Accuracy by number of samples", sample_curves(measured, colours)),
        ("Training", _switches(charts) + charts if charts else ""),
        ("Problems", _problems(measured)),
        ("Recipes", recipes),
        ("What went wrong", failures(named)),
    ]
    return document(title, head, sections)


def _named(runs: Sequence[RunFolder]) -> list[tuple[str, RunFolder]]:
    """Runs by name, a pipeline as its stages. The name is the folder's; where two are alike, the
    parent's name stands before it.
    """
    parts = [
        (f"{run.path.resolve().name}/{part.path.name}" if part is not run else "", part)
        for run in runs
        for part in (run.stages or [run])
    ]
    names = [name or part.path.resolve().name for name, part in parts]
    longer = ["/".join(part.path.resolve().parts[-2:]) for _, part in parts]
    labels = []
    for name, long, (_, part) in zip(names, longer, parts, strict=True):
        label = name if names.count(name) == 1 else long
        labels.append((label if longer.count(long) == 1 else str(part.path), part))
    return labels


def document(title: str, head: str, sections: Sequence[Section]) -> str:
    """A page that loads nothing: its head, and its sections with links to them. A section without
    a body is left out.
    """
    shown = [(name, body) for name, body in sections if body]
    links = "".join(f'<a href="#part-{i}">{escape(name)}</a>' for i, (name, _) in enumerate(shown))
    bodies = "".join(
        f'<section id="part-{i}"><h2>{escape(name)}</h2>{body}</section>'
        for i, (name, body) in enumerate(shown)
    )
    style = files("posttrain.report").joinpath("page.css").read_text(encoding="utf-8")
    script = files("posttrain.report").joinpath("page.js").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)} - posttrain</title><style>{style}</style></head><body><main>"
        f'{head}<nav aria-label="Parts of this page">{links}</nav>{bodies}</main>'
        f"<script>{script}</script></body></html>\n"
    )


def _head(run: RunFolder, measured: Sequence[tuple[str, Measured]]) -> str:
    command = run.command or (run.summary.command if run.summary else "")
    parts = [f"<h1>{escape(run.title)}</h1>"]
    if measured:
        parts.append(f'<p class="dim">{escape(" · ".join(_evaluation_facts(measured)))}</p>')
    if run.summary:
        results = [row for row in run.summary.rows if not row.oracle]  # an oracle is no result
        parts += [_headline(results[0], results[-1])] if len(results) > 1 else []
    if command:
        parts.append(f"<pre class=command>{escape(command)}</pre>")
    return f"<header>{''.join(parts)}{recipe(_recipe_text(run))}</header>"


def _evaluation_facts(measured: Sequence[tuple[str, Measured]]) -> list[str]:
    first = measured[0][1]
    facts = [first.task, first.problems_text]
    if not all(m.search for _, m in measured):
        samples = max(m.num_samples for _, m in measured)
        facts.append(f"{samples} sample{'s' * (samples > 1)} each")
    if len(measured) == 1 and first.strategy:
        facts.append(first.strategy)
    if "temperature" in first.sampling:
        facts.append(f"temperature {first.sampling['temperature']:g}")
    return facts


def _headline(first: StageRow, last: StageRow) -> str:
    return (
        f'<p class="headline"><span><b>{percent(first.accuracy)}</b> {escape(first.stage)}</span>'
        f'<span><i aria-label="to">→</i> <b>{percent(last.accuracy)}</b> '
        f"{escape(last.stage)}</span></p>"
    )


def _recipe_text(run: RunFolder) -> str:
    """The recipe without its first line, where that is the command."""
    has_command = run.command and "\n" in run.recipe
    return run.recipe.split("\n", 1)[1] if has_command else run.recipe


def _switches(charts: str) -> str:
    log = switch("logged", "log axis", hint=_LOG_HINT) if '<g class="log">' in charts else ""
    return f'<div class="bar switches">{switch("smoothed", "smoothed", on=True)}{log}</div>'


def _training(run: RunFolder, index: int, *, show_recipe: bool) -> str:
    """Curves and rollouts of a run that trained; nothing for one that did not."""
    # Method sample writes the metrics of its one pass. A line of one point is no curve.
    if run.samples and len(run.metrics) < 2:
        return ""
    charts = "".join(learning_curves(run.metrics))
    if not charts:
        return ""
    others = other_curves(run.metrics)
    parts = [
        f'<div class="bar"><p class="dim">{escape(" · ".join(_training_facts(run)))}</p></div>',
        recipe(_recipe_text(run)) if show_recipe else "",
        _switches(charts),
        f'<div class="charts">{charts}</div>',
    ]
    if others:
        inside = f'<div class="charts">{"".join(others)}</div>'
        parts.append(folded(f"All other metrics ({len(others)})", inside))
    if run.rollouts:
        groups = browsable_groups(run.rollouts)
        parts.append(_completions("Sampled completions", groups, len(run.rollouts), index))
    return "".join(parts)


def _training_facts(run: RunFolder) -> list[str]:
    last = int(run.metrics[-1]["step"])
    facts = [f"{last:,} step{'s' * (last != 1)}"]
    seconds = sum(number(row.get("step_time")) or 0 for row in run.metrics)
    facts += [time_text(seconds)] if seconds else []
    tokens = number(run.metrics[-1].get("num_tokens"))
    return [*facts, f"{tokens:,.0f} tokens"] if tokens else facts


def _completions(title: str, groups: list[dict[str, object]], total: int, index: int) -> str:
    """A browser of groups; it says where the page holds only some of the prompts."""
    note = ""
    if len(groups) < total:
        note = f"{len(groups)} of {total:,} logged prompts, spread evenly"
    heading = f'<h3>{escape(title)} <span class="dim">{note}</span></h3>'
    return heading + browser("rollouts", index, groups)


def _samples(run: RunFolder, index: int) -> str:
    """The rows that a method wrote to samples.jsonl."""
    if not run.samples:
        return ""
    num_completions = sum(len(group.completions) for group in run.samples)
    groups = browsable_groups(run.samples)
    facts = f"{run.num_samples:,} rows in samples.jsonl"
    # Of rows of preferences each holds two completions.
    if run.num_samples > num_completions:
        facts += f", of which the first {num_completions:,} were read"
    metrics = run.metrics[-1] if run.metrics else {}
    reward = number(metrics.get("reward"))
    facts += f"; mean reward {reward:.3f}" if reward is not None else ""
    rows = f'<p class="dim">{escape(facts)}.</p>'
    return rows + _completions("Completions", groups, len(run.samples), index)


def _problems(measured: Sequence[tuple[str, Measured]]) -> str:
    problems = same_problems(measured)
    if not problems:
        return ""
    note = "The same problems, answered by each stage." if len(measured) > 1 else ""
    total = min(m.num_examples for _, m in measured)
    if len(problems) < total:
        note = f"{note} {len(problems)} of {total:,} problems, spread evenly.".strip()
    return f'<p class="dim">{note}</p>{browser("problems", 0, problems)}'
