"""What is trained, token by token, before hours are spent on it."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from posttrain.data.encoded import Encoded
from posttrain.data.forest import TokenSequence
from posttrain.data.templates import bos_id, template_fingerprint
from posttrain.terminal import visible, write, write_rule, write_table

_BREAKS = str.maketrans({"\n": "⏎\n", "\t": "⇥"})


def token_texts(tokenizer: Any, ids: list[int]) -> list[str]:
    """The text that each token adds; a token that holds part of a character shows as ids in
    angle brackets.
    """
    pieces = (
        [tokenizer.decode(ids[: i + 1], skip_special_tokens=False) for i in range(len(ids))]
        if len(ids) <= 2048
        else []
    )
    if not pieces:
        return [tokenizer.decode([i], skip_special_tokens=False) for i in ids]
    added = [now[len(before) :] for before, now in zip(["", *pieces], pieces, strict=False)]
    return [text or f"‹{i}›" for text, i in zip(added, ids, strict=True)]


def coloured(tokenizer: Any, sequence: TokenSequence, *, marks: bool, limit: int = 400) -> Text:
    """A sequence with its trained tokens in green; with `marks` they also stand in ⟦ ⟧, for
    terminals without colour.
    """
    ids = sequence.ids[:limit].tolist()
    line = Text()
    inside = False
    for piece, trained in zip(
        token_texts(tokenizer, ids), sequence.loss_mask[:limit].tolist(), strict=True
    ):
        if marks and trained != inside:
            line.append("⟦" if trained else "⟧", style="bold green")
        inside = trained
        line.append(
            visible(piece.translate(_BREAKS), lines=True), style="bold green" if trained else "dim"
        )
    if marks and inside:
        line.append("⟧", style="bold green")
    if len(sequence.ids) > limit:
        line.append(f" … {len(sequence.ids) - limit} more tokens", style="italic")
    return line


def histogram(lengths: np.ndarray, width: int = 40) -> list[tuple[str, int, str]]:
    """Rows (range, count, bar) of a histogram in at most ten equal bins."""
    low, high = int(lengths.min()), int(lengths.max())
    bins = min(10, high - low + 1)
    counts, edges = np.histogram(lengths, bins=bins, range=(low, high + 1))
    top = max(int(counts.max()), 1)
    return [
        (
            f"{int(np.ceil(a))}-{int(np.ceil(b)) - 1}",
            int(n),
            "█" * round(width * n / top) or ("▏" if n else ""),
        )
        for n, a, b in zip(counts, edges[:-1], edges[1:], strict=True)
    ]


def preview(encoded: Encoded, tokenizer: Any, console: Console, num: int = 3) -> None:
    """Print rows with trained tokens in colour, and the facts that go wrong most often."""
    sequences = encoded.sequences
    marks = console.no_color or not console.is_terminal
    shown = np.linspace(0, len(sequences) - 1, min(num, len(sequences))).round().astype(int)
    for i in dict.fromkeys(shown.tolist()):
        sequence = sequences[i]
        trained = int(sequence.loss_mask.sum())
        write_rule(
            console,
            f"row {sequence.row}: {len(sequence.ids)} tokens, {trained} trained",
            "dim",
            "dim",
        )
        write_table(console, coloured(tokenizer, sequence, marks=marks))
    write_rule(console, "facts", "dim", "dim")
    for name, value in _facts(encoded, tokenizer):
        write(console, f"  {name:<16}{value}")
    write(console, "\n  lengths in tokens")
    for span, count, bar in histogram(encoded.lengths, max(10, min(40, console.width - 30))):
        write(console, f"  {span:>12} {count:>7} {bar}")


def _facts(encoded: Encoded, tokenizer: Any) -> list[tuple[str, str]]:
    sequences = encoded.sequences
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    doubled = sum(
        len(s.ids) > 1 and bos is not None and s.ids[0] == bos and s.ids[1] == bos
        for s in sequences
    )
    begins = sum(bos is not None and s.ids[0] == bos for s in sequences)
    ends = sum(eos is not None and bool((s.ids[s.loss_mask] == eos).any()) for s in sequences)
    after = [tokenizer.decode([int(s.ids[s.loss_mask][-1])]) for s in sequences[:1]]
    total = int(encoded.lengths.sum())
    eos_text = f"trained in {ends} of {len(sequences)} rows (EOS is {tokenizer.eos_token!r})"
    if not ends:
        eos_text += (
            f"; rows end in {after[0]!r}: the model will not learn to stop unless that is a stop "
            "token"
        )
    pad = "never used in training"
    if tokenizer.pad_token and tokenizer.pad_token == tokenizer.eos_token:
        pad += f" (the pad token equals EOS, {tokenizer.pad_token!r}: harmless here)"
    return [
        ("format", f"{encoded.form.name}: {encoded.form.reason}"),
        (
            "template",
            f"{template_fingerprint(tokenizer)} "
            f"({'chat template' if tokenizer.chat_template else 'none'})",
        ),
        (
            "BOS",
            f"first in {begins} of {len(sequences)} rows, doubled in {doubled}"
            + ("" if bos_id(tokenizer) is not None or begins else " (this tokenizer puts none)"),
        ),
        ("EOS", eos_text),
        ("padding", pad),
        (
            "trained",
            f"{encoded.num_trained} of {total} tokens ({encoded.num_trained / max(total, 1):.0%})",
        ),
        (
            "rows",
            f"{encoded.num_rows}: {encoded.truncated} cut, {encoded.dropped} dropped as too long, "
            f"{len(encoded.masked)} without a trained token",
        ),
    ]
