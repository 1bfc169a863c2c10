"""The page: well-formed, self-contained, safe with any text, and true to the files it is made
from.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from posttrain.report.browse import MAX_BYTES, clip, marks
from posttrain.report.html import write_picture, write_report
from posttrain.report.records import Completion, Group
from posttrain.report.run_folder import read_run

VOID = {"meta", "input", "br", "img", "link"}


class Page(HTMLParser):
    """Checks that tags balance; collects tables, scripts, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        if "script" not in self.open and "style" not in self.open:
            self.text += data

    def data(self, name: str) -> list[dict]:
        ids = [a.get("id") for t, a in self.tags if t == "script"]
        values: list[dict] = json.loads(self.scripts[ids.index(name)])
        return values


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_self_contained_and_small(folder: Path) -> None:
    path = write_report(folder)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert path.stat().st_size < 500_000
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == []
    assert not any(
        name in attrs for _, attrs in page.tags for name in ("src", "srcset", "data", "xlink:href")
    )
    assert all(a["href"].startswith("#part-") for t, a in page.tags if t == "a")
    assert "url(" not in text
    assert "default-src 'none'" in text
    assert [p.name for p in folder.iterdir() if "partial" in p.name] == []


def test_table_says_what_the_summary_says(folder: Path) -> None:
    page = page_of(folder)
    rows = json.loads((folder / "summary.json").read_text())["rows"]
    assert page.rows[0][:5] == ["stage", "accuracy", "95% interval", "change", "p (paired)"]
    for cells, row in zip(page.rows[1:5], rows, strict=True):
        assert cells[0] == row["stage"]
        assert cells[1] == f"{row['accuracy']:.1%}"
        assert cells[2] == f"{row['low']:.1%} to {row['high']:.1%}"
    assert [r[3] for r in page.rows[1:5]] == ["", "+15.3", "+26.3", "+12.6"]
    assert [r[4] for r in page.rows[1:5]] == ["", "< 0.001", "< 0.001", "0.012"]
    assert page.rows[1][5] == f"{rows[0]['pass@k']['16']:.1%}"


def test_curves_are_downsampled_and_keep_their_values(tmp_path: Path, fake: ModuleType) -> None:
    rows = fake.metrics(3000, rl=True)
    fake.write_lines(tmp_path / "metrics.jsonl", rows)
    page = page_of(tmp_path)
    charts = {
        s[0][0]: s[0][1]
        for _, a in page.tags
        if (v := a.get("data-series")) and (s := json.loads(v))
    }
    loss = charts["loss"]
    assert len(loss) <= 240
    assert (loss[0][0], loss[-1][0]) == (1, 3000)
    by_step = {r["step"]: r["loss"] for r in rows}
    assert all(math.isclose(v, by_step[s], rel_tol=1e-4) for s, v in loss)
    for title in (
        "reward ± standard deviation",
        "KL to the reference, nats",
        "learning rate",
        "gradient norm",
    ):
        assert title in charts
    assert len(write_report(tmp_path).read_bytes()) < 400_000


def test_text_of_a_model_stays_text(tmp_path: Path, fake: ModuleType) -> None:
    folder = fake.write_run(tmp_path / "run", steps=3, text=fake.INJECTION)
    values = json.loads((folder / "summary.json").read_text())
    values["rows"][0]["stage"] = values["title"] = fake.INJECTION
    (folder / "summary.json").write_text(json.dumps(values))
    (folder / "recipe.yaml").write_text(f"# posttrain {fake.INJECTION}\nmethod: {fake.INJECTION}\n")
    page = page_of(folder)
    plain = [script for script in page.scripts if "hacked" in script]
    assert len(plain) == len([1 for _, a in page.tags if a.get("type") == "application/json"])
    assert all(isinstance(json.loads(script), list) for script in plain)
    assert not any(t == "img" or "onerror" in a for t, a in page.tags)
    assert page.data("rollouts-3")[0]["completions"][0]["text"] == fake.INJECTION


def test_long_rollouts_are_thinned_and_clipped(tmp_path: Path, fake: ModuleType) -> None:
    folder = fake.write_run(tmp_path / "run", steps=200, text="start " + "x" * 9000 + " the answer")
    groups = page_of(folder).data("rollouts-3")
    assert len(json.dumps(groups, ensure_ascii=False)) < MAX_BYTES * 1.2
    assert (groups[0]["step"], groups[-1]["step"]) == (1, 200)
    text = groups[0]["completions"][0]["text"]
    assert (
        text.startswith("start ") and text.endswith("the answer") and "characters left out" in text
    )


def test_problems_side_by_side(folder: Path) -> None:
    problems = page_of(folder).data("problems-0")
    assert [s["stage"] for s in problems[0]["stages"]] == [
        "base",
        "SFT",
        "GRPO",
        "GRPO + vote of 8",
    ]
    source = json.loads((folder / "sft" / "evaluation.json").read_text())["examples"][0]
    assert problems[0]["stages"][1]["right"] == sum(source["correct"])
    texts = problems[0]["stages"][1]["texts"]
    assert sum(t["count"] for t in texts if t["mark"] == "right") == sum(source["correct"][:4])
    # Under a search the choice alone is right or wrong; equal candidates are listed once.
    assert [(t["chosen"], t["count"]) for t in problems[0]["stages"][3]["texts"]] == [(True, 3)]


