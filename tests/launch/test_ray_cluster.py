"""A training whose ranks Ray places on this machine: one is killed, and the run goes on."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from child_processes import children, gone
from support import lines

from posttrain.cli import launched
from posttrain.cluster_config import ClusterConfig
from posttrain.errors import ConfigError, MissingDependency
from posttrain.launch import ray_cluster
from posttrain.launch.job import Job
from posttrain.launch.ray_cluster import RayCluster
from posttrain.recipe import parse_recipe


@pytest.fixture
def ray() -> Any:
    return pytest.importorskip("ray", reason="the extra ray is not installed")


@pytest.mark.timeout(1600)
def test_start_train_kill_a_worker_go_on(
    ray: Any, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, jobs = tmp_path / "run", []
    raw = {
        "method": "sft",
        "model": {"path": str(tiny_folder), "dtype": "float32"},
        "task": {"name": "arithmetic", "num_examples": 40, "num_steps": 1},
        "output": str(folder),
        "batch_size": 8,
        "max_steps": 60,
        "save_every": 2,
        "learning_rate": 1e-3,
        "launch": {"ranks_per_node": 2, "max_restarts": 2},
    }

    class Watched(Job):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            jobs.append(self)

    monkeypatch.setattr(launched, "Job", Watched)
    monkeypatch.setattr(ray_cluster, "_ATTEMPTS", 20)  # of a busy machine
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(p) for p in _paths()))
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 1500
        while not list(folder.glob("checkpoint-*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        killed.extend(children(jobs[0].pids["rank 1"], "posttrain") if jobs else [])
        for pid in killed:
            os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    job = launched.launch(parse_recipe(raw, tmp_path), launched.by_ray)
    thread.join()
    assert killed and job.restarts == 1
    assert [row["step"] for row in lines(folder / "metrics.jsonl")] == list(range(1, 61))
    assert (folder / "model" / "model.safetensors").is_file()
    log = (folder / "launch.log").read_text()
    assert "[launch] rank" in log and "1 of 2 restarts" in log and "[rank 0]" in log
    assert all(gone(pid) for pid in job.pids.values())
    assert not ray.is_initialized()
    with pytest.raises(ConfigError, match="already holds a run"):
        launched.launch(parse_recipe(raw, tmp_path), launched.by_ray)


def test_more_than_the_cluster_has_is_refused(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "_PLACE_SECONDS", 1.0)
    cluster = RayCluster(ClusterConfig(nodes=2), notice=lambda text: None)
    try:
        with pytest.raises(ConfigError, match="launch.nodes: Ray has no room for 2 x"):
            cluster.nodes()  # two machines, and there is one
    finally:
        cluster.close()


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependency, match=r"posttrain\[ray\]"):
        RayCluster(ClusterConfig(), notice=lambda text: None)


def _paths() -> list[Path]:
    """Where the package is, so that processes of Ray find the same one."""
    import posttrain

    return [Path(str(posttrain.__file__)).parent.parent]
