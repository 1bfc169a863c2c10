"""What the preview of a batch shows."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from rich.console import Console

from posttrain.data.encode import encode_rows
from posttrain.data.preview import coloured, histogram, preview

PAIR = {
    "prompt": "abcd",
    "completion": "efgh",
}  # 1 + 4 + 4 + 1 tokens: BOS, prompt, completion, EOS


def test_histogram_by_hand() -> None:
    assert [(span, n) for span, n, _ in histogram(np.array([1, 1, 3]))] == [
        ("1-1", 2),
        ("2-2", 0),
        ("3-3", 1),
    ]
    assert sum(n for _, n, _ in histogram(np.arange(1000))) == 1000


def shown(encoded: Any, tokenizer: Any, **settings: Any) -> str:
    out = io.StringIO()
    preview(encoded, tokenizer, Console(file=out, width=80, **settings))
    return out.getvalue()


def test_preview_shows_masks_and_facts(tiny_tokenizer: Any) -> None:
    encoded = encode_rows(
        [PAIR, {"prompt": "a\nb", "completion": "\u00e9"}, {"prompt": "a" * 30, "completion": "b"}],
        tiny_tokenizer,
        max_length=20,
        max_masked=0.5,
        max_cut=0.5,
    )
    text = shown(encoded, tiny_tokenizer)
    assert "<|begin|>abcd⟦efgh<|end|>⟧" in text
    assert "a⏎" in text
    assert "prompt-completion" in text
    assert "first in 2 of 2 rows, doubled in 0" in text
    assert "trained in 2 of 2 rows" in text
    assert "3: 1 cut, 0 dropped as too long, 1 without a trained token" in text
    coloured_text = shown(encoded, tiny_tokenizer, force_terminal=True, color_system="standard")
    assert "⟦" not in coloured_text and "\x1b[1;32m" in coloured_text


def test_preview_warns_when_eos_is_never_trained(tiny_tokenizer: Any) -> None:
    encoded = encode_rows([PAIR], tiny_tokenizer)
    encoded.sequences[0].loss_mask[-1] = False
    assert "will not learn to stop" in shown(encoded, tiny_tokenizer)
    long = coloured(tiny_tokenizer, encoded.sequences[0], marks=True, limit=5)
    assert "5 more tokens" in long.plain
