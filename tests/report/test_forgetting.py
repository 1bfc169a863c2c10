"""The ledger on a page, and the plot of new against old ability."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from posttrain.errors import DataError
from posttrain.evaluation.forgetting import Change, Forgetting
from posttrain.evaluation.statistics import Difference
from posttrain.report.forgetting import ledger, pareto_front, write_pareto
from posttrain.report.html import page
from posttrain.report.run_folder import read_run


def change(name: str, before: float, after: float) -> Change:
    d = after - before
    return Change(name, "accuracy", before, after, Difference(d, d - 0.1, d + 0.1, 0.01, 50), 1, 9)


def entry(new: float, old: float) -> Forgetting:
    return Forgetting("start", "end", [change("<old>", 0.8, old)], [change("new", 0.2, new)])


def test_the_front_holds_what_no_other_run_beats() -> None:
    points = {"a": (0.5, 0.9), "b": (0.9, 0.5), "c": (0.4, 0.8), "d": (0.9, 0.4)}
    assert pareto_front(points) == ["a", "b"]


def test_equal_points_are_both_on_the_front() -> None:
    assert pareto_front({"a": (0.5, 0.5), "b": (0.5, 0.5)}) == ["a", "b"]


def test_the_plot_is_xml_with_each_run(tmp_path: Path) -> None:
    ledgers = {"run & one": entry(0.6, 0.7), "two": entry(0.9, 0.3)}
    abilities = {name: ledger.abilities() for name, ledger in ledgers.items()}
    place = write_pareto(abilities, tmp_path / "p")
    root = ElementTree.fromstring(place.read_text())
    text = "".join(root.itertext())
    assert "run & one: new 60.0%, old 70.0%" in text and "two" in text
    circles = [float(c.get("cx", "nan")) for c in root.iter() if c.tag.endswith("circle")]
    assert len(circles) == 4 and all(0 < x < 640 for x in circles)


def test_runs_without_a_new_task_have_no_plot() -> None:
    with pytest.raises(DataError):
        Forgetting("s", "e", [change("old", 0.5, 0.4)]).abilities()


def test_a_page_shows_the_ledger_of_its_run(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("method: sft\n")
    assert "Old abilities" not in page(read_run(tmp_path))
    entry(0.6, 0.7).save(tmp_path)
    text = page(read_run(tmp_path))
    assert "Old abilities before and after" in text
    assert "&lt;old&gt;" in text and "<old>" not in text
    assert "worse: &lt;old&gt; -10.0%" in text


def test_the_table_has_a_row_for_each_suite() -> None:
    text = ledger(entry(0.6, 0.7).to_json())
    assert text.count('<th scope="row">') == 2
