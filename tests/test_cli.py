"""The command line's exit statuses, and that errors of the system are one line, not a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.cli import main


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


def test_wrong_input_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert main(["ls", "lossess"]) == 2
    assert "did you mean 'losses'" in capsys.readouterr().err
    assert main([]) == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("sft --modell x --data y", "there is no flag --modell: did you mean '--model'?"),
        (
            "sft --model x --data y --outputt=z",
            "there is no flag --outputt: did you mean '--output'?",
        ),
        ("--verzion", "there is no flag --verzion: did you mean '--version'?"),
        ("run r.yaml --learning_rate 1", "A key of the recipe is given as learning_rate=VALUE"),
    ],
)
def test_an_unknown_flag_is_named_before_what_is_missing(
    arguments: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())
    assert stop.value.code == 2 and told in capsys.readouterr().err


def test_flags_may_be_shortened_and_values_may_begin_with_dashes_behind_two(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["sft", "--mod", "/no/such/folder", "--dat", "y"]) == 1
    assert "no model folder /no/such/folder" in capsys.readouterr().err
    assert main(["explain", "--", "losses", "--nothing"]) == 2
    assert "unknown loss '--nothing'" in capsys.readouterr().err