def test_failures_are_listed(tmp_path: Path, fake: ModuleType) -> None:
    rows = fake.metrics(60, rl=True)
    rows[9]["loss"] = None
    fake.write_lines(tmp_path / "metrics.jsonl", rows)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 61, "lo')
    fake.write_lines(tmp_path / "rollouts.jsonl", [fake.group(1, 0)])
    listed = {row[0]: row[1] for row in page_of(tmp_path).rows if len(row) == 2}
    assert listed["reward functions that failed"] == "2 completions got no reward"
    assert listed["among the logged completions: task: ZeroDivisionError: <b>x</b>"] == "once"
    assert listed["loss was not a number"] == "at 1 of 60 steps"
    assert listed["metrics.jsonl ends in a half-written line"] == "the run was killed while writing"


@pytest.mark.parametrize("steps", [1, 2])
def test_very_short_runs(tmp_path: Path, fake: ModuleType, steps: int) -> None:
    text = write_report(fake.write_run(tmp_path / "run", steps=steps)).read_text()
    Page(text)
    assert "nan" not in text.lower().replace("grpo", "")


def test_runs_with_little_in_them(tmp_path: Path, fake: ModuleType) -> None:
    (tmp_path / "recipe.yaml").write_text("# posttrain sft\nmethod: sft\n")
    assert "posttrain sft" in page_of(tmp_path).text
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": NaN}\n{"step": 2, "loss": null}\n')
    assert "loss was not a number" in page_of(tmp_path).text
    (tmp_path / "evaluation.json").write_text(json.dumps(fake.evaluation(0.37)))
    page = page_of(tmp_path)
    assert ["accuracy", "37.0%", "34.0% to 40.0%"] in page.rows


def test_half_a_surrogate_pair_does_not_stop_the_report(tmp_path: Path, fake: ModuleType) -> None:
    fake.write_lines(tmp_path / "metrics.jsonl", fake.metrics(2, rl=True))
    (tmp_path / "rollouts.jsonl").write_text(json.dumps(fake.group(1, 0, text="\ud83d")) + "\n")
    assert page_of(tmp_path).tags


def test_accessible(folder: Path) -> None:
    page = page_of(folder)
    for tag, attrs in page.tags:
        if tag == "svg":
            assert attrs["role"] == "img" and attrs["aria-label"]
        if tag == "th":
            assert attrs["scope"] in ("col", "row")
    assert ("html", {"lang": "en"}) in page.tags
    assert sum(t == "h1" for t, _ in page.tags) == 1
    assert sum(t == "table" for t, _ in page.tags) == sum(t == "caption" for t, _ in page.tags)


def test_picture_is_a_well_formed_svg(folder: Path, tmp_path: Path) -> None:
    values = json.loads((folder / "summary.json").read_text())
    values["rows"][1]["stage"] = 'SFT & <co> "x"'
    (folder / "summary.json").write_text(json.dumps(values))
    write_picture(folder, tmp_path / "stages.svg")
    root = ElementTree.parse(tmp_path / "stages.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert 'SFT & <co> "x"' in texts
    assert {f"{r['accuracy']:.1%}" for r in values["rows"]} <= set(texts)
    assert "prefers-color-scheme:dark" in (tmp_path / "stages.svg").read_text()


def test_marks() -> None:
    def group(*completions: Completion) -> Group:
        return Group(1, "", "", None, completions)

    verified = group(
        Completion("", 1.5, {"task": 1.0, "tags": 0.5}),
        Completion("", 0.5, {"task": 0.0, "tags": 0.5}),
    )
    assert marks(verified) == ["right", "wrong"]
    graded = group(
        Completion("", 0.4, {"length": 0.4}),
        Completion("", 0.9, {"length": 0.9}),
        Completion("", None),
    )
    assert marks(graded) == ["", "best", ""]
    assert marks(
        group(Completion("", 0.4, {"length": 0.4}), Completion("", 0.4, {"length": 0.4}))
    ) == ["", ""]


def test_clip() -> None:
    assert clip("short", 100) == "short"
    assert (
        clip("a" * 75 + "b" * 1000 + "c" * 25, 100)
        == f"{'a' * 75}\n[… 1,000 characters left out …]\n{'c' * 25}"
    )


def test_reading_again_gives_the_same_page(folder: Path) -> None:
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first
    assert read_run(folder).title == "quickstart"


def test_the_report_is_not_written_through_a_link(folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (".report.html.partial", f".report.html.partial-{os.getpid()}", "report.html"):
        (folder / name).symlink_to(victim)
    report = write_report(folder)
    assert victim.read_text() == "precious"
    assert not report.is_symlink() and report.read_text().startswith("<!DOCTYPE html>")


def test_the_script_parses() -> None:
    """The script is only run in a browser; a syntax error would leave every browser empty."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    script = files("posttrain.report").joinpath("page.js").read_text(encoding="utf-8")
    done = subprocess.run([node, "--check", "-"], input=script, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_all_that_the_script_reads_is_written(folder: Path) -> None:
    """Names of the data that page.js reads, against those that the page holds."""
    page = page_of(folder)
    completion = page.data("rollouts-3")[0]["completions"][0]
    problem = page.data("problems-0")[0]
    script = files("posttrain.report").joinpath("page.js").read_text(encoding="utf-8")
    assert set(re.findall(r"\bc\.(\w+)", script)) <= completion.keys() | {"log", "show", "hide"}
    assert set(re.findall(r"\bt\.(\w+)", script)) <= {"text", "mark", "count", "chosen"}
    assert set(re.findall(r"\bg\.(\w+)", script)) <= page.data("rollouts-3")[0].keys()
    read_of_stage = set(re.findall(r"\bs\.(\w+)", script))
    assert read_of_stage <= problem["stages"][0].keys() | {"stop"}
