"""The command line's exit statuses, and that errors of the system are one line, not a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.cli import main


def test_wrong_input_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert main(["ls", "lossess"]) == 2
    assert "did you mean 'losses'" in capsys.readouterr().err
    assert main([]) == 0


def test_an_output_that_cannot_be_written_is_one_line(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    arguments = [
        "sft",
        "--model",
        str(tiny_folder),
        "--data",
        str(tmp_path / "rows.jsonl"),
        f"--output={tmp_path / 'file' / 'run'}",
    ]
    assert main(arguments) == 1
    told = capsys.readouterr().err
    assert "NotADirectoryError" in told and "Traceback" not in told
