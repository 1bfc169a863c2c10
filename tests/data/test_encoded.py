from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from posttrain.data.comparisons import encode_labelled, encode_lists, encode_pairs
from posttrain.data.encode import encode_rows
from posttrain.data.encoded import Encoded, Limits, cut, split
from posttrain.data.forest import TokenSequence
from posttrain.data.formats import RowFormat
from posttrain.data.scored import encode_scores
from posttrain.errors import DataError


def text_of(length: int) -> TokenSequence:
    return TokenSequence(
        np.arange(length),
        np.arange(length) > 0,
        {"weights": np.arange(length) / 2},
        {"label": 1.0},
        row="7",
    )


@pytest.mark.parametrize("length", [1, 2, 9, 10, 11, 19, 20, 28, 29, 100])
@pytest.mark.parametrize("max_length", [2, 3, 10])
def test_every_target_of_a_split_sequence_is_in_one_part(length: int, max_length: int) -> None:
    whole = text_of(length)
    parts = split(whole, max_length)
    assert all(len(p.ids) <= max_length and p.values == whole.values for p in parts)
    targets = np.concatenate([p.ids[p.loss_mask] for p in parts])
    assert targets.tolist() == list(range(1, length))  # all but the first, in order, once
    weights = np.concatenate([p.streams["weights"][p.loss_mask] for p in parts])
    assert weights.tolist() == [i / 2 for i in range(1, length)]
    # A target is predicted from the token before it, which is the part's own.
    assert all((np.diff(p.ids) == 1).all() for p in parts)
    assert [p.row for p in parts][:2] == ["7", "7 part 2"][: len(parts)]
    assert len(parts) == max(-(-(length - 1) // (max_length - 1)), 1)
    assert all(len(p.ids) > 1 for p in parts) or length == 1


def test_cut_keeps_one_end() -> None:
    assert cut(text_of(9), 4, "keep_start").ids.tolist() == [0, 1, 2, 3]
    end = cut(text_of(9), 4, "keep_end")
    assert end.ids.tolist() == [5, 6, 7, 8] and end.loss_mask.tolist() == [False, True, True, True]


def account(lengths: list[int], text: bool = False, **limits: Any) -> Encoded:
    encoded = Encoded([], RowFormat("text", ""))
    for i, length in enumerate(lengths):
        encoded.num_rows += 1
        for part in encoded.fitted(str(i), [text_of(length)], Limits(**limits), text=text):
            encoded.add(part)
    return encoded


def test_tokens_and_rows_that_are_lost_are_counted() -> None:
    kept = account([10, 30, 5], max_length=12)
    assert (kept.truncated, kept.tokens_cut, kept.num_tokens) == (1, 18, 45)
    assert kept.lost_share == pytest.approx(18 / 45) and int(kept.lengths.sum()) == 45 - 18
    assert kept.lost_text() == "1 of 3 rows cut, losing 18 of 45 tokens (40.0%)"
    dropped = account([10, 30, 5], max_length=12, truncation="drop")
    assert (dropped.dropped, dropped.tokens_dropped, dropped.truncated) == (1, 30, 0)
    assert dropped.lost_metrics("data") == {
        "data/rows": 3.0,
        "data/rows_cut": 0.0,
        "data/rows_dropped": 1.0,
        "data/rows_masked": 0.0,
        "data/tokens": 45.0,
        "data/tokens_cut": 0.0,
        "data/tokens_dropped": 30.0,
    }
    whole = account([10, 30, 5], text=True, max_length=12)
    assert (whole.split, whole.truncated, whole.num_trained) == (1, 0, 45 - 3)
    assert not whole.lost_text() and not whole.lost_metrics("data") and whole.lost_share == 0


def test_a_huge_row_counts_by_its_tokens_and_many_rows_by_their_number() -> None:
    one = account([10] * 99 + [100_000], max_length=12)
    with pytest.raises(
        DataError, match=r"99\.0% of the rows or of their tokens, more than data\.max_cut=0\.1"
    ):
        one.refuse_losses(Limits(12))
    ends = account([13] * 20 + [12] * 80, max_length=12)  # each loses its EOS alone
    with pytest.raises(
        DataError, match=r"20 of 100 rows cut.*20\.0% .*accept it with data\.max_cut=0\.2$"
    ):
        ends.refuse_losses(Limits(12))
    ends.refuse_losses(Limits(12, max_cut=0.2))


def test_the_way_out_depends_on_what_limits() -> None:
    encoded = account([10, 30], max_length=12)

    def message(**limits: Any) -> str:
        with pytest.raises(DataError) as caught:
            encoded.refuse_losses(Limits(12, **limits))
        return str(caught.value)

    assert "Raise data.max_length (the model's context is 64 tokens), choose by" in message(
        context=64
    )
    assert "Raise data.max_length, choose by" in message()
    at_context = message(context=12)
    assert (
        "Raise data.max_length" not in at_context and "context of more than 12 tokens" in at_context
    )
    with pytest.raises(DataError, match="Take a model with a context of more than 12 tokens"):
        account([30], max_length=12, context=12, truncation="error")


def test_split_is_for_plain_text() -> None:
    with pytest.raises(DataError, match="data.truncation is split, which is for plain text"):
        account([30], max_length=12, truncation="split")


LONG = " " + "b" * 40
ROWS: dict[str, tuple[Any, dict[str, Any]]] = {
    "rows": (encode_rows, {"prompt": "Q", "completion": LONG}),
    "messages": (
        encode_rows,
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": LONG}]},
    ),
    "pairs": (encode_pairs, {"prompt": "Q", "chosen": LONG, "rejected": " a"}),
    "labelled": (encode_labelled, {"prompt": "Q", "completion": LONG, "label": True}),
    "lists": (encode_lists, {"prompt": "Q", "completions": [LONG, " a"], "scores": [1, 0]}),
    "scored pairs": (encode_scores, {"prompt": "Q", "chosen": LONG, "rejected": " a"}),
    "rewarded": (encode_scores, {"prompt": "Q", "completion": LONG, "reward": 1.0}),
}


@pytest.mark.parametrize("name", ROWS)
def test_every_encoder_counts_and_refuses_alike(tiny_tokenizer: Any, name: str) -> None:
    encode, row = ROWS[name]
    longest = int(encode([row], tiny_tokenizer).lengths.max())
    kept = encode([row] * 4, tiny_tokenizer, max_length=20, max_cut=1.0)
    assert (
        kept.truncated == 4
        and kept.tokens_cut >= 4 * (longest - 20) > 0
        and int(kept.lengths.max()) == 20
    )
    assert kept.num_tokens == kept.tokens_cut + int(kept.lengths.sum())
    with pytest.raises(
        DataError, match=r"4 of 4 rows cut, losing .* more than data\.max_cut=0\.1 allows"
    ):
        encode([row] * 4, tiny_tokenizer, max_length=20)
    with pytest.raises(DataError, match="4 of 4 rows dropped as too long"):
        encode([row] * 4, tiny_tokenizer, max_length=20, truncation="drop")
    with pytest.raises(
        DataError, match="tokens and data.truncation is split, which is for plain text"
    ):
        encode([row] * 4, tiny_tokenizer, max_length=20, truncation="split")
    assert (
        kept.fingerprint()
        == encode([row] * 4, tiny_tokenizer, max_length=20, max_cut=1.0).fingerprint()
    )
    assert (
        kept.fingerprint()
        != encode([row] * 4, tiny_tokenizer, max_length=21, max_cut=1.0).fingerprint()
    )


BROKEN: dict[str, dict[str, Any]] = {
    "rows": {"completion": ""},
    "messages": {"messages": [{"role": "user", "content": "Q"}]},
    "pairs": {"rejected": ""},
    "labelled": {"label": "perhaps"},
    "lists": {"scores": [1]},
    "scored pairs": {"chosen": " "},
    "rewarded": {"reward": None},
}


@pytest.mark.parametrize("name", BROKEN)
def test_unusable_rows_are_skipped_up_to_a_share_and_shown_all_at_once(
    tiny_tokenizer: Any, name: str
) -> None:
    encode, row = ROWS[name]
    rows = [{**row, "id": f"r{i}"} for i in range(20)]
    for i in (3, 11):
        rows[i] = {**rows[i], **BROKEN[name]}
    encoded = encode(rows, tiny_tokenizer)
    assert (encoded.num_rows, encoded.num_unusable, len(encoded.reasons)) == (20, 2, 2)
    usable = encode([r for i, r in enumerate(rows) if i not in (3, 11)], tiny_tokenizer)
    assert encoded.fingerprint() == usable.fingerprint()
    assert "r3" in encoded.lost_text() and "r11" in encoded.lost_text()
    assert encoded.lost_metrics("data")["data/rows_unusable"] == 2
    rows[12] = {**rows[12], **BROKEN[name]}
    with pytest.raises(DataError, match=r"3 of 20 rows .*r3.*r11.*r12.*data\.max_unusable=0\.1 "):
        encode(rows, tiny_tokenizer)
    assert encode(rows, tiny_tokenizer, max_unusable=0.15).num_unusable == 3


def test_no_more_than_five_reasons_are_shown(tiny_tokenizer: Any) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "Q", "completion": " a"}]
    rows += [{"prompt": "Q", "completion": "", "note": "x" * 1000}] * 1000
    with pytest.raises(DataError, match=r"1,000 of 1,001 rows") as caught:
        encode_rows(rows, tiny_tokenizer)
    assert str(caught.value).count("is empty") == 5 and len(str(caught.value)) < 500


def test_several_kinds_of_losses_are_one_error(tiny_tokenizer: Any) -> None:
    good = {"prompt": "Q", "chosen": " a", "rejected": " b"}
    rows = [good] * 4 + [{**good, "rejected": ""}] * 2 + [{**good, "rejected": " a"}] * 2
    with pytest.raises(DataError, match=r"2 of 8 rows.*max_unusable.*2 of 8 rows.*max_masked"):
        encode_pairs(rows, tiny_tokenizer)


def test_a_row_of_ten_megabytes_is_not_cut_silently(tiny_tokenizer: Any) -> None:
    rows = [{"prompt": "Q", "completion": " a"}] * 99
    rows.append({"prompt": "Q", "completion": " b" * 500_000})
    with pytest.raises(DataError, match=r"1 of 100 rows cut.*data\.max_cut=0\.1"):
        encode_rows(rows, tiny_tokenizer)
