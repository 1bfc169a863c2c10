"""Tables and data for scripts, safe with any text."""

from __future__ import annotations

import json
import re

import pytest

from posttrain.report.markup import Row, safe_json, switch, table


def test_cells_carry_the_names_of_their_columns() -> None:
    text = table(["run", "accuracy", "p"], [Row("a", ["1%", ""], ["strong"])], "Runs")
    cells = re.findall(r'<td data-label="(\w+)"( class="\w+")?>([^<]*)</td>', text)
    assert cells == [("accuracy", ' class="strong"', "1%"), ("p", "", "")]


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError):
        table(["run", "accuracy"], [Row("a", ["1", "2"])], "Runs")


def test_text_stays_text() -> None:
    evil = '</script><b a="'
    assert "<b" not in table([evil, evil], [Row(evil, [evil])], evil)
    assert "<" not in safe_json([evil]) and json.loads(safe_json([evil])) == [evil]


def test_a_switch_names_its_class() -> None:
    assert 'checked data-switch="smoothed"' in switch("smoothed", "smoothed", on=True)
    assert "checked" not in switch("logged", "log axis")
