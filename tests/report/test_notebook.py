"""Cells of a notebook: whole markup without scripts, from plain data or objects in memory."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from types import ModuleType

import pytest

from posttrain.report.notebook import (
    MAX_GROUPS,
    Html,
    Rollouts,
    curves,
    evaluation_html,
    metrics_table,
    result_html,
    rollouts_html,
)
from posttrain.types import Example, Sample, Trace, TraceGroup

EVIL = "</pre><script>alert(1)</script>"


def checked(html: Html) -> ElementTree.Element:
    """The cell's elements: it is well formed and renders in a notebook."""
    assert html._repr_html_() == str(html)
    assert "<script" not in html
    return ElementTree.fromstring(str(html).replace(" open>", ' open="">'))


def test_metrics_table_takes_main_metrics_and_spread_steps(fake: ModuleType) -> None:
    root = checked(metrics_table(fake.metrics(50, rl=True), max_rows=5))
    heads = [cell.text for cell in root.iter("th") if cell.get("scope") == "col"]
    assert heads[:2] == ["step", "reward"] and "loss" in heads
    steps = [cell.text for cell in root.iter("th") if cell.get("scope") == "row"]
    assert steps[0] == "1" and steps[-1] == "50" and len(steps) == 5


def test_curves_are_inline_and_static(fake: ModuleType) -> None:
    html = curves(fake.metrics(10, rl=True))
    assert len(list(checked(html).iter("svg"))) > 5
    assert "data-series" not in html
    assert "No metric" in curves([])


def group(text: str, count: int = 1) -> TraceGroup:
    trace = Trace.of_sample(
        (1,), Sample([1, 2], [0.0] * 2, [0.0] * 2, "stop"), text, {"task": 1.0}, 1.0, 0.5
    )
    return TraceGroup(Example("2+2", answer=4, id="a"), (1,), [trace] * count)


def test_rollouts_in_memory_and_lines_of_a_file(fake: ModuleType) -> None:
    html = rollouts_html([group(EVIL, 3), fake.group(2, 0)])
    root = checked(html)
    assert len(list(root.iter("details"))) == 2
    assert "× 3" in html and "✓ right" in html and "gold answer" in html
    assert EVIL in "".join(root.itertext())


def test_many_groups_are_spread(fake: ModuleType) -> None:
    html = rollouts_html([fake.group(step, 0) for step in range(1, 101)])
    assert len(re.findall("<details", html)) == MAX_GROUPS
    assert "step 100" in html and f"{MAX_GROUPS} of 100 prompts" in html


@pytest.mark.parametrize("search", [None, "majority_vote"])
def test_evaluation(fake: ModuleType, search: str | None) -> None:
    html = evaluation_html(fake.evaluation(0.5, search=search))
    checked(html)
    assert "50.0%" in html and ("Search: majority_vote" in html) == (search is not None)


def test_a_list_of_rollouts_renders() -> None:
    groups = Rollouts([group("4")])
    assert groups._repr_html_() == rollouts_html(groups) and len(groups) == 1
    assert "No completion" in Rollouts()._repr_html_()


def test_a_whole_result_is_one_cell(fake: ModuleType) -> None:
    html = result_html(
        fake.metrics(5, rl=True), [fake.group(1, 0)], fake.evaluation(0.5), title="GRPO <1>"
    )
    root = checked(html)
    assert html.count("<style>") == 1 and "GRPO &lt;1&gt;" in html
    assert [e.text for e in root.iter("summary")][:2] == ["Metrics", "Completions"]
    alone = result_html(fake.metrics(2, rl=False))
    assert "Completions" not in checked(alone).itertext() and "50.0%" not in alone
