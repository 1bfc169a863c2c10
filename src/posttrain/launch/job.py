"""One run over several processes: started, watched, and started again from its last checkpoint."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from posttrain.cluster_config import ClusterConfig
from posttrain.errors import EndpointError, RankError
from posttrain.launch.supervisor import ProcessSpec, ProcessStatus

_POLL_SECONDS = 0.25
_PARTING_SECONDS = 20.0
"""How long the other ranks have to say why they end, once one has ended by an error."""

_LAST_LINES = 12
_CONFIG_ERROR, _INTERRUPTED = 2, 130  # exit statuses of the command


class NodeLost(Exception):
    """A supervisor is gone."""


class Node(Protocol):
    """A supervisor of some machine; see `Supervisor`. Its methods raise NodeLost."""

    def place(self) -> tuple[str, int]: ...

    def start(self, spec: ProcessSpec) -> int: ...

    def poll(self) -> list[ProcessStatus]: ...

    def stop(self, name: str | None = None) -> None: ...

    def end(self) -> None: ...


class Cluster(Protocol):
    """Where nodes come from."""

    def nodes(self) -> Sequence[Node]: ...

    def server_nodes(self) -> Sequence[Node]: ...

    def close(self) -> None: ...


Command = Callable[[Sequence[str]], list[str]]
"""From the addresses of the servers to the command line of a rank, as the run stands now."""


@dataclass(slots=True)
class _Ended:
    """How the ranks have ended. code: the exit status that tells why. last: its last lines."""

    name: str
    code: int
    last: list[str] = field(default_factory=list)


class Job:
    """Runs ranks, with servers beside them.

    Args:
        command: asked before each start, so that a start after the first one resumes.
        folder: where the processes run. log: gets all lines, each with the name of its process.
        echo: gets the lines of the first rank, and what happens to the others.
    """

    def __init__(
        self,
        cluster: Cluster,
        config: ClusterConfig,
        command: Command,
        *,
        folder: Path,
        log: Path,
        echo: Callable[[str], None] = print,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.cluster, self.config, self.command = cluster, config, command
        self.folder, self.log, self.echo = folder, log, echo
        self.environment = dict(environment or {})
        self.restarts = 0
        self.pids: dict[str, int] = {}
        self._servers: list[tuple[Node, ProcessSpec, int]] = []  # with the restarts that are left
        self._last: dict[str, list[str]] = {}

    def run(self) -> None:
        """Run to the end.

        Raises:
            RankError: the ranks died more often than they are started again, or ended by an error
                that another start would meet again.
            EndpointError: a server does not answer, or died too often.
            KeyboardInterrupt: the run was stopped; its ranks have had time for a checkpoint.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            urls = self._start_servers()
            while True:
                ended = self._attempt(urls)
                if ended is None:
                    return
                self._refuse(ended)
                self.restarts += 1
                self._say(
                    f"{ended.name} ended ({_ending(ended.code)}); starting again from the last "
                    f"checkpoint ({self.restarts} of {self.config.max_restarts} restarts)"
                )
        finally:
            self.cluster.close()

    # -- ranks

    def _attempt(self, urls: Sequence[str]) -> _Ended | None:
        """Start the ranks and wait for them; None where all have done their work."""
        nodes: Sequence[Node] = []
        try:
            nodes = self.cluster.nodes()
            address, port = nodes[0].place()
            command = self.command(urls)
            for number in range(self.config.num_ranks):
                machine, local = divmod(number, self.config.ranks_per_node)
                name = f"rank {number}"
                variables = self._variables(number, local, address, port)
                spec = ProcessSpec(name, command, variables, str(self.folder))
                self.pids[name] = nodes[machine].start(spec)
                self._last[name] = []
            return self._watch(nodes)
        except NodeLost as error:
            return _Ended(str(error), -signal.SIGKILL)
        finally:
            for node in nodes:
                with contextlib.suppress(NodeLost):
                    node.stop()
                node.end()

    def _variables(self, rank: int, local: int, address: str, port: int) -> dict[str, str]:
        """Those that torchrun sets, and the cores of a rank."""
        c = self.config
        return {
            "OMP_NUM_THREADS": str(c.cpus_per_rank),
            **self.environment,
            "RANK": str(rank),
            "LOCAL_RANK": str(local),
            "WORLD_SIZE": str(c.num_ranks),
            "LOCAL_WORLD_SIZE": str(c.ranks_per_node),
            "GROUP_RANK": str(rank // c.ranks_per_node),
            "MASTER_ADDR": address,
            "MASTER_PORT": str(port),
            "PYTHONUNBUFFERED": "1",
        }

    def _watch(self, nodes: Sequence[Node]) -> _Ended | None:
        """Follow the ranks until all have ended, or some time after one has failed."""
        first: _Ended | None = None
        deadline = float("inf")
        while True:
            found = [status for node in nodes for status in node.poll()]
            for status in found:
                self._note(status)
                if status.code not in (None, 0) and first is None:
                    first = _Ended(status.name, status.code or 0, self._last[status.name])
                    deadline = time.monotonic() + _PARTING_SECONDS
            if all(status.code is not None for status in found) or time.monotonic() > deadline:
                return first
            self._watch_servers()
            time.sleep(_POLL_SECONDS)

    def _refuse(self, ended: _Ended) -> None:
        """Raise where another start would not help."""
        said = "\n".join(ended.last[-_LAST_LINES:])
        if ended.code == _INTERRUPTED:
            raise KeyboardInterrupt(f"{ended.name} was interrupted")
        if ended.code == _CONFIG_ERROR:
            raise RankError(f"{ended.name} ended by an error of its settings:\n{said}")
        if self.restarts >= self.config.max_restarts:
            raise RankError(
                f"{ended.name} ended ({_ending(ended.code)}) and launch.max_restarts is "
                f"{self.config.max_restarts}; see {self.log}. It said last:\n{said}"
            )

    # -- servers

    def _start_servers(self) -> list[str]:
        """Start the servers and wait until they answer; their addresses."""
        urls = []
        nodes = self.cluster.server_nodes()
        for number, (node, line) in enumerate(zip(nodes, self.config.servers, strict=True)):
            host, port = node.place()
            command = [part.format(host=host, port=port) for part in line.split()]
            spec = ProcessSpec(f"server {number}", command, self.environment, str(self.folder))
            self.pids[spec.name] = node.start(spec)
            self._last[spec.name] = []
            self._servers.append((node, spec, self.config.max_restarts))
            urls.append(f"http://{host}:{port}")
        deadline = time.monotonic() + self.config.server_seconds
        for url in urls:
            while not _answers(f"{url}/health"):
                self._watch_servers()
                if time.monotonic() > deadline:
                    raise EndpointError(
                        f"launch.servers: {url} does not answer at /health within "
                        f"{self.config.server_seconds:g} s; see {self.log}"
                    )
                time.sleep(_POLL_SECONDS)
        return urls

    def _watch_servers(self) -> None:
        """Print what servers print, and start those again that died, at their address."""
        for place, (node, spec, left) in enumerate(self._servers):
            for status in node.poll():
                self._note(status)
                if status.code is None:
                    continue
                if not left:
                    said = "\n".join(self._last[spec.name][-_LAST_LINES:])
                    raise EndpointError(
                        f"{spec.name} died ({_ending(status.code)}) and launch.max_restarts is "
                        f"{self.config.max_restarts}. It said last:\n{said}"
                    )
                self._say(f"{spec.name} died ({_ending(status.code)}); starting it again")
                self.pids[spec.name] = node.start(spec)
                self._servers[place] = (node, spec, left - 1)

    # -- logs

    def _note(self, status: ProcessStatus) -> None:
        """Write what a process has printed."""
        if not status.lines:
            return
        last = self._last[status.name]
        last += status.lines
        del last[:-_LAST_LINES]
        with self.log.open("a", encoding="utf-8") as file:
            file.writelines(f"[{status.name}] {line}\n" for line in status.lines)
        for line in status.lines:
            self.echo(line if status.name == "rank 0" else f"[{status.name}] {line}")

    def _say(self, line: str) -> None:
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"[launch] {line}\n")
        self.echo(f"[launch] {line}")


def python_command(*arguments: Any) -> list[str]:
    """The command line of this program."""
    return [sys.executable, "-m", "posttrain", *map(str, arguments)]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return 200 <= answer.status < 300
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _ending(code: int) -> str:
    """An exit status in words. What a signal has ended has minus its number, as a status of a
    process 256 minus it.
    """
    number = -code if code < 0 else 256 - code
    with contextlib.suppress(ValueError):
        return f"by signal {signal.Signals(number).name}"
    return f"exit status {code}"
