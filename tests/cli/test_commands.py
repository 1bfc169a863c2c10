"""The command line's exit statuses, and that errors of the system are one line, not a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

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


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a file of rows."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a b", "completion": "c d"}\n' * 3)
    (tmp_path / "pairs.jsonl").write_text(
        '{"prompt": "a b", "chosen": "c d", "rejected": "e"}\n' * 3
    )
    return path


def resolved(arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The recipe that a dry run shows."""
    assert main([*arguments.split(), "--dry-run"]) == 0
    text = capsys.readouterr().out.partition("with this recipe:\n")[2]
    recipe = yaml.safe_load(text)
    assert not Path(recipe["output"]).exists()
    return dict(recipe)


@pytest.mark.parametrize(
    "arguments",
    [
        "sft --model {model} --data rows.jsonl max_steps=2 --output run seed=3",
        "sft max_steps=2 --model {model} seed=3 --output=run --data rows.jsonl",
        "sft seed=3 max_steps=2 model={model} data=rows.jsonl output=run",
    ],
)
def test_changes_stand_in_any_order(
    arguments: str, rows: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = resolved(arguments.format(model=tiny_folder), capsys)
    assert (recipe["max_steps"], recipe["seed"], recipe["output"]) == (2, 3, "run")


def test_preview_takes_changes_after_its_flag(
    rows: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("r.yaml").write_text(f"method: sft\nmodel: {tiny_folder}\ndata: rows.jsonl\n")
    assert main(["preview", "data.limit=2", "--num", "1", "r.yaml", "seed=1"]) == 0
    assert "c d" in capsys.readouterr().out


def test_names_of_trl_work_beside_flags(
    rows: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = "max_length=128 lora_r=8 lora_alpha=4 gradient_checkpointing=true"
    recipe = resolved(f"sft --model {tiny_folder} --data rows.jsonl {names}", capsys)
    assert recipe["data"]["max_length"] == 128
    assert recipe["model"]["lora"]["r"] == 8 and recipe["model"]["lora"]["alpha"] == 4.0
    assert recipe["model"]["gradient_checkpointing"] is True
    assert recipe["model"]["path"] == str(tiny_folder.resolve())


def test_the_main_loss_takes_plain_settings(
    rows: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = f"dpo --model {tiny_folder} --data pairs.jsonl"
    for change in ("beta=0.2", "losses.beta=0.2", "losses.dpo.beta=0.2", "losses.0.beta=0.2"):
        assert resolved(f"{start} {change}", capsys)["losses"] == [{"name": "dpo", "beta": 0.2}]


@pytest.mark.parametrize("command", ["check", "preview"])
def test_check_and_preview_take_the_arguments_of_a_method(
    command: str, rows: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = f"sft --model {tiny_folder} --data rows.jsonl max_steps=1"
    assert main([command, *arguments.split()]) == 0
    assert main([*arguments.split(), f"--{command}"]) == 0
    assert not Path("runs").exists()
    assert main(["check", "sft", "--data", "rows.jsonl"]) == 2
    assert "--model" in capsys.readouterr().err


def test_eval_can_be_checked(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = f"--model {tiny_folder} --task sorting num_examples=3 temperature=0 max_tokens=4"
    assert main(["eval", *arguments.split(), "--check"]) == 0
    assert "3 of" in capsys.readouterr().out
    assert main(["check", "eval", *arguments.split()]) == 0


def test_a_run_stands_for_its_model(
    rows: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path("run")
    run.mkdir()
    (run / "recipe.yaml").write_text("method: sft\n")
    assert main(["eval", "--model", "run", "--task", "sorting", "--check"]) == 1
    assert "without a model" in capsys.readouterr().err
    (run / "model").symlink_to(tiny_folder)
    assert main(["eval", "--model", "run", "--task", "sorting", "max_tokens=4", "--check"]) == 0
    assert "run/model" in capsys.readouterr().err


def test_resume_lists_the_runs_nearby(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/first").mkdir(parents=True)
    Path("runs/first/recipe.yaml").write_text("method: sft\n")
    assert main(["resume", "frist"]) == 2
    message = capsys.readouterr().err
    assert "runs/first" in message and "bin" not in message


def test_a_run_resumes_from_another_folder(
    rows: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = f"sft --model {tiny_folder} --data rows.jsonl max_steps=1 --output run"
    assert main([*arguments.split(), "batch_size=2"]) == 0
    other = rows.parent / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    assert main(["resume", "../run", "max_steps=2"]) == 0
    assert len((rows.parent / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_resume_checks_from_where_it_would_go_on(
    rows: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = f"sft --model {tiny_folder} --data rows.jsonl max_steps=2 batch_size=2 --output run"
    assert main(run.split()) == 0
    files = sorted(Path("run").rglob("*"))
    assert main(["resume", "run"]) == 0
    assert main(["resume", "run", "--check"]) == 0
    assert capsys.readouterr().out.count("max_steps=N --accept max_steps") == 2
    assert main(["resume", "run", "max_steps=4", "--check"]) == 1
    assert "--accept max_steps" in capsys.readouterr().err
    assert main(["resume", "run", "max_steps=4", "--accept", "max_steps", "--check"]) == 0
    told = capsys.readouterr().out
    assert "checkpoint-2: steps 3 to 4" in told and told.count("2 -> 4") == 1
    assert sorted(Path("run").rglob("*")) == files


def test_help_groups_commands_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    page = capsys.readouterr().out
    assert all(f"\n  {name} " in page for name in ("run", "sft", "grpo", "eval", "chat", "ls"))
    assert len(page.splitlines()) < 60 and max(map(len, page.splitlines())) <= 80
    with pytest.raises(SystemExit):
        main(["dpo", "--help"])
    page = capsys.readouterr().out
    for key in ("model.dtype=auto", "data.max_length=null", "beta=0.1", "learning_rate=1e-06"):
        assert f"  {key}" in page, key
    assert max(map(len, page.splitlines())) <= 80
    assert main(["explain", "settings", "lora"]) == 0
    assert "rank of the adapters" in capsys.readouterr().out
    assert main(["explain", "settings", "lorra"]) == 2
