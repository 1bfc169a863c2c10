"""Trackers: none unless asked for, real event files, and the interface that the services have."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from posttrain.errors import ConfigError, MissingDependency
from posttrain.training.tracking import build_trackers


@pytest.mark.parametrize("report_to", [[], ["none"]])
def test_none_by_default(tmp_path: Path, report_to: list[str]) -> None:
    assert build_trackers(report_to, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_unknown_name_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'tensorbord': did you mean 'tensorboard'\?"):
        build_trackers(["tensorbord"], tmp_path)


def test_tensorboard_writes_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tracker,) = build_trackers(["tensorboard", "tensorboard"], tmp_path)
    tracker(1, {"loss": 0.5, "rewards/task/mean": 0.25})
    tracker(2, {"loss": 0.25, "kl": math.nan})
    tracker.close()  # type: ignore[attr-defined]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    assert [e.value for e in events.Scalars("rewards/task/mean")] == [0.25]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    calls: list[tuple[str, Any]] = []
    fake: Any = ModuleType(name)
    fake.init = lambda **options: calls.append(("init", options))
    fake.log = lambda metrics, step: calls.append(("log", (metrics, step)))
    fake.finish = lambda: calls.append(("finish", None))
    monkeypatch.setitem(sys.modules, name, fake)
    stage = tmp_path / "quickstart" / "grpo"
    stage.mkdir(parents=True)
    (stage.parent / "recipe.yaml").write_text("method: pipeline\n")
    (stage / "recipe.yaml").write_text("# posttrain run x\nmethod: grpo\nseed: 3\n")
    (tracker,) = build_trackers([name], stage)
    tracker(7, {"loss": 0.5, "kl": math.nan})
    tracker.close()  # type: ignore[attr-defined]
    assert calls == [
        (
            "init",
            {
                "project": "posttrain",
                "name": "quickstart/grpo",
                "config": {"method": "grpo", "seed": 3},
            },
        ),
        ("log", ({"loss": 0.5}, 7)),
        ("finish", None),
    ]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_missing_library_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependency, match=rf"pip install 'posttrain\[{name}\]'"):
        build_trackers([name], tmp_path)
