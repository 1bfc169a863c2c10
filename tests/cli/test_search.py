"""`posttrain search`: any strategy on a task or on prompts, with a folder that goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.cli import main

TASK = "--task arithmetic num_examples=2 task.num_steps=1 task.split=test task.num_examples=9"


def test_a_task_is_answered_and_the_folder_holds_everything(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = f"search {tiny_folder} --search majority_vote {TASK} num_samples=3 --budget 20"
    assert main([*arguments.split(), "--check"]) == 0
    assert not Path("runs").exists()
    assert main([*arguments.split(), "--output", "out"]) == 0
    told = capsys.readouterr().out
    assert "arithmetic-test-0-0: " in told and "tokens)" in told
    saved = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert saved["search_settings"] == {"num_samples": 3}
    assert saved["accounts"]["max_tokens"] == 20.0
    assert all(e["num_tokens"][0] <= 20 for e in saved["examples"])
    calls = (tmp_path / "out" / "journal.jsonl").read_bytes()
    assert calls.count(b"\n") == 3  # what it is about, and a call for each problem

    (tmp_path / "out" / "evaluation.json").unlink()  # as if it had been stopped before its end
    assert main(["resume", "out"]) == 0
    again = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert again["examples"] == saved["examples"]
    assert (tmp_path / "out" / "journal.jsonl").read_bytes() == calls


def test_prompts_are_answered(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["scorer=length", "num_samples=2", "max_tokens=5", "temperature=0.5"]
    arguments = ["search", str(tiny_folder), "--search", "best_of_n", "--prompt", "1+1=", *more]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert told.startswith("> 1+1=") and "tokens" in told
    assert (tmp_path / "out" / "journal.jsonl").is_file()


def test_an_amateur_is_a_key(tiny_folder: Path, tmp_path: Path) -> None:
    search = ["search", str(tiny_folder), "--search", "contrastive_decoding", "max_tokens=4"]
    named = [*search, f"amateur={tiny_folder}"]
    assert main([*named, "--prompt", "1+1=", "--output", str(tmp_path / "prompt")]) == 0
    of_task = [*TASK.split(), "--output", str(tmp_path / "task")]
    assert main([*search, *of_task]) == 2
    assert main([*named, *of_task]) == 0
    header = json.loads((tmp_path / "task" / "journal.jsonl").read_text().splitlines()[0])
    assert header["about"]["amateur"] == str(tiny_folder)


@pytest.mark.parametrize(
    "arguments",
    [
        "--search greedy --task arithmetic amateur=embedded",
        "--task arithmetic",
        "--search majority_vot --task arithmetic",
        "--search majority_vote",
        "--search majority_vote --task arithmetic --prompt a",
        "--search majority_vote --task arithmetic num_beams=3",
        "--search best_of_n --task arithmetic",
        "--search majority_vote --task arithmetic --budget 0",
        "--search majority_vote --prompt a num_sample=3",
    ],
)
def test_wrong_arguments_are_status_2(arguments: str, tiny_folder: Path) -> None:
    assert main(["search", str(tiny_folder), *arguments.split()]) == 2


def test_a_policy_names_its_strategy(tmp_path: Path) -> None:
    from argparse import Namespace

    from posttrain.cli.arguments import search_name
    from posttrain.errors import ConfigError, DataError
    from posttrain.search.policy import DEFAULT, SCORED_DEFAULT

    for policy, name in ((DEFAULT, "compute_optimal"), (SCORED_DEFAULT, "scored_compute_optimal")):
        path = str(policy.save(tmp_path / f"{name}.json"))
        assert search_name(Namespace(search=None, policy=path)) == name
        with pytest.raises(ConfigError):
            search_name(Namespace(search="majority_vote", policy=path))
    with pytest.raises(DataError):
        search_name(Namespace(search=None, policy=str(tmp_path / "missing.json")))
