from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.errors import ConfigError
from posttrain.training import lock
from posttrain.training.lock import locked

HOLD = (
    "import sys, time; from pathlib import Path; from posttrain.training.lock import locked\nwith "
    "locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
)


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock of `tmp_path`/run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_by_name(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with (
        pytest.raises(
            ConfigError, match=rf"in use: process {holder.pid} on host {socket.gethostname()}"
        ),
        locked(tmp_path / "run"),
    ):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path / "run"):  # what it left does not hold
        assert json.loads((tmp_path / "run" / ".lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_a_second_run_of_the_same_process_is_refused(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(ConfigError, match=f"process {os.getpid()}"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


def test_children_do_not_keep_the_lock(tmp_path: Path) -> None:
    child = 0
    try:
        with locked(tmp_path):
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_without_locks_of_the_system_the_process_id_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    here = socket.gethostname()
    for pid, host, free in (
        (os.getppid(), here, False),
        (2**22 + 1, here, True),
        (1, "elsewhere", False),
    ):
        (tmp_path / ".lock").write_text(json.dumps({"pid": pid, "host": host}))
        if free:
            with locked(tmp_path):
                pass
        else:
            with (
                pytest.raises(ConfigError, match=f"process {pid} on host {host}"),
                locked(tmp_path),
            ):
                pass


def test_a_folder_that_stays_empty_is_removed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path / "new"):
        raise RuntimeError
    assert not (tmp_path / "new").exists()
    with locked(tmp_path / "new"):
        (tmp_path / "new" / "file").write_text("")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["file"]


def test_runs_take_the_lock(
    tmp_path: Path, run_recipe: Callable[..., Path], holder: subprocess.Popen[str]
) -> None:
    raw = {"method": "sft", "task": {"name": "arithmetic", "num_examples": 4}, "max_steps": 1}
    for resume in (False, True):
        with pytest.raises(ConfigError, match=f"in use: process {holder.pid}"):
            run_recipe(**raw, output=str(tmp_path / "run"), resume=resume)
    assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"]


def test_folders_that_stay_empty_are_removed_again(tmp_path: Path) -> None:
    with locked(tmp_path / "runs" / "sft"):
        pass
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "runs" / "sft"):
        (tmp_path / "runs" / "other").touch()
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["other"]
