"""Ranks and servers as processes of this machine, without Ray: started, watched, started again."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from child_processes import gone

from posttrain.cluster_config import ClusterConfig, check_cluster
from posttrain.errors import ConfigError, EndpointError, RankError
from posttrain.launch import job as job_module
from posttrain.launch.job import Job, Node
from posttrain.launch.supervisor import ProcessSpec, Supervisor


class LocalNode(Supervisor):
    """A supervisor in this process."""

    def end(self) -> None:
        self.stop()


class LocalCluster:
    """Nodes of this machine."""

    def __init__(self, config: ClusterConfig) -> None:
        self.config, self.closed = config, False
        self.servers: list[LocalNode] = []

    def nodes(self) -> Sequence[Node]:
        return [LocalNode() for _ in range(self.config.nodes)]

    def server_nodes(self) -> Sequence[Node]:
        self.servers = [LocalNode() for _ in self.config.servers]
        return self.servers

    def close(self) -> None:
        self.closed = True
        for node in self.servers:
            node.stop()


def job_of(tmp_path: Path, program: str, **settings: Any) -> tuple[Job, LocalCluster, list[str]]:
    """A job whose ranks run a Python program in a folder."""
    config = ClusterConfig(**{"ranks_per_node": 2, **settings})
    cluster, heard = LocalCluster(config), []
    (tmp_path / "rank.py").write_text(program)

    def command(urls: Sequence[str]) -> list[str]:
        return [sys.executable, "rank.py", json.dumps(list(urls))]

    log = tmp_path / "launch.log"
    return (
        Job(cluster, config, command, folder=tmp_path, log=log, echo=heard.append),
        cluster,
        heard,
    )


NAMES = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK"]


def test_ranks_have_the_variables_of_torchrun(tmp_path: Path) -> None:
    program = (
        "import json, os\n"
        f"print(json.dumps([int(os.environ[name]) for name in {NAMES!r}]))\n"
        "print(os.environ['MASTER_ADDR'], os.environ['MASTER_PORT'])\n"
    )
    job, cluster, heard = job_of(tmp_path, program, nodes=2)
    job.run()
    assert cluster.closed and job.restarts == 0
    log = (tmp_path / "launch.log").read_text().splitlines()
    for rank in range(4):
        assert f"[rank {rank}] {[rank, rank % 2, 4, 2, rank // 2]}" in log
    assert len({line.partition("] ")[2] for line in log if "." in line}) == 1  # one meeting place
    assert str([0, 0, 4, 2, 0]) in heard and f"[rank 3] {[3, 1, 4, 2, 1]}" in heard


KILLED = """
import os, signal, sys, time
from pathlib import Path
rank, mark = os.environ["RANK"], Path("begun")
if rank == "1" and not mark.exists():
    mark.write_text("")
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(0.2 if mark.exists() else 60)
print("done", rank)
"""


def test_what_dies_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "_PARTING_SECONDS", 0.5)
    job, _, heard = job_of(tmp_path, KILLED)
    job.run()
    assert job.restarts == 1
    assert any(
        "rank 1 ended (by signal SIGKILL)" in line and "1 of 3 restarts" in line for line in heard
    )
    assert "done 0" in heard and "[rank 1] done 1" in heard


def test_restarts_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "_PARTING_SECONDS", 0.5)
    program = "import os, sys, time\nprint('no memory')\nsys.exit(int(os.environ['RANK']) * 7)\n"
    job, cluster, _ = job_of(tmp_path, program, max_restarts=1)
    with pytest.raises(RankError, match="rank 1 ended .exit status 7.*max_restarts is 1.*\nno mem"):
        job.run()
    assert job.restarts == 1 and cluster.closed


@pytest.mark.parametrize(("code", "error"), [(2, RankError), (130, KeyboardInterrupt)])
def test_errors_of_settings_and_interruptions_are_final(
    code: int, error: type[BaseException], tmp_path: Path
) -> None:
    job, _, _ = job_of(tmp_path, f"import sys\nsys.exit({code})\n")
    with pytest.raises(error):
        job.run()
    assert job.restarts == 0


SERVER = (
    "import http.server, sys\n"
    "class Handler(http.server.BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n"
    "        self.send_response(200); self.end_headers(); self.wfile.write(b'ok')\n"
    "    def log_message(self, *arguments): pass\n"
    "http.server.ThreadingHTTPServer(('', int(sys.argv[1])), Handler).serve_forever()\n"
)


def test_servers_answer_before_the_ranks_start_and_are_started_again(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(SERVER)
    program = (
        "import json, sys, time, urllib.request\n"
        "from pathlib import Path\n"
        "(url,) = json.loads(sys.argv[1])\n"
        "print(urllib.request.urlopen(url, timeout=9).read())\n"
        "Path('asked').touch()\n"
        "while not Path('again').exists(): time.sleep(0.1)\n"
        "print(urllib.request.urlopen(url, timeout=9).read())\n"
    )
    job, _, heard = job_of(
        tmp_path, program, ranks_per_node=1, servers=[f"{sys.executable} server.py {{port}}"]
    )
    first: list[int] = []

    def kill() -> None:
        while not (tmp_path / "asked").exists():
            time.sleep(0.05)
        first.append(job.pids["server 0"])
        os.kill(first[0], signal.SIGKILL)
        while job.pids["server 0"] == first[0] or not job_module._answers(_url(job)):
            time.sleep(0.05)
        (tmp_path / "again").touch()

    thread = threading.Thread(target=kill)
    thread.start()
    job.run()
    thread.join()
    assert heard.count("b'ok'") == 2
    assert any("server 0 died" in line for line in heard)
    assert gone(first[0]) and gone(job.pids["server 0"])


def _url(job: Job) -> str:
    spec: ProcessSpec = job._servers[0][1]
    return f"http://127.0.0.1:{spec.command[-1]}/health"


def test_a_server_that_never_answers_is_an_error(tmp_path: Path) -> None:
    job, _, _ = job_of(
        tmp_path,
        "",
        servers=[f"{sys.executable} -c import\\ time;time.sleep(99) {{port}}"],
        server_seconds=1.0,
        max_restarts=0,
    )
    with pytest.raises(EndpointError, match="server"):
        job.run()


def test_processes_end_with_their_supervisor(tmp_path: Path) -> None:
    supervisor = Supervisor()
    pid = supervisor.start(
        ProcessSpec("rank 0", [sys.executable, "-c", "import time; time.sleep(99)"])
    )
    supervisor.stop()
    assert gone(pid) and supervisor.poll() == []


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"nodes": 0}, "launch.nodes: 0"),
        ({"ranks_per_node": 0}, "launch.ranks_per_node: 0"),
        ({"gpus_per_rank": -1}, "launch.gpus_per_rank: -1"),
        ({"max_restarts": -1}, "launch.max_restarts: -1"),
        ({"server_seconds": 0.0}, "launch.server_seconds: 0"),
        ({"servers": ["vllm serve"]}, "launch.servers.*--port"),
    ],
)
def test_placements_that_cannot_be_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        check_cluster(ClusterConfig(**settings))
