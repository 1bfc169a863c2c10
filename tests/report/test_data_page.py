"""The page of rows from plain data."""

from __future__ import annotations

from posttrain.report.data_page import data_page, histogram

REPORT = {
    "unit": "tokens",
    "parts": [
        {
            "name": "a<b>.jsonl",
            "format": "messages",
            "rows": 10,
            "unread": 1,
            "characters": 100,
            "tokens": 50,
            "percentiles": [1, 2, 5, 9, 10],
            "lengths": {"edges": [0.0, 5.0, 10.0], "counts": [4.0, 6.0]},
            "roles": {"user": 10},
            "languages": {"en": 9, "de": 1},
        }
    ],
    "duplicates": {
        "exact": 1,
        "near": 2,
        "threshold": 0.7,
        "rows": 10,
        "clusters": [[{"place": 0, "value": 1.0, "text": "x"}, [{"place": 3, "value": 0.8,
                                                                "text": "<script>"}]]],
    },
    "overlaps": {
        "gsm8k": {
            "items": 5,
            "short": 1,
            "num_hits": 1,
            "hits": [{"row": 2, "share": 1.0, "item": "q", "text": "t"}],
        }
    },
    "measures": [
        {
            "name": "tokens",
            "percentiles": [],
            "unmeasured": 10,
            "histogram": {"edges": [], "counts": []},
            "lowest": [],
            "highest": [],
        }
    ],
}  # fmt: skip


def test_the_page_says_what_matters_first_and_escapes_rows() -> None:
    page = data_page(REPORT)
    assert "30.0% of the rows copy an earlier row" in page
    assert "1 of 5 items of gsm8k" in page and "1 rows cannot be read" in page
    assert "<script>x" not in page and "&lt;script&gt;" in page and "a&lt;b&gt;" in page
    clean = {**REPORT, "duplicates": None, "overlaps": {}, "measures": []}
    clean["parts"] = [{**REPORT["parts"][0], "unread": 0}]  # type: ignore[index]
    assert "No copies" in data_page(clean)


def test_a_histogram_has_a_bar_per_bin() -> None:
    chart = histogram("a & b", {"edges": [0.0, 1.0, 2.0], "counts": [3.0, 1.0]}, "tokens")
    assert chart.count("<rect") == 2 and "a &amp; b" in chart
    assert histogram("none", {"edges": [], "counts": []}, "") == ""
