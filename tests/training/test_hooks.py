from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from posttrain.errors import ConfigError, MissingDependency
from posttrain.training.hooks import MetricsWriter, RolloutWriter, add_peak_memory, finite
from posttrain.training.panel import sparkline
from posttrain.training.progress import Progress, duration
from posttrain.training.tracking import build_trackers
from posttrain.types import Example, Sample, Trace, TraceGroup


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_are_lines_that_json_can_hold(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    writer(1, {"loss": 0.5, "kl": math.nan, "ratio": math.inf})
    assert read(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 0.5, "kl": None, "ratio": None}]
    writer.close()


def test_going_on_drops_what_lies_past_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    writer = MetricsWriter(path, resume_step=2)
    writer(3, {"loss": 1.0})
    writer.close()
    assert read(path) == [{"step": 1}, {"step": 2}, {"step": 3, "loss": 1.0}]
    fresh = MetricsWriter(path)  # a run that begins anew keeps nothing
    fresh.close()
    assert path.read_text() == ""


def test_rollouts(tmp_path: Path) -> None:
    trace = Trace.of_sample(
        (1,), Sample([1, 2], [0.0], [0.0], "length"), "text \u00e9", {"a": 1.0}, 1.0, 0.5
    )
    prompt = [{"role": "user", "content": "q"}]
    groups = [TraceGroup(Example(prompt, None, 7, id=str(i)), (1,), [trace]) for i in range(9)]
    writer = RolloutWriter(tmp_path / "rollouts.jsonl", lambda: groups, max_groups=2)
    writer(5, {})
    writer.close()
    rows = read(tmp_path / "rollouts.jsonl")
    assert (
        len(rows) == 2
        and rows[0]["step"] == 5
        and rows[0]["prompt"] == "user: q"
        and rows[0]["answer"] == "7"
    )
    assert rows[0]["completions"] == [
        {
            "text": "text \u00e9",
            "reward": 1.0,
            "rewards": {"a": 1.0},
            "advantage": 0.5,
            "num_tokens": 2,
            "finish_reason": "length",
            "error": None,
        }
    ]


METRICS = {
    "loss": 1.25,
    "reward": 0.5,
    "learning_rate": 1e-6,
    "tokens_per_second": 1234.0,
    "kl": math.nan,
}


def test_plain_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    with Progress(40, title="t", console=Console(file=out, width=60)) as progress:
        for step in range(1, 41):
            progress(step, METRICS)
    lines = out.getvalue().strip().split("\n")
    assert [line.split("  ")[0] for line in lines] == [
        f"t {s}/40" for s in (1, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40)
    ]
    assert (
        "loss 1.25" in lines[0]
        and "lr 1.00e-06" in lines[0]
        and "1,234 tokens/s" in lines[0]
        and "kl -" in lines[0]
    )


@pytest.mark.parametrize("width", [60, 80, 120])
def test_live_display_fits(width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, width=width, height=40, force_terminal=True, legacy_windows=False)
    with Progress(
        40, title="run", console=console, start=10, sampled=lambda: ("what?", "that " * 200, 0.25)
    ) as progress:
        for step in range(11, 20):
            progress(step, {**METRICS, "loss": 1 / step})
        with console.capture() as capture:
            console.print(progress)
        progress.close()
    picture = Console(file=io.StringIO(), width=width, color_system=None)
    picture.print(progress)
    lines = picture.file.getvalue().split("\n")  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "step 19 of 40" in text and "reward 0.25" in text and "that that" in text
    assert capture.get()


def test_small_pieces() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0], 5) == "" and sparkline([math.nan, 1, 1], 5) == "▁▁"
    assert (duration(61), duration(3725)) == ("1:01", "1:02:05")


def test_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    (tracker,) = build_trackers(["tensorboard"], tmp_path)
    tracker(1, {"loss": 1.0})
    tracker.close()  # type: ignore[attr-defined]
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert build_trackers([], tmp_path) == []
    with pytest.raises(
        ConfigError, match="unknown tracker 'tensorbord': did you mean 'tensorboard'"
    ):
        build_trackers(["tensorbord"], tmp_path)
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingDependency, match=rf"pip install 'posttrain\[{name}\]'"):
            build_trackers([name], tmp_path)


def test_services_get_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Service:
        calls: list = []  # noqa: RUF012

        def init(self, **settings):
            self.calls.append(("init", settings["name"]))

        def log(self, metrics, step):
            self.calls.append((step, metrics))

        def finish(self):
            self.calls.append("finish")

    monkeypatch.setitem(sys.modules, "wandb", Service())
    (tracker,) = build_trackers(["wandb"], tmp_path / "my-run")
    tracker(3, {"loss": 1.0})
    tracker.close()  # type: ignore[attr-defined]
    assert Service.calls == [("init", "my-run"), (3, {"loss": 1.0}), "finish"]


def lines(path: Path) -> list[dict]:
    """Objects of a file; only a newline ends a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def sampled_group(text: str = "4", **values: Any) -> TraceGroup:
    trace = Trace.of_sample(
        (1,), Sample([1, 2, 3], [0.0] * 3, [0.0] * 3, "stop"), text, {"task": 1.0}, 1.0, 0.5
    )
    for name, value in values.items():
        setattr(trace, name, value)
    return TraceGroup(
        Example([{"role": "user", "content": "2+2"}], answer=4, id="row-1"), (7,), [trace]
    )


def test_rollouts_every_so_many_steps(tmp_path: Path) -> None:
    writer = RolloutWriter(tmp_path / "rollouts.jsonl", lambda: [sampled_group()], every=5)
    for step in range(1, 12):
        writer(step, {})
    writer.close()
    assert [r["step"] for r in lines(tmp_path / "rollouts.jsonl")] == [1, 5, 10]


def test_failed_rewards_are_null(tmp_path: Path) -> None:
    bad = sampled_group(
        reward=math.nan, rewards={"task": None, "length": math.inf}, error="task raised"
    )
    writer = RolloutWriter(tmp_path / "rollouts.jsonl", lambda: [bad])
    writer(1, {})
    writer.close()
    completion = lines(tmp_path / "rollouts.jsonl")[0]["completions"][0]
    assert completion["reward"] is None
    assert completion["rewards"] == {"task": None, "length": None}
    assert completion["error"] == "task raised"


@pytest.mark.parametrize(
    "text", ["a\u2028b\x85c\x0bd", "half a pair \ud83d", "\x00\x1b[31m", "日本語\n\r\n"]
)
def test_any_text_survives_a_resume(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rollouts.jsonl"
    for step in (1, 2):
        writer = RolloutWriter(path, lambda: [sampled_group(text)], resume_step=step - 1)
        writer(step, {})
        writer.close()
    assert [r["completions"][0]["text"] for r in lines(path)] == [text, text]


def test_finite() -> None:
    assert [finite(v) for v in (1, None, math.nan, -math.inf)] == [1.0, None, None, None]


def test_peak_memory_grows_with_what_is_held() -> None:
    pytest.importorskip("resource")
    before: dict[str, float] = {"loss": 1.0}
    add_peak_memory(1, before)
    held = bytearray(200 * 2**20)
    held[:: 2**12] = b"x" * len(held[:: 2**12])
    after: dict[str, float] = {}
    add_peak_memory(2, after)
    assert before["loss"] == 1.0 and before["memory/peak_mib"] > 10
    assert after["memory/peak_mib"] >= before["memory/peak_mib"]
    assert after["memory/peak_mib"] >= len(held) / 2**20
