"""An engine on one server that takes token ids and gives token ids (vLLM, SGLang)."""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from posttrain.engines.base import (
    Agreement,
    Finished,
    OnLogprobs,
    OnTokens,
    check_requests,
    sampled,
)
from posttrain.engines.server_protocol import (
    Asked,
    Choice,
    LogprobsMode,
    ServerFacts,
    ServerProtocol,
    sample_of,
)
from posttrain.engines.sync import WeightSync
from posttrain.engines.sync_probe import SyncProbe
from posttrain.errors import ConfigError, EndpointError, PosttrainError, ServerLost
from posttrain.models.language_model import LanguageModel
from posttrain.types import Request, Sample

WAIT_SECONDS = 0.05
"""How long a step waits for an answer, so that weights may be updated between two steps."""


@dataclass(slots=True)
class _Open:
    """A request on its way. version, model: with which it was sent. deadline: of the clock.
    timed_out: its time is over. aborted: nobody waits for it.
    """

    ticket: int
    asked: Asked
    version: int
    on_tokens: OnTokens | None
    on_logprobs: OnLogprobs | None
    deadline: float | None
    timed_out: bool = False
    aborted: bool = False


@dataclass(slots=True)
class _Answered:
    open: _Open
    choices: list[Choice] = field(default_factory=list)
    error: Exception | None = None


