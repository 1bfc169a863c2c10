"""Reading run folders: whole ones, cut-off ones, broken ones."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from posttrain.errors import DataError
from posttrain.report import run_folder
from posttrain.report.run_folder import read_run


def test_a_pipeline(folder: Path) -> None:
    run = read_run(folder)
    assert run.title == "quickstart"
    assert run.command == "posttrain run recipes/quickstart.yaml seed=0"
    assert [s.path.name for s in run.stages] == ["base", "sft", "grpo", "vote"]
    assert run.summary is not None
    assert [r.stage for r in run.summary.rows] == ["base", "SFT", "GRPO", "GRPO + vote of 8"]
    assert run.summary.rows[0].p_value is None
    assert set(run.summary.rows[0].pass_at) == {2, 4, 8, 16}
    grpo = run.stages[2]
    assert len(grpo.metrics) == 80
    assert len(grpo.rollouts) == 160
    assert grpo.rollouts[0].completions[-1].reward is None
    assert grpo.evaluation is not None
    assert list(grpo.evaluation.by_k("pass")) == [2, 4, 8, 16]
    assert run.stages[0].metrics == []


def test_stages_without_a_summary_come_in_the_order_they_began(folder: Path) -> None:
    import os

    (folder / "summary.json").unlink()
    for when, name in enumerate(("vote", "base", "grpo", "sft")):
        os.utime(folder / name / "recipe.yaml", ns=(when * 10**9, when * 10**9))
    assert [s.path.name for s in read_run(folder).stages] == ["vote", "base", "grpo", "sft"]


def test_a_half_written_last_line_is_left_out(folder: Path) -> None:
    with (folder / "grpo" / "rollouts.jsonl").open("ab") as file:
        file.write('{"step": 81, "prompt": "é'.encode()[:-1])
    grpo = read_run(folder).stages[2]
    assert len(grpo.rollouts) == 160
    assert grpo.cut_off == ["rollouts.jsonl"]


def test_separators_inside_a_completion_end_no_line(tmp_path: Path, fake: ModuleType) -> None:
    fake.write_lines(tmp_path / "rollouts.jsonl", [fake.group(1, 0, text="a\u2028b\x85c")])
    (tmp_path / "recipe.yaml").write_text("method: grpo\n")
    assert read_run(tmp_path).rollouts[0].completions[0].text == "a\u2028b\x85c"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "metrics.jsonl",
            '{"step": 1}\n{"step" 2}\n{"step": 3}\n',
            r"metrics\.jsonl:2: not valid JSON",
        ),
        ("metrics.jsonl", '{"loss": 1}\n', r"metrics\.jsonl:1: the key 'step' is missing"),
        ("metrics.jsonl", '{"step": "x"}\n', r"metrics\.jsonl:1: a value has the wrong type"),
        ("metrics.jsonl", "[1]\n[2]\n", r"metrics\.jsonl:1: an object is expected, not list"),
        (
            "rollouts.jsonl",
            '{"step": 1, "prompt": "x"}\n',
            r"rollouts\.jsonl:1: the key 'completions' is missing",
        ),
        ("evaluation.json", '{"task": "x"', r"evaluation\.json is not valid JSON"),
        ("evaluation.json", '{"task": "x"}', r"evaluation\.json: the key 'metrics' is missing"),
        (
            "summary.json",
            '{"rows": [{"stage": "a"}]}',
            r"summary\.json: the key 'accuracy' is missing",
        ),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_run(tmp_path)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no run"):
        read_run(tmp_path)
    with pytest.raises(DataError, match="no run folder"):
        read_run(tmp_path / "absent")


def test_a_recipe_alone_is_a_run(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("method: sft\ntitle: 'my run'\n")
    run = read_run(tmp_path)
    assert (run.title, run.command, run.metrics, run.evaluation) == ("my run", "", [], None)


def test_a_summary_as_the_contract_has_it(tmp_path: Path) -> None:
    row = {"stage": "base", "accuracy": 0.5, "low": 0.4, "high": 0.6, "p_value": None}
    (tmp_path / "summary.json").write_text(
        json.dumps({"title": "t", "command": "c", "rows": [row]})
    )
    run = read_run(tmp_path)
    assert run.summary is not None
    assert run.summary.rows[0].seconds is None


def test_samples_are_grouped_by_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"prompt": "2+2", "completion": "4", "reward": 1.0, "answer": "4", "id": "a"},
        {"prompt": "2+2", "completion": "5", "reward": 0.0, "answer": "4", "id": "a"},
        {
            "prompt": [{"role": "user", "content": "hi"}],
            "chosen": [{"role": "assistant", "content": "hello"}],
            "rejected": "no",
        },
        {"prompt": "other formats are skipped", "label": True},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "samples.jsonl").write_text(text)
    first, second = read_run(tmp_path).samples
    assert [(c.text, c.reward) for c in first.completions] == [("4", 1.0), ("5", 0.0)]
    assert (first.step, first.answer, second.prompt) == (None, "4", "user: hi")
    roles = [(c.role, c.text) for c in second.completions]
    assert roles == [("chosen", "assistant: hello"), ("rejected", "no")]
    monkeypatch.setattr(run_folder, "MAX_SAMPLE_ROWS", 1)
    run = read_run(tmp_path)
    assert (len(run.samples), run.num_samples) == (1, 4)


def test_a_broken_row_of_samples_is_named(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text('{"prompt": "a", "completion": "b"}\nrubbish\n')
    with pytest.raises(DataError, match=r"samples.jsonl:2"):
        read_run(tmp_path)
