"""An embedded engine in a process of its own, so that it samples while another trains."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from posttrain import kernels
from posttrain.engines.base import Finished, OnLogprobs, OnTokens, check_requests
from posttrain.engines.shared_weights import SharedWeights
from posttrain.engines.worker_calls import Opened, Start
from posttrain.errors import ConfigError, EngineLost
from posttrain.models.language_model import LanguageModel
from posttrain.types import Request, Sample

_GONE = (EOFError, OSError)
_END_SECONDS = 5.0
_LOG_CHARACTERS = 1500


class ProcessEngine:
    """A `TorchEngine` in another process of this machine, with its own copy of the weights.

    The process starts with the first call of `start` or of any method that asks it, with the
    weights that the model then has. Its samples are those of a `TorchEngine` of the model, bit for
    bit, with as many threads. The weights go over through shared memory. `sync` may be called from
    another thread than the one that owns the engine, also while that waits for samples: requests
    that are open go on with the new weights.

    Args:
        num_threads: of the process; 0 = as many as this one has.

    Raises:
        EngineLost: by any method, if the process has died.
    """

    in_flight = True

    def __init__(self, model: LanguageModel, *, num_threads: int = 0) -> None:
        if num_threads < 0:
            raise ConfigError(f"num_threads is {num_threads}; it must be at least 0")
        self.model = model
        self.num_threads = num_threads
        self.weights_version = model.weights_version
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._controlling, self._starting = threading.Lock(), threading.Lock()
        self._next_ticket = 0
        self._listeners: dict[int, tuple[OnTokens | None, OnLogprobs | None]] = {}  # of open ones
        self._new: list[Opened] = []
        self._aborted: list[int] = []

    # -- the process

    def start(self) -> None:
        """Start the process, if it has not been, and wait until it has loaded the model."""
        with self._starting:
            if self._process is not None:
                return
            if self._closed:
                raise ConfigError("the engine is closed; make another")
            weights = SharedWeights.of(self.model)
            weights.write(self.model)
            sockets = [socket.socketpair() for _ in range(2)]
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
            theirs = [their.fileno() for _, their in sockets]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "posttrain.engines.worker", *map(str, theirs)],
                pass_fds=[*theirs, weights.descriptor],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env=_environment(),
                process_group=0,  # Ctrl-C is for this process, which then ends that one
            )
            for _, their in sockets:
                their.close()
            self._requests, self._control = (Connection(own.detach()) for own, _ in sockets)
            self._weights = weights
            with tempfile.TemporaryDirectory() as folder:
                self.model.save_for_resume(folder)
                facts = self._answered(self._start(folder))
            weights.close()
        self._stop_ids: frozenset[int] = facts["stop_ids"]
        self._context_length: int | None = facts["context_length"]
        self._vocab_size: int = facts["vocab_size"]

    def _start(self, folder: str) -> Start:
        return Start(
            folder=folder,
            origin=self.model.origin,
            device=str(self.model.device),
            num_threads=self.num_threads or torch.get_num_threads(),
            switches=dataclasses.asdict(kernels.switches()),
            places=self._weights.places,
            descriptor=self._weights.descriptor,
            version=self.weights_version,
        )

    @property
    def pid(self) -> int | None:
        """The number of the process, None before it starts and after it is closed."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """End the process. A call that waits for it in another thread raises `EngineLost`."""
        self._closed = True
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # A thread may wait at these sockets: the process's end has woken it, and it closes them.
        self._listeners.clear()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def _call(self, name: str, *arguments: Any) -> Any:
        self.start()
        return self._answered((name, arguments))

    def _answered(self, message: Any) -> Any:
        """What the process answers. Raises what it raises there."""
        try:
            self._requests.send(message)
            is_answer, answer = self._requests.recv()
        except _GONE as error:
            raise self._lost() from error
        if not is_answer:
            raise answer
        return answer

    def _lost(self) -> EngineLost:
        """The error about a process that is gone."""
        process = self._process
        if process is None:
            return EngineLost("the engine's process was ended while it was asked", pid=None)
        try:
            code = process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip()[-_LOG_CHARACTERS:]
        return EngineLost(
            f"the engine's process {process.pid} has died ({_ending(code)}); go on from the last "
            "checkpoint with `posttrain resume`; if memory ran out, lower batch_size or "
            f"sampling.max_tokens. It last said: {said or 'nothing'}",
            pid=process.pid,
            code=code,
        )

    # -- the engine

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end every sample."""
        self.start()
        return self._stop_ids

    @property
    def context_length(self) -> int | None:
        """Most tokens of a prompt and its sample together, None where there is no limit."""
        self.start()
        return self._context_length

    @property
    def num_open(self) -> int:
        """Requests that are neither finished nor aborted."""
        return len(self._listeners)

    def submit(
        self,
        request: Request,
        on_tokens: OnTokens | None = None,
        on_logprobs: OnLogprobs | None = None,
    ) -> int:
        """Hand in a request; its ticket. The process hears of it with the next step.

        Raises:
            DataError, ConfigError: see `check_requests`; or it has a budget, which cannot be shared
            with another process.
        """
        self._check([request])
        ticket = self._next_ticket
        self._next_ticket += 1
        self._listeners[ticket] = on_tokens, on_logprobs
        opened = Opened(ticket, request, on_tokens is not None, on_logprobs is not None)
        self._new.append(opened)
        return ticket

    def step(self) -> list[Finished]:
        """Let the process decode until a request finishes, for a moment at most; those that have
        finished.
        """
        if not self._listeners and not self._aborted:
            return []
        new, self._new = self._new, []
        aborted, self._aborted = self._aborted, []
        try:
            finished, news = self._call("step", new, aborted)
        except BaseException:
            self._listeners.clear()
            raise
        for item in news:
            on_tokens, on_logprobs = self._listeners.get(item.ticket, (None, None))
            if item.logprobs is not None and on_logprobs is not None:
                on_logprobs(item.index, item.ids, item.logprobs)
            elif item.logprobs is None and on_tokens is not None:
                on_tokens(item.index, item.ids)
        return [f for f in finished if self._listeners.pop(f.ticket, None) is not None]

    def abort(self, ticket: int) -> None:
        """End a request without a result."""
        if self._listeners.pop(ticket, None) is None:
            return
        waiting = [opened for opened in self._new if opened.ticket != ticket]
        if len(waiting) == len(self._new):
            self._aborted.append(ticket)
        self._new = waiting

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        """Samples for each request, in order. Other open requests go on meanwhile.

        Raises:
            DataError, ConfigError: as `submit`.
        """
        self._check(requests)
        groups: list[list[Sample]] = self._call("generate", list(requests))
        return groups

    def score(self, sequences: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]:
        """Log-probs of ids[start:] at temperature 1, for each (ids, start)."""
        scores: list[list[float]] = self._call("score", [(list(i), n) for i, n in sequences])
        return scores

    def sync(self, version: int) -> None:
        """Send the model's weights over. The process takes them between two steps."""
        with self._controlling:
            self.weights_version = version
            if self._process is None:
                return  # it will start with these
            self._weights.write(self.model)
            try:
                self._control.send(version)
                self._control.recv()
            except _GONE as error:
                raise self._lost() from error

    def _check(self, requests: Sequence[Request]) -> None:
        self.start()
        vocab_size, context = self._vocab_size, self._context_length
        check_requests(requests, vocab_size=vocab_size, context_length=context)
        if any(request.budget is not None for request in requests):
            raise ConfigError(
                "a budget is shared with other requests of its process; leave it out, or sample "
                "with pt.Engine in this process"
            )


def _environment() -> dict[str, str]:
    """The environment with this package on the path, however it was found here."""
    root = str(Path(__file__).resolve().parents[2])
    path = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def _ending(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"by signal {signal.Signals(-code).name}"
    return f"exit status {code}"
