from __future__ import annotations

import io
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from posttrain.errors import DataError
from posttrain.report.charts import curve
from posttrain.report.html import write_picture, write_report
from posttrain.report.run_folder import read_run
from posttrain.report.series import MAX_POINTS, smooth, thin
from posttrain.report.tables import p_text, print_summary

EVIL = "</script><img src=x onerror=alert(1)> <b>&amp; \u2028"
ROWS = [
    {
        "stage": "base",
        "folder": "base",
        "accuracy": 0.125,
        "low": 0.1,
        "high": 0.15,
        "p_value": None,
        "pass@k": {"16": 0.8},
        "maj@k": {"8": 0.2},
        "mean_tokens": 31.4,
        "seconds": 12.0,
        "note": "",
    },
    {
        "stage": "GRPO & vote",
        "folder": "grpo",
        "accuracy": 0.7,
        "low": 0.66,
        "high": 0.74,
        "p_value": 0.0001,
        "pass@k": {"16": 0.9},
        "maj@k": {"8": 0.8},
        "mean_tokens": 290.0,
        "seconds": None,
        "note": "majority_vote",
    },
]


def make(folder: Path, steps: int = 30, rollouts: bool = True) -> Path:
    """A run folder as a pipeline leaves it."""
    stage = folder / "grpo"
    stage.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(
        f"# posttrain run a.yaml title={EVIL!r}\nmethod: pipeline\n"
    )
    (stage / "recipe.yaml").write_text("method: grpo\n")
    metrics = [
        {
            "step": i,
            "loss": math.sin(i),
            "reward": i / steps,
            "reward_std": 0.1,
            "kl": None if i % 2 else 0.1,
            "entropy": 1.0,
            "rewards/a/mean": 0.5,
            "rewards/b/mean": 0.2,
            "rewards/errors": 1,
        }
        for i in range(1, steps + 1)
    ]
    (stage / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))
    if rollouts:
        completion = {
            "text": EVIL,
            "reward": 1.0,
            "rewards": {},
            "advantage": 0.5,
            "num_tokens": 3,
            "finish_reason": "stop",
            "error": None,
        }
        group = {
            "step": 1,
            "id": "e",
            "prompt": EVIL,
            "answer": "7",
            "completions": [completion, {**completion, "text": "x" * 9000}],
        }
        (stage / "rollouts.jsonl").write_text(
            "".join(json.dumps({**group, "step": i}) + "\n" for i in range(1, 300))
        )
    (folder / "summary.json").write_text(
        json.dumps({"title": f"quick {EVIL}", "command": "posttrain run", "rows": ROWS})
    )
    return folder


class Checker(HTMLParser):
    VOID = frozenset(
        {"meta", "img", "br", "line", "circle", "polyline", "polygon", "link", "input"}
    )

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.urls: list[str] = []
        self.handlers: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.urls += [v or "" for k, v in attrs if k in ("src", "href")]
        self.handlers += [k for k, _ in attrs if k.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(path: Path) -> Checker:
    parser = Checker()
    parser.feed(path.read_text())
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_is_whole_inert_and_alone(tmp_path: Path) -> None:
    page = checked(write_report(make(tmp_path / "run")))
    assert (
        all(u.startswith("#part-") for u in page.urls)
        and page.handlers == []
        and "img" not in page.tags
    )
    assert not re.search(
        r"https?://(?!www\.w3\.org)", (tmp_path / "run" / "report.html").read_text()
    )
    for text in (
        "12.5%",
        "10.0% to 15.0%",
        "70.0%",
        "< 0.001",
        "80.0%",
        "290",
        "Training: GRPO & vote",
        "30 completions got no reward",
    ):
        assert text in page.text, text
    data = re.search(
        r'<script type="application/json" id="rollouts-1">(.*?)</script>',
        (tmp_path / "run" / "report.html").read_text(),
        re.DOTALL,
    )
    assert data is not None
    groups = json.loads(data.group(1))
    assert groups[0]["completions"][0]["text"] == EVIL and len(groups) <= 160
    assert {g["step"] for g in groups} >= {1, 299}
    assert len(groups[0]["completions"][1]["text"]) < 4100


@pytest.mark.parametrize("steps", [1, 2, 3000])
def test_any_number_of_steps(tmp_path: Path, steps: int) -> None:
    path = write_report(make(tmp_path / "run", steps=steps, rollouts=False))
    page = checked(path)
    assert page.tags.count("figure") >= 4
    series = [
        s
        for p in re.findall(r'data-series="([^"]*)"', path.read_text())
        for s in json.loads(unescape(p))
    ]
    assert len(series) >= 4 and all(len(points) <= MAX_POINTS for _, points in series)
    assert path.stat().st_size < 600_000


def test_points_by_hand() -> None:
    assert thin([(0, 0.0), (1, 9.0), (2, 1.0), (3, -9.0), (4, 0.0)], 4) == [
        (0, 0.0),
        (1, 9.0),
        (3, -9.0),
        (4, 0.0),
    ]
    assert smooth([(0, 2.0), (1, 2.0), (2, 2.0)]) == [(0, 2.0), (1, 2.0), (2, 2.0)]
    assert "NaN" not in curve("flat", [(1, 0.0), (2, 0.0)])


def test_the_picture_is_xml_with_the_numbers(tmp_path: Path) -> None:
    write_picture(make(tmp_path / "run"), tmp_path / "a.svg")
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    text = " ".join(root.itertext())
    assert "12.5%" in text and "70.0%" in text and "GRPO & vote" in text


def test_table_on_the_terminal(tmp_path: Path) -> None:
    out = io.StringIO()
    print_summary(make(tmp_path / "run"), Console(file=out, width=80))
    lines = out.getvalue().split("\n")
    assert max(map(len, lines)) <= 80
    assert (
        "12.5%" in out.getvalue()
        and "66.0% to 74.0%" in out.getvalue()
        and "< 0.001" in out.getvalue()
    )
    assert (p_text(None), p_text(0.04), p_text(1e-9)) == ("", "0.040", "< 0.001")


def test_reading_tolerates_a_cut_and_names_a_break(tmp_path: Path) -> None:
    folder = make(tmp_path / "run")
    file = folder / "grpo" / "metrics.jsonl"
    file.write_text(file.read_text() + '{"step": 31, "lo')
    assert len(read_run(folder).stages[0].metrics) == 30
    file.write_text('{"step": 1}\nrubbish\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"metrics.jsonl:2: not valid JSON"):
        read_run(folder)
    with pytest.raises(DataError, match="no run folder"):
        read_run(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no run"):
        read_run(tmp_path / "empty")


def test_a_single_evaluation(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "task": "t",
        "num_examples": 3,
        "num_samples": 2,
        "metrics": {
            "accuracy": {"estimate": 0.5, "low": 0.2, "high": 0.8, "n": 3},
            "mean_tokens": 12.5,
            "truncated": 0.1,
            "unparsed": 0.0,
            "errors": 0,
        },
    }
    (tmp_path / "evaluation.json").write_text(json.dumps(values))
    page = checked(write_report(tmp_path))
    assert "50.0%" in page.text and "20.0% to 80.0%" in page.text and "10.0%" in page.text
