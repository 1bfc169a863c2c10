"""Metrics by step and by name, completions that are recorded, the model of a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from posttrain.training.result import MAX_GROUPS, Metrics, Record, Result, read_lines
from posttrain.types import Example, Sample, Trace, TraceGroup

ROWS = [{"step": 0, "eval_loss": 3.0}, {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]


def test_metrics_by_step_and_by_name() -> None:
    metrics = Metrics(ROWS)
    assert metrics["loss"] == [2.0, 1.5] and metrics["eval_loss"] == [3.0]
    assert metrics["nothing"] == []
    assert metrics[-1] == ROWS[-1] and metrics[1:] == ROWS[1:]
    assert len(metrics) == 3 and list(metrics) == ROWS
    assert metrics.names() == ["step", "eval_loss", "loss"]
    assert "<table" in metrics._repr_html_()


def group(number: int) -> TraceGroup:
    trace = Trace.of_sample((1,), Sample([1], [0.0], [0.0], "stop"), f"answer {number}")
    trace.reward = float(number)
    return TraceGroup(Example(f"prompt {number}", id=str(number)), (1, 2), [trace])


def test_a_few_groups_of_each_step_are_recorded() -> None:
    source = SimpleNamespace(groups=[group(i) for i in range(MAX_GROUPS + 3)])
    record = Record(source)
    record(1, {"loss": 2.0})
    source.groups = [group(9)]
    record(2, {"loss": 1.0})
    assert record.metrics == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    assert len(record.rollouts) == MAX_GROUPS + 1
    assert [r["step"] for r in record.rollouts] == [1] * MAX_GROUPS + [2]
    assert record.rollouts[-1]["completions"][0]["text"] == "answer 9"
    silent = Record()
    silent(1, {})
    assert silent.rollouts == []


def test_the_model_of_a_finished_run_is_loaded_once_and_when_it_is_read() -> None:
    loads: list[str] = []

    def load() -> object:
        loads.append("load")
        return object()

    result = Result(None, metrics=ROWS, folder=Path("runs/a"), load=load)
    assert loads == [] and "2 steps" in repr(result) and "runs/a" in repr(result)
    assert result.model is result.model and loads == ["load"]
    model = object()
    assert Result(model, load=load).model is model and loads == ["load"]
    assert "0 steps" in repr(Result(model))


def test_only_a_newline_ends_a_line(tmp_path: Path) -> None:
    rows = [{"text": "a\u2028b\u0085c\x0c"}, {"text": "d"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    assert read_lines(path) == rows
    assert read_lines(tmp_path / "none.jsonl") == []
