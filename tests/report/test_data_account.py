"""The account of what a run's data lost."""

from __future__ import annotations

from pathlib import Path

from posttrain.report.data_account import data_account
from posttrain.report.records import RunFolder


def account(**counts: float) -> dict[str, str]:
    metrics = [{"step": 0, **{k.replace("__", "/"): v for k, v in counts.items()}}]
    return dict(data_account(RunFolder(Path("r"), metrics=metrics)))


def test_rows_and_their_tokens() -> None:
    lines = account(
        data__rows=10, data__rows_cut=2, data__tokens=100, data__tokens_cut=5, data__rows_masked=1
    )
    assert lines == {
        "rows cut at max_length (data)": "2 of 10 rows, with 5 of 100 tokens (5.0%)",
        "rows without a token to train on (data)": "1 of 10 rows",
    }


def test_pairs_beyond_the_perplexity_bound() -> None:
    assert account(data__perplexity_dropped=7) == {"pairs dropped by perplexity_percentile": "7"}


def test_a_count_without_words_is_shown_by_its_name() -> None:
    assert account(eval_data__rows_odd=3) == {"rows odd (eval_data)": "3"}


def test_nothing_lost() -> None:
    assert account(data__rows=10, data__rows_cut=0, data__tokens=5, data__prompts_dropped=0) == {}
