"""A table of methods against forgetting on a page."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from posttrain.evaluation.sequences import Sequences
from posttrain.report.html import write_report
from posttrain.report.sequences import accuracy_map, mean_scores, sequences, write_heat_maps

SCORES = [[[0.0, 0.2], [1.0, 0.3], [0.4, 0.8]], [[0.0, 0.0], [0.8, 0.1], [0.4, 0.6]]]
RESULT = Sequences("m", ["a<b", "c"], [0, 1], {"naive": SCORES, "ewc(weight=9.0)": SCORES})


def test_a_map_is_xml_with_a_cell_per_task_and_stage() -> None:
    root = ET.fromstring(accuracy_map("naive", RESULT.stages, SCORES[0]))
    cells = [e for e in root.iter() if e.tag.endswith("rect")]
    assert len(cells) == 1 + 6
    assert sum("stroke" in e.attrib for e in cells) == 2
    texts = "".join(root.itertext())
    assert "100%" in texts and "a<b" in texts


def test_maps_show_means_over_seeds(tmp_path: Path) -> None:
    values = RESULT.values()
    assert mean_scores(values, "naive")[1] == [0.9, 0.2]
    files = write_heat_maps(values, tmp_path)
    assert [f.name for f in files] == ["accuracy-naive.svg", "accuracy-ewc-weight=9.0.svg"]
    assert "90%" in files[0].read_text()


def test_the_page_has_the_table_and_the_differences(tmp_path: Path) -> None:
    page = sequences(RESULT.values())
    assert "BWT" in page and "ewc(weight=9.0) - naive, AP" in page
    RESULT.save(tmp_path)
    (tmp_path / "recipe.yaml").write_text("# posttrain continual\nmethod: continual_learning\n")
    assert "Continual learning" in write_report([tmp_path]).read_text()
