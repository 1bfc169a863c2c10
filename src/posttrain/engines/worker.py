"""The program of a process that samples: an embedded engine with its own copy of the weights.

    python -m posttrain.engines.worker REQUESTS CONTROL

The arguments are descriptors of two sockets. By the first the process is asked for samples, by
the second it is told of new weights, between two steps of whatever it decodes. It ends when either
is closed, and so with the process that has started it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import time
import traceback
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from posttrain import kernels
from posttrain.engines.base import Finished
from posttrain.engines.shared_weights import SharedWeights
from posttrain.engines.torch import TorchEngine
from posttrain.engines.worker_calls import News, Opened, Start
from posttrain.models.language_model import LanguageModel
from posttrain.models.load import load_model
from posttrain.models.named import NamedModel
from posttrain.types import Request, Sample

STEP_SECONDS = 0.05
"""How long the process decodes before it answers, though nothing has finished."""


class Worker:
    """Answers calls, and takes new weights whenever they come."""

    def __init__(self, start: Start, control: Connection) -> None:
        self.model = _loaded(start)
        self.weights = SharedWeights(start.places, start.descriptor)
        self.weights.check(self.model)
        self.weights.read(self.model)
        self.engine = TorchEngine(self.model, in_flight=True)
        self.engine.sync(start.version)
        self.control = control
        self._theirs: dict[int, int] = {}  # the trainer's ticket of each of the engine's
        self._news: list[News] = []
        self._finished: list[Finished] = []

    def facts(self) -> dict[str, Any]:
        """What the trainer's side has to know of the engine."""
        return {
            "stop_ids": self.engine.stop_ids,
            "context_length": self.engine.context_length,
            "vocab_size": self.model.config.vocab_size,
        }

    def take_weights(self) -> None:
        """Take new weights, if there are any."""
        while self.control.poll():
            version = self.control.recv()
            self.weights.read(self.model)
            self.engine.sync(version)
            self.control.send(version)

    def step(self, opened: list[Opened], aborted: list[int]) -> tuple[list[Finished], list[News]]:
        """Decode until a request finishes or writes something that is listened to, or for a
        moment.
        """
        self._abort(aborted)
        self._open(opened)
        until = time.monotonic() + STEP_SECONDS
        while self.engine.num_open and not (self._finished or self._news):
            self._advance()
            if time.monotonic() >= until:
                break
        finished, self._finished = self._finished, []
        news, self._news = self._news, []
        return finished, news

    def generate(self, requests: list[Request]) -> list[list[Sample]]:
        """Decode until these requests are done. Others go on meanwhile."""
        # Numbers that no ticket of the trainer has.
        opened = [Opened(-1 - place, request) for place, request in enumerate(requests)]
        wanted = {o.ticket for o in opened}
        done: dict[int, Finished] = {}
        try:
            self._open(opened)
            while len(done) < len(opened):
                self._advance()
                done |= {f.ticket: f for f in self._finished if f.ticket in wanted}
                self._finished = [f for f in self._finished if f.ticket not in wanted]
        except BaseException:
            self._abort(list(wanted))
            raise
        for finished in done.values():
            if finished.error is not None:
                raise finished.error
        return [done[o.ticket].samples for o in opened]

    def score(self, sequences: list[tuple[list[int], int]]) -> list[list[float]]:
        """As `Engine.score`."""
        return self.engine.score(sequences)

    def _advance(self) -> None:
        self.take_weights()
        try:
            done = self.engine.step()
        except BaseException:
            self._theirs.clear()  # the engine has aborted all
            raise
        for finished in done:
            ticket = self._theirs.pop(finished.ticket)
            self._finished.append(dataclasses.replace(finished, ticket=ticket))

    def _open(self, opened: list[Opened]) -> None:
        for one in opened:
            self._theirs[self.engine.submit(one.request, *self._listeners(one))] = one.ticket

    def _listeners(self, one: Opened) -> tuple[Any, Any]:
        def tokens(index: int, ids: list[int]) -> None:
            self._news.append(News(one.ticket, index, ids, None))

        def logprobs(index: int, ids: list[int], numbers: list[float]) -> None:
            self._news.append(News(one.ticket, index, ids, numbers))

        return tokens if one.tokens else None, logprobs if one.logprobs else None

    def _abort(self, tickets: list[int]) -> None:
        ended = set(tickets)
        for own, theirs in list(self._theirs.items()):
            if theirs in ended:
                self.engine.abort(own)
                del self._theirs[own]


def _loaded(start: Start) -> LanguageModel:
    """The model as the trainer has saved it, loaded as its own was."""
    if start.origin is not None:
        return NamedModel(start.origin).saved(Path(start.folder))
    return load_model(start.folder, dtype="auto", device=start.device)


def serve(requests: Connection, control: Connection) -> None:
    """Answer until a socket is closed."""
    start: Start = requests.recv()
    torch.set_num_threads(start.num_threads)
    kernels.setup(**start.switches)
    worker: Worker | None = None

    def ready() -> dict[str, Any]:
        nonlocal worker
        worker = Worker(start, control)
        return worker.facts()

    _answer(requests, ready)
    while worker is not None:
        if control in wait([requests, control]):
            worker.take_weights()
            continue
        name, arguments = requests.recv()
        method = getattr(worker, name)
        _answer(requests, lambda method=method, arguments=arguments: method(*arguments))


def _answer(requests: Connection, call: Any) -> None:
    """Send what a call gives, or the exception that it raises."""
    try:
        answer: Any = call()
        requests.send((True, answer))
    except (EOFError, ConnectionError):
        raise  # the trainer is gone
    except Exception as error:
        error.add_note("".join(traceback.format_exception(error)))
        try:
            requests.send((False, error))
        except (TypeError, AttributeError, ValueError):  # an exception that cannot be sent
            requests.send((False, RuntimeError(f"{type(error).__name__}: {error}")))


def main() -> None:
    """Serve the sockets of the command line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer decides what Ctrl-C ends
    requests, control = (Connection(int(descriptor)) for descriptor in sys.argv[1:3])
    with contextlib.suppress(EOFError, ConnectionError):
        serve(requests, control)


if __name__ == "__main__":
    main()
