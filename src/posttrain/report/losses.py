"""What of the data a run has lost, as the report shows it."""

from __future__ import annotations

from posttrain.report.run_folder import RunFolder
from posttrain.report.series import number

_ROWS = {
    "rows_cut": ("rows cut at max_length", "tokens_cut"),
    "rows_dropped": ("rows dropped as too long", "tokens_dropped"),
    "rows_masked": ("rows left out with nothing to learn", None),
}
_PROMPTS = {
    "data/prompts_dropped": "prompts dropped as too long for the context",
    "data/evaluation_prompts_dropped": "evaluation prompts dropped as too long for the context",
}


def data_losses(run: RunFolder) -> list[tuple[str, str]]:
    """Rows (what, how much) of everything that was cut, dropped or left out; the metrics of
    step 0 hold it.
    """
    counts = {
        key: value
        for row in run.metrics
        for key in row
        if (value := number(row[key])) is not None and "data/" in key
    }
    losses = []
    for prefix in ("data", "eval_data", "mix_data"):
        rows, tokens = counts.get(f"{prefix}/rows"), counts.get(f"{prefix}/tokens")
        for name, (label, lost) in _ROWS.items():
            if not counts.get(f"{prefix}/{name}") or not rows or not tokens:
                continue
            text = f"{counts[f'{prefix}/{name}']:,.0f} of {rows:,.0f} rows"
            if lost is not None:
                text += f", with {counts[f'{prefix}/{lost}']:,.0f} of {tokens:,.0f} tokens"
                text += f" ({counts[f'{prefix}/{lost}'] / tokens:.1%})"
            losses.append((f"{label} ({prefix})", text))
    losses += [(label, f"{counts[key]:,.0f}") for key, label in _PROMPTS.items() if counts.get(key)]
    dropped = run.evaluation.prompts_dropped if run.evaluation else 0
    if dropped and not counts.get("data/evaluation_prompts_dropped"):
        losses.append((_PROMPTS["data/evaluation_prompts_dropped"], f"{dropped:,.0f}"))
    return losses
