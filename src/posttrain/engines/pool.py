"""Several servers as one engine: load spread over them, and the run goes on when one dies."""

from __future__ import annotations

import math
import queue
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from posttrain.engines.base import Agreement, Finished, OnLogprobs, OnTokens, sampled
from posttrain.engines.pool_member import Member
from posttrain.engines.served import WAIT_SECONDS, is_lost
from posttrain.engines.sync import WeightSync
from posttrain.engines.sync_probe import SyncProbe
from posttrain.errors import ServerLost
from posttrain.models.language_model import LanguageModel
from posttrain.types import Request, Sample

_AFFINE_TOKENS = 64
"""Ids at the beginning of a prompt that choose its server, as long as that has room."""

_SLACK = 8
"""Samples by which that server may have more than the least loaded one."""

_PATIENCE_SECONDS = 60.0
"""How long a run without any server waits for one that it did not start itself."""


@dataclass(slots=True)
class _Entry:
    """An open request of the pool. deadline: of the clock. member: None while no server has it."""

    request: Request
    on_tokens: OnTokens | None
    on_logprobs: OnLogprobs | None
    deadline: float | None
    member: Member | None = None
    inner: int = 0


class EnginePool:
    """Servers with the same weights. An `Engine`.

    A request goes to the server that its prompt's beginning names, so that turns of a dialogue find
    their prefix there, unless that server has more samples open than the least loaded one. A server
    that cannot be reached is taken out. Its open requests are sent to others from their beginning.
    It comes back once it was started again, has the newest weights and gives the log-probs that the
    trainer gave.

    Args:
        members: at least one, alive. model: the trainer's. weights: how it gets there. probe: the
        comparison after it. news: what the members' engines put an item into.
        notice: told what happens to servers. on_close: called at the end.

    Raises:
        ServerLost: from `step`, `generate` and `sync`, when no server is left.
    """

    def __init__(
        self,
        members: Sequence[Member],
        model: LanguageModel,
        weights: WeightSync,
        probe: SyncProbe,
        *,
        news: queue.SimpleQueue[None],
        notice: Callable[[str], None] = lambda text: None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.members, self.model = list(members), model
        self.weights, self.probe = weights, probe
        self.weights_version = model.weights_version
        self.stop_ids = members[0].engine.stop_ids
        self._news, self._notice, self._on_close = news, notice, on_close
        self._entries: dict[int, _Entry] = {}
        self._finished: list[Finished] = []  # not yet given out by `step`
        self._num_tickets = 0
        self._metrics: dict[str, float] = {}
        self._workers = ThreadPoolExecutor(2 * len(members), thread_name_prefix="pool")

    @property
    def in_flight(self) -> bool:
        """Whether weights may change under open requests."""
        return all(member.engine.in_flight for member in self.members)

    @property
    def context_length(self) -> int | None:
        """Most tokens of a prompt and its sample together, on every server."""
        lengths = (member.engine.context_length for member in self.members)
        return min((n for n in lengths if n is not None), default=None)

    @property
    def num_open(self) -> int:
        """Requests that are neither finished nor aborted."""
        return len(self._entries)

    @property
    def num_restarts(self) -> int:
        """Restarts of all servers so far."""
        return sum(member.num_restarts for member in self.members)

    def submit(
        self,
        request: Request,
        on_tokens: OnTokens | None = None,
        on_logprobs: OnLogprobs | None = None,
    ) -> int:
        """Hand in a request; its ticket.

        Raises:
            DataError, ConfigError: see `ServedEngine`.
        """
        seconds = request.deadline_seconds
        deadline = None if seconds is None else time.monotonic() + seconds
        entry = _Entry(request, on_tokens, on_logprobs, deadline)
        self._num_tickets += 1
        self._place(self._num_tickets, entry)
        self._entries[self._num_tickets] = entry
        return self._num_tickets

    def step(self) -> list[Finished]:
        """What was answered meanwhile. Servers that died are taken out, others come back."""
        self._take_back()
        self._place_homeless()
        if not self._gather() and self._entries and not self._finished:
            self._wait()
            self._gather()
        finished, self._finished = self._finished, []
        return finished

    def abort(self, ticket: int) -> None:
        """End a request without a result."""
        entry = self._entries.pop(ticket, None)
        if entry is not None and entry.member is not None:
            entry.member.tickets.pop(entry.inner, None)
            entry.member.engine.abort(entry.inner)

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        """`n` samples for each request, in order. Other open requests go on meanwhile.

        Raises:
            EndpointError: a request failed.
        """
        return sampled(self, requests, self._finished)

    def score(self, sequences: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]:
        """Log-probs under the model at temperature 1 of ids[start:], for each (ids, start)."""
        while True:
            member = min(self._alive_or_wait(), key=lambda m: len(m.tickets))
            try:
                return member.engine.score(sequences)
            except ServerLost as error:
                self._lose(member, error)

    def sync(self, version: int) -> None:
        """Bring the model's weights to all servers and compare each.

        Raises:
            ConfigError: requests are open, and a server cannot go on with them.
            WeightSyncError: a server has other weights than the trainer.
        """
        for member in self.members:
            member.engine.refuse_open(len(self._entries))
        started = time.perf_counter()
        self.weights.publish(self.model, version)
        self.weights_version = version
        self._load_all()
        compared = [a for member in self._alive() if (a := self._compare(member)) is not None]
        while not compared:
            # All have died. One that comes back is the first to have these weights.
            self._alive_or_wait()
            compared = [a for m in self._alive() if (a := self._compare(m)) is not None]
        self._metrics |= {
            "sync/seconds": time.perf_counter() - started,
            "sync/logprob_gap/mean": max(a.mean_gap for a in compared),
            "sync/logprob_gap/max": max(a.max_gap for a in compared),
        }

    def take_metrics(self) -> dict[str, float]:
        """Of the updates and servers since the last call: seconds of the last update, and the
        largest gaps of log-probs after it, in nats.
        """
        metrics, self._metrics = self._metrics, {}
        servers = {
            "engine/servers": float(len(self._alive())),
            "engine/restarts": float(self.num_restarts),
        }
        return {**metrics, **servers}

    def close(self) -> None:
        """End the servers that the run has started, and remove what was published."""
        for member in self.members:
            member.engine.close()
        self._workers.shutdown(wait=False, cancel_futures=True)
        for member in self.members:
            member.state = "gone"
            if member.launched is not None:
                member.launched.stop()
        self._entries.clear()
        self.weights.close()
        self._on_close()

    # -- requests

    def _place(self, ticket: int, entry: _Entry) -> None:
        """Give a request to a server, if one is alive."""
        alive = self._alive()
        if not alive:
            return
        request = entry.request
        if entry.deadline is not None:
            left = max(entry.deadline - time.monotonic(), 1e-3)
            request = replace(request, deadline_seconds=left)
        member = self._member_for(request, alive)
        entry.inner = member.engine.submit(request, entry.on_tokens, entry.on_logprobs)
        entry.member = member
        member.tickets[entry.inner] = ticket

    def _member_for(self, request: Request, alive: Sequence[Member]) -> Member:
        load = {id(member): self._load(member) for member in alive}
        beginning = np.array(request.prompt_ids[:_AFFINE_TOKENS], dtype=np.int64).tobytes()
        affine = alive[zlib.crc32(beginning) % len(alive)]
        least = min(alive, key=lambda member: load[id(member)])
        return affine if load[id(affine)] - load[id(least)] <= _SLACK else least

    def _load(self, member: Member) -> int:
        return sum(self._entries[ticket].request.n for ticket in member.tickets.values())

    def _place_homeless(self) -> None:
        homeless = [(t, e) for t, e in self._entries.items() if e.member is None]
        if homeless:
            self._alive_or_wait()
        for ticket, entry in homeless:
            self._place(ticket, entry)

    def _gather(self) -> bool:
        """Take over what the engines have finished; whether there was any."""
        any_finished = False
        for member in self._alive():
            lost: ServerLost | None = None
            for finished in member.engine.step(wait_seconds=0):
                any_finished = True
                ticket = member.tickets.get(finished.ticket)
                if ticket is None:
                    continue
                if is_lost(finished):
                    assert isinstance(finished.error, ServerLost)
                    lost = finished.error
                    continue  # `_lose` sends it again
                del member.tickets[finished.ticket]
                del self._entries[ticket]
                self._finished.append(replace(finished, ticket=ticket))
            if lost is not None:
                self._lose(member, lost)
        return any_finished

    def _wait(self) -> None:
        try:
            self._news.get(timeout=WAIT_SECONDS)
            while True:
                self._news.get_nowait()
        except queue.Empty:
            return

    # -- servers

    def _alive(self) -> list[Member]:
        return [member for member in self.members if member.state == "alive"]

    def _lose(self, member: Member, error: ServerLost) -> None:
        """Take a server out, and start it again where it is ours."""
        if member.state != "alive":
            return
        member.reason = str(error)
        member.engine.close()
        for ticket in member.tickets.values():
            self._entries[ticket].member = None
        member.tickets.clear()
        self._notice(f"a server was lost, and its open requests are sent again: {error}")
        self._restart(member)

    def _restart(self, member: Member) -> None:
        launched = member.launched
        if launched is None:
            member.state = "away"
            return
        if member.num_restarts >= launched.config.max_restarts:
            member.state = "gone"
            self._notice(
                f"server {launched.number} has been started again {member.num_restarts} times, and "
                "is given up (engine.launch.max_restarts)"
            )
            return
        member.num_restarts += 1
        member.state = "restarting"
        member.restart = self._workers.submit(launched.start, self.weights.start)

    def _take_back(self) -> None:
        """Take servers in that answer again."""
        for member in self.members:
            if member.state == "restarting":
                assert member.restart is not None
                if not member.restart.done():
                    continue
                error = member.restart.exception()
                if isinstance(error, ServerLost):
                    member.reason = str(error)
                    self._restart(member)
                    continue
                if error is not None:
                    raise error
            elif member.state != "away" or not member.answers:
                continue
            self._take_in(member)

    def _take_in(self, member: Member) -> None:
        """Give a server the newest weights and compare, then let it work."""
        if not self.weights.restores and self._alive():
            return  # it gets them with all others, at the next update
        try:
            member.engine = member.connect()
            member.engine.load(self.weights_version)
            if self.probe.version == self.weights_version:
                self.probe.compare_again(member.engine, self.weights_version)
            else:
                member.engine.compare()
        except ServerLost as error:
            member.reason = str(error)
            self._restart(member)
            return
        member.state = "alive"
        self._notice(f"the server at {member.engine.server.client.url} works again")

    def _load_all(self) -> None:
        """Let all servers take the published version over, side by side."""
        for member in self.members:
            waits = member.state == "restarting" and not self.weights.restores
            if waits and member.restart is not None and member.restart.done():
                member.engine, member.state = member.connect(), "alive"
        alive = self._alive()
        loads = [self._workers.submit(m.engine.load, self.weights_version) for m in alive]
        for member, load in zip(alive, loads, strict=True):
            error = load.exception()
            if isinstance(error, ServerLost):
                self._lose(member, error)
            elif error is not None:
                raise error

    def _compare(self, member: Member) -> Agreement | None:
        try:
            return member.engine.compare()
        except ServerLost as error:
            self._lose(member, error)
            return None

    def _alive_or_wait(self) -> list[Member]:
        """The servers that work, once there is one.

        Raises:
            ServerLost: none is left.
        """
        deadline = math.inf
        while True:
            self._take_back()
            alive = self._alive()
            if alive:
                return alive
            states = {member.state for member in self.members}
            if "restarting" not in states:
                deadline = min(deadline, time.monotonic() + _PATIENCE_SECONDS)
            if states == {"gone"} or time.monotonic() > deadline:
                member = self.members[0]
                raise ServerLost(
                    f"no server is left of {len(self.members)}. The last error: {member.reason}",
                    member.engine.server.client.url,
                )
            time.sleep(WAIT_SECONDS)
