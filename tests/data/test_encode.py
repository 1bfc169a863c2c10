from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from posttrain.data.encode import encode_rows
from posttrain.data.formats import rows_to_imitate
from posttrain.data.preview import coloured, histogram, preview
from posttrain.data.rows import load_rows
from posttrain.errors import DataError

PAIR = {
    "prompt": "abcd",
    "completion": "efgh",
}  # 1 + 4 + 4 + 1 tokens: BOS, prompt, completion, EOS


def test_truncation(tiny_tokenizer: Any) -> None:
    rows = [PAIR, {"prompt": "ab", "completion": "c"}]
    whole = encode_rows(rows, tiny_tokenizer)
    assert whole.lengths.tolist() == [10, 5] and whole.num_trained == 7
    cut = encode_rows(rows, tiny_tokenizer, max_length=7, max_cut=1.0)
    assert cut.lengths.tolist() == [7, 5] and cut.truncated == 1
    assert tiny_tokenizer.decode(cut.sequences[0].ids[cut.sequences[0].loss_mask]) == "ef"
    end = encode_rows(rows, tiny_tokenizer, max_length=7, truncation="keep_end", max_cut=1.0)
    assert (
        tiny_tokenizer.decode(end.sequences[0].ids) == "cdefgh<|end|>"
        and not end.sequences[0].loss_mask[0]
    )
    dropped = encode_rows(rows, tiny_tokenizer, max_length=7, truncation="drop", max_cut=1.0)
    assert dropped.dropped == 1 and len(dropped.sequences) == 1
    with pytest.raises(DataError, match="row 0 has 10 tokens, data.max_length is 7"):
        encode_rows(rows, tiny_tokenizer, max_length=7, truncation="error")


def test_rows_without_trained_tokens_are_counted_and_bounded(tiny_tokenizer: Any) -> None:
    rows = [*[PAIR] * 9, {"prompt": "a" * 30, "completion": "b"}]
    encoded = encode_rows(rows, tiny_tokenizer, max_length=20, max_cut=0.2)
    assert encoded.masked == ["9"] and len(encoded.sequences) == 9
    with pytest.raises(
        DataError, match=r"1 of 10 rows have no token left to train on \(first: 9\)"
    ):
        encode_rows(rows, tiny_tokenizer, max_length=20, max_masked=0.05)


def test_what_is_trained_by_format(tiny_tokenizer: Any) -> None:
    def trained(row: dict[str, Any], train_on: Any = "auto") -> str:
        (sequence,) = encode_rows([row], tiny_tokenizer, train_on=train_on).sequences
        return tiny_tokenizer.decode(sequence.ids[sequence.loss_mask], skip_special_tokens=False)

    turns = [
        {"role": r, "content": c}
        for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    ]
    assert trained({"messages": turns}) == "b<|end|>d<|end|>"
    assert trained({"messages": turns}, "completion") == "d<|end|>"
    assert trained({"prompt": turns[:3], "completion": turns[3:]}) == "d<|end|>"
    assert (
        trained({"prompt": turns[:3], "completion": turns[3:]}, "all_assistant")
        == "b<|end|>d<|end|>"
    )
    assert trained({"text": "xyz"}) == "xyz<|end|>"
    assert trained(PAIR, "everything") == "abcdefgh<|end|>"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            r"format preference \(columns .*pairs are for method dpo",
        ),
        (
            {"prompt": "a", "completions": ["b"], "labels": [True]},
            "format stepwise .*method reward_model",
        ),
        ({"prompt": "a", "reward_model": {"ground_truth": "b"}}, "format verl .*method grpo"),
        ({"prompt": "a", "answer": "b"}, "format prompt-only .*method grpo"),
        ({"prompt": "a", "completion": "b", "label": False}, "none is desirable"),
    ],
)
def test_formats_without_a_completion_say_what_they_are_for(
    row: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        rows_to_imitate([row])


def test_undesirable_completions_are_not_imitated() -> None:
    rows = [{"prompt": "a", "completion": str(i), "label": i % 2 == 0} for i in range(4)]
    assert rows_to_imitate(rows) == rows[::2] and rows_to_imitate([PAIR]) == [PAIR]
    tagged = [{"instruction": "a", "output": str(i), "kto_tag": bool(i)} for i in range(2)]
    assert rows_to_imitate(tagged) == tagged[1:]


def test_packing_keeps_every_sequence(tiny_tokenizer: Any) -> None:
    from posttrain.data.forest import Forest, Tree

    encoded = encode_rows([PAIR, {"prompt": "ab", "completion": "c"}] * 3, tiny_tokenizer)
    forest = Forest.pack([Tree.build([s]) for s in encoded.sequences])
    assert forest.tokens.tolist() == np.concatenate([s.ids for s in encoded.sequences]).tolist()
    assert forest.num_targets == encoded.num_trained


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


def test_real_rows(shared: Path, stories: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(stories)
    encoded = encode_rows(
        load_rows(shared / "data" / "gsm8k" / "test.jsonl", limit=100), tokenizer, max_length=512
    )
    assert len(encoded.sequences) >= 95 and encoded.form.name == "question-answer"
    assert all(s.ids[0] == tokenizer.bos_token_id for s in encoded.sequences)
