"""Flags and key=value changes in any order."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
from support import resolved

from posttrain.cli import main
from posttrain.cli.parser import (
    Command,
    Parser,
    command_parser,
    main_parser,
    parse_command,
    split_command,
)


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


def test_an_unknown_flag_shows_five_near_ones_at_most(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser("posttrain try")
    for number in range(9):
        parser.add_argument(f"--option{number}")
    parser.add_argument("--far")
    with pytest.raises(SystemExit):
        parser.parse_args(["--optional"])
    error = capsys.readouterr().err
    near = set(re.findall(r"--\w+", error)) - {"--optional", "--help"}
    assert len(near) == 5 and "--far" not in near
    assert "`posttrain try --help` lists" in error
    with pytest.raises(SystemExit):
        parser.parse_args(["--xyzzy"])
    assert set(re.findall(r"--\w+", capsys.readouterr().err)) == {"--xyzzy", "--help"}


def test_flags_may_be_shortened_and_values_may_begin_with_dashes_behind_two(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["sft", "--mod", "/no/such/folder", "--dat", "y"]) == 1
    assert "no model folder /no/such/folder" in capsys.readouterr().err
    assert main(["explain", "--", "losses", "--nothing"]) == 2
    assert "unknown loss '--nothing'" in capsys.readouterr().err


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


def parsed(text: str, *, changes: bool = False) -> argparse.Namespace:
    """The options of a command `do A B+` with the flags --num N and --dry."""

    def arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--num", type=int, default=1)
        parser.add_argument("--dry", action="store_true")

    command = Command("look up", "Do.", lambda options: 0, arguments, ("a?", "b+"), changes)
    commands = {"do": command}
    parser = command_parser("do", commands, main_parser(commands))
    return parse_command(parser, text.split(), argparse.Namespace())


def test_words_and_flags_stand_in_any_order() -> None:
    for text in ("x y z --num 3 --dry", "--num=3 x --dry y z", "x y --dry --num 3 -- z"):
        options = parsed(text)
        assert (options.a, options.b, options.num, options.dry) == ("x", ["y", "z"], 3, True)


def test_changes_are_told_from_words() -> None:
    options = parsed("x k.a=1 --num 2 y b=c=d", changes=True)
    assert (options.a, options.b) == ("x", ["y"])
    assert options.overrides == ["k.a=1", "b=c=d"]


def test_a_file_whose_name_looks_like_a_change_is_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a=b").touch()
    options = parsed("x a=b", changes=True)
    assert options.b == ["a=b"] and options.overrides == []


def test_missing_words_and_unknown_commands_have_status_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        parsed("--num 3")
    assert stop.value.code == 2 and "B is missing" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        command_parser("don", {}, main_parser({}))
    assert stop.value.code == 2 and "'don'" in capsys.readouterr().err


def test_the_command_is_the_first_word() -> None:
    assert split_command(["--traceback", "run", "a", "--b"]) == (
        ["--traceback"],
        "run",
        ["a", "--b"],
    )
    assert split_command(["--version"]) == (["--version"], None, [])