class ServedEngine:
    """An engine whose model is on a server. An `Engine`.

    The server has the weights of `model` as `weights` brought them there last. Requests run in
    threads, one for each, and a step gives out what was answered meanwhile; tokens are told when
    their request ends. Every request carries the version of the weights as a cache salt, so that
    the server never continues from keys and values of older weights. Budgets are not kept here
    (`engines.shares`).

    Args:
        server: by its protocol. model: the trainer's. weights, probe: see `WeightSync`,
        `SyncProbe`. facts: what the server says of itself.
        stop_ids: token ids that end every sample. seeds: whether they are sent.
        max_concurrent: requests that the server gets at a time.
        news: gets an item whenever an answer has come, for who waits for several engines.
    """

    def __init__(
        self,
        server: ServerProtocol,
        model: LanguageModel,
        weights: WeightSync,
        probe: SyncProbe,
        *,
        facts: ServerFacts,
        stop_ids: frozenset[int],
        seeds: bool = True,
        max_concurrent: int = 64,
        news: queue.SimpleQueue[None] | None = None,
    ) -> None:
        self.server, self.model, self.weights, self.probe = server, model, weights, probe
        self.weights_version = model.weights_version
        self.stop_ids = stop_ids
        self.facts = facts
        self._seeds, self._max_concurrent = seeds, max_concurrent
        self._news = news
        self._open: dict[int, _Open] = {}
        self._finished: list[Finished] = []  # not yet given out by `step`
        self._num_tickets = 0
        self._line: deque[_Open] = deque()  # waits for a thread
        self._lock, self._num_threads = threading.Lock(), 0
        self._answers: queue.SimpleQueue[_Answered] = queue.SimpleQueue()

    @property
    def in_flight(self) -> bool:
        """Whether weights may change under open requests."""
        return self.server.has_spans or self.weights.keeps_version

    @property
    def context_length(self) -> int | None:
        """Most tokens of a prompt and its sample together: of the server, and of the model."""
        lengths = (self.facts.max_model_len, self.model.context_length)
        return min((n for n in lengths if n is not None), default=None)

    @property
    def num_open(self) -> int:
        """Requests that are neither finished nor aborted."""
        return sum(not o.aborted for o in self._open.values())

    @property
    def logprobs_mode(self) -> LogprobsMode | None:
        """Of what the server's log-probs are."""
        return self.facts.logprobs_mode

    def submit(
        self,
        request: Request,
        on_tokens: OnTokens | None = None,
        on_logprobs: OnLogprobs | None = None,
    ) -> int:
        """Hand in a request; its ticket. It is sent at once.

        Raises:
            DataError, ConfigError: see `check_requests`; the request has a constraint.
        """
        check_requests(
            [request],
            vocab_size=self.model.config.vocab_size,
            context_length=self.context_length,
        )
        if request.constraint is not None:
            raise ConfigError(
                f"constraint: the engine at {self.server.client.url} follows none; take engine: "
                "embedded, or leave it out"
            )
        self._num_tickets += 1
        seconds = request.deadline_seconds
        entry = _Open(
            self._num_tickets,
            Asked(
                uuid.uuid4().hex,
                request,
                self.stop_ids,
                salt=str(self.weights_version),
                model=self.weights.model_name(self.facts.model),
                has_seed=self._seeds,
            ),
            self.weights_version,
            on_tokens,
            on_logprobs,
            None if seconds is None else time.monotonic() + seconds,
        )
        self._open[entry.ticket] = entry
        self._start(entry)
        return entry.ticket

    def step(self, wait_seconds: float = WAIT_SECONDS) -> list[Finished]:
        """What was answered, after at most `wait_seconds`.

        A request that failed has its error; it is a ServerLost where the server cannot be reached.
        """
        self._end_overdue()
        if self._finished or not self._open:
            finished, self._finished = self._finished, []
            return finished
        answers = []
        try:
            answers.append(self._answers.get(timeout=wait_seconds))
            while True:
                answers.append(self._answers.get_nowait())
        except queue.Empty:
            pass
        return [result for a in answers if (result := self._finish(a)) is not None]

    def abort(self, ticket: int) -> None:
        """End a request without a result."""
        entry = self._open.get(ticket)
        if entry is None or entry.aborted:
            return
        entry.aborted = True
        with self._lock:
            unsent = entry in self._line
            if unsent:
                self._line.remove(entry)
        if unsent:
            del self._open[ticket]
        else:
            self._tell_abort(entry)

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        """`n` samples for each request, in order. Other open requests go on meanwhile.

        Raises:
            EndpointError: a request failed.
        """
        return sampled(self, requests, self._finished)

    def score(self, sequences: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]:
        """Log-probs under the model at temperature 1 of ids[start:], for each (ids, start)."""
        model, salt = self.weights.model_name(self.facts.model), str(self.weights_version)

        def one(sequence: tuple[Sequence[int], int]) -> list[float]:
            ids, start = sequence[0], max(sequence[1], 1)
            return self.server.score(ids, start, model, salt) if start < len(ids) else []

        with ThreadPoolExecutor(self._max_concurrent, thread_name_prefix="score") as pool:
            return list(pool.map(one, sequences))

    def sync(self, version: int) -> None:
        """Bring the model's weights to the server and compare.

        Raises:
            ConfigError: requests are open, and the server cannot go on with them.
            WeightSyncError: the server has other weights than the trainer.
        """
        self.refuse_open(self.num_open)
        self.weights.publish(self.model, version)
        self.load(version)
        self.compare()

    def refuse_open(self, num_open: int) -> None:
        """Refuse an update under open requests where the server cannot go on with them."""
        if num_open and not self.in_flight:
            raise ConfigError(
                f"{num_open} requests are open, and the server at {self.server.client.url} does "
                "not say which token is of which weights; finish or abort them before the weights "
                "change"
            )

    def load(self, version: int) -> None:
        """Let the server take the published version over."""
        self.weights.load(self.server, version)
        self.weights_version = version

    def compare(self) -> Agreement:
        """Compare the server with the trainer.

        Raises:
            WeightSyncError: they differ.
        """
        return self.probe.compare(self, self.weights_version)

    def close(self) -> None:
        """Abort what is open."""
        for ticket in list(self._open):
            self.abort(ticket)

    # -- threads

    def _start(self, entry: _Open) -> None:
        with self._lock:
            self._line.append(entry)
            if self._num_threads >= self._max_concurrent:
                return
            self._num_threads += 1
        threading.Thread(target=self._work, daemon=True, name="served").start()

    def _work(self) -> None:
        """Send one request after the other, as long as some wait."""
        while True:
            with self._lock:
                if not self._line:
                    self._num_threads -= 1
                    return
                entry = self._line.popleft()
            try:
                answered = _Answered(entry, self.server.generate(entry.asked))
            except Exception as error:  # raised where it is waited for
                answered = _Answered(entry, error=error)
            self._answers.put(answered)
            if self._news is not None:
                self._news.put(None)

    def _tell_abort(self, entry: _Open) -> None:
        """Abort on the server, without waiting for it."""

        def abort() -> None:
            try:
                self.server.abort(entry.asked.id)
            except EndpointError:
                return  # its answer comes, or fails, in any case

        threading.Thread(target=abort, daemon=True, name="abort").start()

    # -- answers

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for entry in self._open.values():
            late = entry.deadline is not None and now >= entry.deadline
            if late and not entry.timed_out and not entry.aborted:
                entry.timed_out = True
                self._tell_abort(entry)

    def _finish(self, answered: _Answered) -> Finished | None:
        """The result of an answer; None where nobody waits for it."""
        entry, error = answered.open, answered.error
        del self._open[entry.ticket]
        if entry.aborted:
            return None
        if error is None:
            try:
                samples = self._samples(entry, answered.choices)
            except PosttrainError as malformed:
                error = malformed
        if error is not None:
            if not isinstance(error, PosttrainError):
                raise error
            return Finished(entry.ticket, [], error)
        for index, sample in enumerate(samples):
            if entry.on_tokens is not None:
                entry.on_tokens(index, sample.ids)
            if entry.on_logprobs is not None:
                entry.on_logprobs(index, sample.ids, sample.raw_logprobs)
        return Finished(entry.ticket, samples)

    def _samples(self, entry: _Open, choices: Sequence[Choice]) -> list[Sample]:
        request = entry.asked.request
        if len(choices) != request.n:
            raise EndpointError(
                f"{self.server.client.url} gave {len(choices)} completions of {request.n}; look at "
                "the server's log"
            )
        has_spans = self.server.has_spans and not self.weights.keeps_version
        return [
            sample_of(
                choice,
                request.sampling,
                self.logprobs_mode,
                entry.version,
                timed_out=entry.timed_out,
                has_spans=has_spans,
            )
            for choice in choices
        ]


def is_lost(finished: Finished) -> bool:
    """Whether a request failed because its server cannot be reached."""
    return isinstance(finished.error, ServerLost)
