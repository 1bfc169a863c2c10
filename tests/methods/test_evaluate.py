"""Method evaluate: what chose is asked for by name, recorded and shown; what cannot work is
refused before weights load.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import ConfigError
from posttrain.recipe import parse_recipe
from posttrain.report.html import page
from posttrain.report.run_folder import read_run
from posttrain.report.tables import oracles, searches, verdicts
from posttrain.runs import run_of

TASK: dict[str, Any] = {
    "name": "arithmetic",
    "num_steps": 1,
    "max_operand": 9,
    "max_value": 20,
    "num_examples": 6,
}
EVALUATION: dict[str, Any] = {"task": TASK, "num_examples": 4, "sampling": {"max_tokens": 8}}
BEST = {"name": "best_of_n", "num_samples": 3}


def console(tmp_path: Path) -> str:
    return (tmp_path / "console.txt").read_text()


def job(tmp_path: Path, **raw: Any) -> Any:
    """What a check does: everything but loading weights."""
    return run_of(parse_recipe({"output": str(tmp_path / "run"), **raw}, tmp_path)).prepared()


def test_an_oracle_is_recorded_and_shown(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    folder = run_recipe(method="evaluate", evaluation=EVALUATION, search=BEST, scorer="oracle")
    values = json.loads((folder / "evaluation.json").read_text())
    assert (values["search"], values["search_settings"]) == ("best_of_n", {"num_samples": 3})
    assert (values["scorer"], values["oracle"], values["strategy"]) == (
        {"name": "oracle"},
        True,
        "best of 3 (oracle)",
    )
    assert (values["num_examples"], values["num_available"], values["task_settings"]) == (
        4,
        6,
        {**TASK, "name": None} and {k: v for k, v in TASK.items() if k != "name"},
    )
    printed = console(tmp_path)
    assert "on 4 of 6 problems by best of 3 (oracle)" in printed and "tokens per problem" in printed
    assert "search best_of_n (num_samples 3); scorer oracle; oracle: true" in printed
    assert (
        "oracle: the task's own verdict chose among 3 samples; no deployed system can reach this"
        in printed
    )
    text = page(read_run(folder))
    assert (
        "4 of 6 problems" in text
        and "best of 3 (oracle)" in text
        and "no deployed system can reach this" in text
    )
    assert "tokens per problem" in text and "Scorer: oracle." in text


def test_no_search_takes_the_gold_by_itself(tmp_path: Path, tiny_folder: Path) -> None:
    raw = {"method": "evaluate", "model": str(tiny_folder), "evaluation": EVALUATION}
    for search in ("best_of_n", "weighted_vote"):
        with pytest.raises(ConfigError, match=f"search '{search}' needs a scorer"):
            job(tmp_path, **raw, search=search)
    facts = dict(job(tmp_path, **raw, search=BEST, scorer="oracle").facts)
    assert (
        facts["task"] == "arithmetic: 4 of 6 problems" and facts["search"] == "best of 3 (oracle)"
    )
    assert facts["oracle"].startswith("the task's own verdict chose among 3 samples")
    facts = dict(job(tmp_path, **raw, search=BEST, scorer="length").facts)
    assert facts["search"] == "best of 3 by length" and "oracle" not in facts


def test_the_number_of_samples_is_the_search_s_own(tmp_path: Path, tiny_folder: Path) -> None:
    raw = {
        "method": "evaluate",
        "model": str(tiny_folder),
        "evaluation": {**EVALUATION, "num_samples": 4},
    }
    with pytest.raises(ConfigError, match="evaluation.num_samples: 4 is not read under a search"):
        job(tmp_path, **raw, search="majority_vote")
    assert dict(job(tmp_path, **raw).facts)["task"] == "arithmetic: 4 of 6 problems, 4 samples each"


def test_a_problem_that_is_not_asked_cannot_stop_an_evaluation(
    tmp_path: Path, tiny_folder: Path
) -> None:
    rows = [{"prompt": "1+1=", "answer": "2"}, {"prompt": "9" * 5000, "answer": "3"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    evaluation = {
        "task": {"name": "jsonl", "path": "rows.jsonl"},
        "num_examples": 1,
        "sampling": {"max_tokens": 4},
    }
    assert job(tmp_path, method="evaluate", model=str(tiny_folder), evaluation=evaluation).facts[0][
        1
    ] == ("jsonl: 1 of 2 problems, 1 sample each")


def test_a_beam_by_values_needs_a_critic_before_weights_load(
    tmp_path: Path, tiny_folder: Path
) -> None:
    """Also in a pipeline, where the stage that trains the model says whether there will be one."""
    beam = {"name": "beam", "method": "evaluate", "search": {"name": "value_beam", "num_beams": 2}}
    with pytest.raises(ConfigError, match="asks for values, and the model .* has no critic"):
        job(
            tmp_path,
            model=str(tiny_folder),
            evaluation=EVALUATION,
            **{k: v for k, v in beam.items() if k != "name"},
        )
    rows = [{"prompt": "1+1=", "completion": " 2", "reward": r} for r in (0.0, 1.0)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    pipeline: dict[str, Any] = {
        "method": "pipeline",
        "model": str(tiny_folder),
        "evaluation": EVALUATION,
    }
    offline = {"name": "off", "method": "offline", "data": "rows.jsonl"}
    assert ("  search", "value beam of 2") in job(
        tmp_path, **pipeline, stages=[offline, beam]
    ).facts
    ppo = {"name": "ppo", "method": "ppo", "task": TASK, "sampling": {"max_tokens": 8}}
    assert ("  search", "value beam of 2") in job(tmp_path, **pipeline, stages=[ppo, beam]).facts
    draw = {"name": "draw", "method": "sample", "task": TASK}
    waiting = [
        draw,
        {**offline, "data": "stage:draw/samples.jsonl"},
        beam,
    ]  # whose rows are not there yet
    assert ("  search", "value beam of 2") in job(tmp_path, **pipeline, stages=waiting).facts
    for stage in ({"name": "sft", "method": "sft", "task": TASK}, {**offline, "losses": ["nll"]}):
        with pytest.raises(
            ConfigError, match="stage 'beam': .*the stage that trains it has no critic"
        ):
            job(tmp_path, **pipeline, stages=[stage, beam])


def test_an_oracle_in_the_table_of_a_pipeline(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    folder = run_recipe(
        method="pipeline",
        evaluation=EVALUATION,
        stages=[
            {"name": "base", "method": "evaluate"},
            {
                "name": "best",
                "method": "evaluate",
                "title": "best of 3",
                "search": BEST,
                "scorer": "oracle",
            },
            {
                "name": "vote",
                "method": "evaluate",
                "search": {"name": "majority_vote", "num_samples": 3},
            },
            {
                "name": "other",
                "method": "evaluate",
                "evaluation": {**EVALUATION, "task": {**TASK, "seed": 9}},
            },
        ],
    )
    rows = json.loads((folder / "summary.json").read_text())["rows"]
    assert [r["oracle"] for r in rows] == [False, True, False, False] and rows[1][
        "note"
    ] == "best of 3 (oracle)"
    assert rows[1]["scorer"] == {"name": "oracle"} and rows[1]["problems"] == "4 of 6 problems"
    assert (
        rows[2]["p_value"] is not None and rows[3]["p_value"] is None
    )  # other questions are not compared
    summary = read_run(folder).summary
    assert summary is not None and [r.label for r in summary.rows] == [
        "base",
        "best of 3 (oracle)",
        "vote",
        "other",
    ]
    assert searches(summary.rows)[0].startswith(
        "best of 3 (oracle): best_of_n (num_samples 3); scorer oracle; oracle: true"
    )
    assert oracles(summary.rows) == [
        "best of 3 (oracle): the gold chose among 3 samples; no deployed system can reach this."
    ]
    assert verdicts(summary.rows) == []  # nothing is better than what nobody can reach
    assert "best of 3 (oracle)" in page(read_run(folder))
