"""`posttrain icl`: a table, its files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli import main
from posttrain.cli.icl import rows_named, settings_of

CALL = ["icl", "embedded-icl", "labelled_words:num_labels=3,num_examples=60"]
SMALL = ["num_examples=8", "num_shots=3"]


def test_a_table_and_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    parts = ["selection={name: nearest, features: words}", "order=similarity", "calibration=batch"]
    assert main([*CALL, *SMALL, *parts, "template.chat=true"]) == 0
    shown = capsys.readouterr()
    assert "accuracy" in shown.out and "ECE" in shown.out
    whole = json.loads(Path("runs/icl/in_context.json").read_text())
    assert whole["settings"]["selection"] == {"name": "nearest", "features": "words"}
    assert len(Path("runs/icl/rows.jsonl").read_text().splitlines()) == 8
    assert main([*CALL, *SMALL]) == 2  # the folder is taken


def test_files_of_questions_and_demonstrations(tmp_path: Path) -> None:
    for name in ("asked", "pool"):
        lines = [json.dumps({"s": f"{name} {n}", "y": f"l{n % 2}"}) + "\n" for n in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    call = ["icl", "embedded-icl", str(tmp_path / "asked.jsonl"), "--output", str(tmp_path / "out")]
    columns = ["text_column=s", "label_column=y", "num_shots=2"]
    assert main([*call, "--demonstrations", str(tmp_path / "pool.jsonl"), *columns]) == 0
    whole = json.loads((tmp_path / "out" / "in_context.json").read_text())
    assert whole["num_pool"] == 8 and whole["metrics"]["accuracy"]["n"] == 8


def test_texts_of_rows_and_settings() -> None:
    component: Any = rows_named("labelled_words:seed=3")
    assert component.settings == {"seed": 3} and rows_named("a.tsv") == "a.tsv"
    own, rest = settings_of(
        ["num_shots=4", "labels=[a,b]", "dtype=float32", "template.turn=<{text}>"]
    )
    assert own == {"num_shots": 4, "labels": ["a", "b"], "template": {"turn": "<{text}>"}}
    assert rest == ["dtype=float32"]


@pytest.mark.parametrize(
    "changes",
    [
        ["num_shot=4"],
        ["num_shots=x"],
        ["selection=nearer"],
        ["template.inputs=x"],
        ["endpoint.url=http://localhost:1/v1", "endpoint.model=m", "dtype=float32"],
    ],
)
def test_wrong_arguments_are_status_2(
    changes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*CALL, *changes]) == 2
