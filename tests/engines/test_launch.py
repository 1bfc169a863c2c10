"""Servers as processes: started, watched, ended with their run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from posttrain.config import LaunchConfig
from posttrain.engines.launch import LaunchedServer, ServedModel, check_launch
from posttrain.errors import ConfigError, ServerLost

ANSWERS = """
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
print(sys.argv[1:], os.environ.get("NUMBER"), os.environ.get("PYTHONPATH"), flush=True)
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *values): pass
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def server(folder: Path, text: str = ANSWERS, **changes: Any) -> LaunchedServer:
    script = folder / "program.py"
    script.write_text(text)
    config = LaunchConfig(
        sys.executable,
        module=str(script),
        arguments=["--more"],
        environment={"NUMBER": "{number}"},
        **{"start_seconds": 60.0, **changes},
    )
    served = ServedModel("float32", 64, "raw_logprobs", arguments=["--own"])
    return LaunchedServer(config, "vllm", served, number=3, folder=folder / "logs")


def test_a_server_is_started_again_on_a_port_that_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/of/the/trainer")
    launched = server(tmp_path)
    launched.start("/weights-0")
    assert launched.is_alive
    launched.start("/weights-1")
    log = launched.log.read_text()
    assert "/weights-0" in log and "/weights-1" in log and launched.log.name == "server-3.log"
    assert "'--own', '--more'] 3 None" in log
    launched.stop()
    assert not launched.is_alive
    launched.stop()


def test_a_server_that_ends_at_its_start_shows_its_log(tmp_path: Path) -> None:
    launched = server(tmp_path, "raise SystemExit('no such model')")
    with pytest.raises(ServerLost, match="no such model"):
        launched.start("/weights")
    assert not launched.is_alive


def test_a_server_that_does_not_answer_in_time_is_ended(tmp_path: Path) -> None:
    launched = server(tmp_path, "import time; time.sleep(600)", start_seconds=0.5)
    with pytest.raises(ServerLost, match=r"engine\.launch\.start_seconds"):
        launched.start("/weights")
    assert not launched.is_alive


def test_what_is_not_there_is_refused_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^engine\.launch\.python: "):
        check_launch(LaunchConfig(str(tmp_path / "python")))
    with pytest.raises(ConfigError, match=r"^engine\.launch\.module: "):
        check_launch(LaunchConfig(sys.executable, module=str(tmp_path / "none.py")))


TRAINER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from engines.test_launch import server
launched = server(Path({folder!r}))
launched.start("/weights")
print(launched._process.pid, flush=True)
time.sleep(600)
"""


def running(group: int) -> bool:
    """Whether a process of the session of a guard is left."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout
    return any(str(group) in line.split()[:2] for line in listed.splitlines()[1:])


def test_a_server_ends_with_a_trainer_that_was_killed(tmp_path: Path) -> None:
    tests = str(Path(__file__).parent.parent)
    code = TRAINER.format(tests=tests, folder=str(tmp_path))
    trainer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None
    guard = int(trainer.stdout.readline())
    assert running(guard)
    os.kill(trainer.pid, signal.SIGKILL)
    trainer.wait()
    trainer.stdout.close()
    deadline = time.monotonic() + 60
    while running(guard) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running(guard)
