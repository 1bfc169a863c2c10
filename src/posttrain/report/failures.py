"""What went wrong in a run: data left out, failed rewards, completions cut off, broken metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from posttrain.report.data_account import data_account
from posttrain.report.markup import Row, paragraphs, table
from posttrain.report.records import RunFolder
from posttrain.report.series import number

# Shares below this are not listed.
_LEAST = 0.0005
# Metric of a training step -> words for its mean over the run.
_SHARES = {
    "completions/clipped_ratio": "completions cut off at the length limit",
    "episodes/failed": "episodes that failed: no reward, not trained on",
    "episodes/stop/parse_error": "episodes that ended at a tool call that cannot be read",
    "frac_reward_zero_std": "groups with equal rewards (nothing to learn from)",
}
# Number of an evaluation -> words.
_EVALUATION_SHARES = {
    "truncated": "samples cut off at the length limit",
    "unparsed": "samples without an answer",
}


def failures(runs: Sequence[tuple[str, RunFolder]]) -> str:
    """A table of what went wrong, or what was checked where nothing did."""
    rows = [(name, what, amount) for name, run in runs for what, amount in failures_of(run)]
    if not rows:
        return paragraphs([f"Nothing: {', '.join(_checked([run for _, run in runs]))}."])
    if len(runs) > 1:
        named = [Row(name, [what, amount]) for name, what, amount in rows]
        return table(["stage", "what", "how much"], named, "Failures", words=True)
    plain = [Row(what, [amount]) for _, what, amount in rows]
    return table(["what", "how much"], plain, "Failures", words=True)


def _checked(runs: Sequence[RunFolder]) -> list[str]:
    """What holds where nothing is listed, of what these runs hold at all."""
    checks = []
    if any(run.metrics for run in runs):
        checks += ["no row of the data was cut or dropped", "every metric was a number"]
    if any(run.rollouts or run.samples for run in runs):
        checks.append("no reward failed")
    if any(run.rollouts or run.evaluation for run in runs):
        checks.append("no completion was cut off")
    if any(run.reward for run in runs):
        checks.append("every problem got a score and a reward")
    return checks or ["the run recorded nothing to check"]


def failures_of(run: RunFolder) -> list[tuple[str, str]]:
    """(what, how much) for each kind of failure of one run."""
    lines = data_account(run)
    lines += _failed_rewards(run)
    for key, words in _SHARES.items():
        share = _mean(run, key)
        if share >= _LEAST:
            lines.append((words, f"{share:.1%} in training"))
    lines += _broken_metrics(run)
    if run.evaluation is not None:
        numbers = run.evaluation.numbers
        for key, words in _EVALUATION_SHARES.items():
            if numbers.get(key, 0.0) >= _LEAST:
                lines.append((words, f"{numbers[key]:.1%} in evaluation"))
        if numbers.get("errors"):
            lines.append(("verifier errors in evaluation", f"{numbers['errors']:,.0f}"))
    if run.reward is not None and run.reward.left_out:
        left_out = "problems left out: a completion had no score or no reward"
        lines.append((left_out, f"{run.reward.left_out:,}"))
    for name in run.cut_off:
        lines.append((f"{name} ends in a half-written line", "the run was killed while writing"))
    return lines


def _mean(run: RunFolder, key: str) -> float:
    values = [v for row in run.metrics if (v := number(row.get(key))) is not None]
    return sum(values) / len(values) if values else 0.0


def _failed_rewards(run: RunFolder) -> list[tuple[str, str]]:
    lines = []
    failed = sum(number(row.get("rewards/errors")) or 0 for row in run.metrics)
    if failed:
        lines.append(("reward functions that failed", f"{failed:,.0f} completions got no reward"))
    messages = Counter(c.error for g in run.rollouts for c in g.completions if c.error)
    for message, count in messages.most_common(5):
        times = "once" if count == 1 else f"{count} times"
        lines.append((f"among the logged completions: {message[:200]}", times))
    return lines


def _broken_metrics(run: RunFolder) -> list[tuple[str, str]]:
    broken = Counter(
        key
        for row in run.metrics
        for key, value in row.items()
        if number(value) is None and value is not True
    )
    return [
        (f"{key} was not a number", f"at {count} of {len(run.metrics)} steps")
        for key, count in broken.most_common(5)
    ]
