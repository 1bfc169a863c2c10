"""Rows, prompts and tokens of the data that a run did not train on."""

from __future__ import annotations

from posttrain.report.records import RunFolder
from posttrain.report.series import number

# Metric -> what it counts, and the metric that counts the tokens.
_ROWS = {
    "rows_cut": ("rows cut at max_length", "tokens_cut"),
    "rows_dropped": ("rows dropped as too long", "tokens_dropped"),
    "rows_masked": ("rows without a token to train on", None),
}
_TOTALS = ("rows", "tokens", "tokens_cut", "tokens_dropped")
_COUNTS = {
    "data/prompts_dropped": "prompts dropped as too long for the context",
    "data/evaluation_prompts_dropped": "evaluation prompts dropped as too long for the context",
    "data/perplexity_dropped": "pairs dropped by perplexity_percentile",
    "prompts/refused": "prompts refused by the sampling model",
}


def data_account(run: RunFolder) -> list[tuple[str, str]]:
    """(what, how much) of everything that was cut, dropped or left out.

    The metrics of step 0 hold the counts. A count that has no words here is shown by its name.
    """
    counts = _counts(run)
    prefixes = dict.fromkeys(key.partition("/")[0] for key in counts if key not in _COUNTS)
    lines = []
    for prefix in prefixes:
        lines += _rows(counts, prefix)
    lines += [(words, f"{counts[key]:,.0f}") for key, words in _COUNTS.items() if counts.get(key)]
    dropped = run.evaluation.prompts_dropped if run.evaluation else 0
    if dropped and not counts.get("data/evaluation_prompts_dropped"):
        lines.append((_COUNTS["data/evaluation_prompts_dropped"], f"{dropped:,.0f}"))
    return lines


def _counts(run: RunFolder) -> dict[str, float]:
    """The last value of each count."""
    counts = {}
    for row in run.metrics:
        for key in row:
            value = number(row[key])
            if value is not None and ("data/" in key or key in _COUNTS):
                counts[key] = value
    return counts


def _rows(counts: dict[str, float], prefix: str) -> list[tuple[str, str]]:
    """The lines of one source: "data", "eval_data", "mix_data"."""
    rows, tokens = counts.get(f"{prefix}/rows"), counts.get(f"{prefix}/tokens")
    lines = []
    for name, (words, lost) in _ROWS.items():
        count = counts.get(f"{prefix}/{name}")
        if not count:
            continue
        text = f"{count:,.0f}" if not rows else f"{count:,.0f} of {rows:,.0f} rows"
        if lost is not None and tokens:
            lost_tokens = counts.get(f"{prefix}/{lost}", 0.0)
            share = lost_tokens / tokens
            text += f", with {lost_tokens:,.0f} of {tokens:,.0f} tokens ({share:.1%})"
        lines.append((f"{words} ({prefix})", text))
    named = {f"{prefix}/{name}" for name in (*_ROWS, *_TOTALS)} | _COUNTS.keys()
    for key, count in counts.items():
        if count and key.startswith(f"{prefix}/") and key not in named:
            words = key.partition("/")[2].replace("_", " ")
            lines.append((f"{words} ({prefix})", f"{count:,.0f}"))
    return lines
