"""A server in a process of its own: started, watched, started again, and ended with the run."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from posttrain.config import LaunchConfig, ProtocolName
from posttrain.engines import launch_guard, sglang_protocol, vllm_protocol
from posttrain.engines.http_client import JsonClient
from posttrain.errors import ConfigError, EndpointError, ServerLost

_POLL_SECONDS, _HEALTH_SECONDS = 0.25, 5.0
_STOP_SECONDS = 20.0  # that a server has to end by itself
_LOG_TAIL = 1500  # characters of its log that an error shows
_NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Of the trainer's environment; they are for its interpreter and its share of the cores."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What a server is started with, beside where its weights are.

    Attributes:
        dtype: of the weights. max_model_len: longest prompt and completion together.
        logprobs_mode: see `LogprobsMode`. lora_rank: of the adapters that it gets, 0 = none.
        arguments: further ones, which the way of the weights needs.
    """

    dtype: str
    max_model_len: int | None
    logprobs_mode: str
    lora_rank: int = 0
    arguments: Sequence[str] = field(default=())


def check_launch(config: LaunchConfig) -> None:
    """Refuse an interpreter or script that is not there.

    Raises:
        ConfigError: names the key.
    """
    python = Path(config.python).expanduser()
    if not (python.is_file() and os.access(python, os.X_OK)):
        raise ConfigError(
            f"engine.launch.python: {config.python!r} is no program; name the interpreter of the "
            "environment that has the server, such as /opt/vllm/bin/python"
        )
    if config.module.endswith(".py") and not Path(config.module).is_file():
        raise ConfigError(f"engine.launch.module: there is no file {config.module!r}")


class LaunchedServer:
    """One server on this machine, on a port that was free.

    A small guard between the two ends the server when this process ends, however that comes.

    Args:
        number: of the server, from 0. folder: where its log is written, server-NUMBER.log.
    Attributes:
        url: its address; another one after each start.
    """

    def __init__(
        self,
        config: LaunchConfig,
        protocol: ProtocolName,
        served: ServedModel,
        *,
        number: int,
        folder: Path,
    ) -> None:
        check_launch(config)
        self.config, self.protocol, self.served = config, protocol, served
        self.number = number
        self.log = folder / f"server-{number}.log"
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self, model: str) -> None:
        """Start it from a folder or hub id and wait until it answers. One that runs is ended.

        Raises:
            ServerLost: it ended, or did not answer in time; the message shows the end of its log.
        """
        self.stop()
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            log.write(f"\n--- {' '.join(self._command(model, port))}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                [sys.executable, launch_guard.__file__, *self._command(model, port)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()  # the guard ends the server, and then itself
        try:
            process.wait(_STOP_SECONDS + launch_guard.GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait(self) -> None:
        client = JsonClient(self.url, timeout=_HEALTH_SECONDS, max_retries=0)
        deadline = time.monotonic() + self.config.start_seconds
        while True:
            try:
                client.get("/health")
                return
            except EndpointError as error:
                if not self.is_alive:
                    raise ServerLost(
                        f"server {self.number} ended at its start. {self._tail()}", self.url
                    ) from None
                if time.monotonic() > deadline:
                    raise ServerLost(
                        f"server {self.number} has not answered within "
                        f"{self.config.start_seconds:g} seconds of its start ({error}); raise "
                        f"engine.launch.start_seconds. {self._tail()}",
                        self.url,
                    ) from None
            time.sleep(_POLL_SECONDS)

    def _tail(self) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return f"The end of {self.log}:\n{text[-_LOG_TAIL:]}"

    def _command(self, model: str, port: int) -> list[str]:
        config, served = self.config, self.served
        protocol = sglang_protocol if self.protocol == "sglang" else vllm_protocol
        module = config.module or protocol.MODULE
        program = [module] if module.endswith(".py") else ["-m", module]
        given = protocol.arguments(
            model,
            port,
            dtype=served.dtype,
            max_model_len=config.max_model_len or served.max_model_len,
            logprobs_mode=served.logprobs_mode,
            lora=served.lora_rank,
        )
        python = str(Path(config.python).expanduser())
        return [python, *program, *given, *served.arguments, *config.arguments]

    def _environment(self) -> dict[str, str]:
        protocol = sglang_protocol if self.protocol == "sglang" else vllm_protocol
        own = {k: v for k, v in os.environ.items() if k not in _NOT_INHERITED}
        given: Mapping[str, str] = self.config.environment
        numbered = {k: v.replace("{number}", str(self.number)) for k, v in given.items()}
        return {**own, **protocol.ENVIRONMENT, **numbered}


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])
