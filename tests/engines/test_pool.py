"""Several servers as one engine: load, affinity, and what happens when some die."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_vllm import ServedFake, running

from posttrain.engines import pool as pool_module
from posttrain.engines.http_client import JsonClient
from posttrain.engines.pool import EnginePool
from posttrain.engines.pool_member import Member
from posttrain.engines.served import ServedEngine
from posttrain.engines.server_weights import save_for_servers
from posttrain.engines.sync import DiskSync
from posttrain.engines.sync_probe import SyncProbe
from posttrain.engines.torch import TorchEngine
from posttrain.engines.vllm_protocol import Vllm
from posttrain.errors import ServerLost
from posttrain.models.language_model import LanguageModel
from posttrain.models.load import load_model
from posttrain.types import Request, Sampling


class Launched:
    """Stands in for a process: its start opens a new server, or fails."""

    def __init__(self, stack: ExitStack, folder: Path, max_restarts: int = 2) -> None:
        self.stack, self.folder, self.number = stack, folder, 0
        self.config = type("Config", (), {"max_restarts": max_restarts})()
        self.started_from: list[str] = []
        self.failures = 0
        self.served: ServedFake = stack.enter_context(running(folder))

    @property
    def url(self) -> str:
        return self.served.url

    def start(self, model: str) -> None:
        self.started_from.append(model)
        if self.failures:
            self.failures -= 1
            raise ServerLost("did not start", self.url)
        self.served = self.stack.enter_context(running(Path(model)))

    def stop(self) -> None:
        """Nothing: the stack does."""


@pytest.fixture
def model(tiny_folder: Path) -> LanguageModel:
    return load_model(tiny_folder, dtype="float32", device="cpu")


class Built:
    """A pool with its servers."""

    def __init__(self, model: LanguageModel, tmp_path: Path, stack: ExitStack) -> None:
        self.model, self.stack = model, stack
        self.folder = tmp_path / "start"
        self.folder.mkdir()
        save_for_servers(model, self.folder)
        self.weights = DiskSync(tmp_path / "weights")
        vocab_size = model.config.vocab_size
        self.probe = SyncProbe(TorchEngine(model).score, max_gap=1e-4, vocab_size=vocab_size)
        self.news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.notices: list[str] = []

    def member(self, launched: Any, url: str = "") -> Member:
        def connect() -> ServedEngine:
            server = Vllm(JsonClient(url or launched.url, timeout=60, max_retries=1))
            return ServedEngine(
                server,
                self.model,
                self.weights,
                self.probe,
                facts=server.facts(),
                stop_ids=frozenset(),
                news=self.news,
            )

        return Member(connect, connect(), launched)

    def pool(self, *launched: Any, urls: tuple[str, ...] = ()) -> EnginePool:
        members = [self.member(one) for one in launched]
        members += [self.member(None, url) for url in urls]
        pool = EnginePool(
            members,
            self.model,
            self.weights,
            self.probe,
            news=self.news,
            notice=self.notices.append,
        )
        pool.sync(self.model.weights_version)
        self.stack.callback(pool.close)
        return pool


@pytest.fixture
def built(model: LanguageModel, tmp_path: Path) -> Iterator[Built]:
    with ExitStack() as stack:
        yield Built(model, tmp_path, stack)


def moved(model: LanguageModel) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.pretrained.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.weights_version += 1


def counts(*servers: Launched) -> list[int]:
    """Requests for completions that are no probes, by server."""
    return [
        sum(body["token_ids"][0] == 1 and len(body["token_ids"]) < 8 for body in s.served.fake.seen)
        for s in servers
    ]


def test_load_is_spread_and_a_prompt_finds_its_server_again(built: Built) -> None:
    servers = [Launched(built.stack, built.folder) for _ in range(2)]
    pool = built.pool(*servers)
    pool.generate([Request((1, 7), Sampling(max_tokens=1)) for _ in range(4)])
    assert sorted(counts(*servers)) == [0, 4]
    for one in servers:
        one.served.fake.seen.clear()
    # As many at a time as one server should not have alone.
    pool.generate([Request((1, 7), Sampling(max_tokens=30), n=8) for _ in range(4)])
    assert min(counts(*servers)) >= 1 and sum(counts(*servers)) == 4


def test_samples_do_not_depend_on_the_number_of_servers(built: Built) -> None:
    requests = [Request((1, i), Sampling(max_tokens=6), n=2, seed=i) for i in range(3, 9)]
    alone = built.pool(Launched(built.stack, built.folder)).generate(requests)
    servers = [Launched(built.stack, built.folder) for _ in range(2)]
    together = built.pool(*servers).generate(requests)
    assert [[s.ids for s in g] for g in alone] == [[s.ids for s in g] for g in together]


def test_a_server_that_died_is_started_again_and_its_requests_are_answered(
    built: Built, model: LanguageModel
) -> None:
    server = Launched(built.stack, built.folder)
    pool = built.pool(server)
    moved(model)
    pool.sync(1)
    server.served.stop()
    (sample,) = pool.generate([Request((1, 2), Sampling(max_tokens=4))])[0]
    assert sample.weights_version == 1 and len(sample.ids) == 4
    assert server.started_from == [built.weights.start] and pool.num_restarts == 1
    assert pool.take_metrics()["engine/restarts"] == 1.0
    assert len(built.notices) == 2


def test_open_requests_of_a_dead_server_go_to_another(built: Built, model: LanguageModel) -> None:
    servers = [Launched(built.stack, built.folder, max_restarts=0) for _ in range(2)]
    pool = built.pool(*servers)
    tickets = [pool.submit(Request((1, i), Sampling(max_tokens=20), n=2)) for i in range(2, 10)]
    servers[0].served.stop()
    finished = []
    while pool.num_open:
        finished += pool.step()
    assert sorted(f.ticket for f in finished) == tickets
    assert all(f.error is None and len(f.samples) == 2 for f in finished)
    moved(model)
    pool.sync(1)
    assert pool.take_metrics()["engine/servers"] <= 2


def test_an_update_notices_a_dead_server_and_goes_on_with_the_others(
    built: Built, model: LanguageModel
) -> None:
    servers = [Launched(built.stack, built.folder, max_restarts=0) for _ in range(2)]
    pool = built.pool(*servers)
    servers[1].served.stop()
    moved(model)
    pool.sync(1)
    assert [member.state for member in pool.members] == ["alive", "gone"]
    metrics = pool.take_metrics()
    assert metrics["engine/servers"] == 1.0 and metrics["sync/logprob_gap/mean"] < 1e-4


def test_an_update_waits_for_a_restart_where_all_have_died(
    built: Built, model: LanguageModel
) -> None:
    server = Launched(built.stack, built.folder)
    pool = built.pool(server)
    server.served.stop()
    server.failures = 1
    moved(model)
    pool.sync(1)
    assert pool.num_restarts == 2 and len(server.started_from) == 2
    (sample,) = pool.generate([Request((1, 2), Sampling(max_tokens=4))])[0]
    assert sample.weights_version == 1


def test_restarts_are_bounded(built: Built) -> None:
    server = Launched(built.stack, built.folder, max_restarts=2)
    pool = built.pool(server)
    server.served.stop()
    server.failures = 10
    with pytest.raises(ServerLost):
        pool.generate([Request((1, 2), Sampling(max_tokens=4))])
    assert pool.members[0].state == "gone" and pool.num_restarts == 2
    assert pool.num_open == 0


def test_a_server_of_somebody_else_is_waited_for(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_PATIENCE_SECONDS", 0.2)
    server = Launched(built.stack, built.folder)
    pool = built.pool(urls=(server.url,))
    server.served.stop()
    with pytest.raises(ServerLost):
        pool.generate([Request((1, 2), Sampling(max_tokens=4))])
    assert pool.members[0].state == "away"


def test_scores_come_from_a_server_that_lives(built: Built, model: LanguageModel) -> None:
    servers = [Launched(built.stack, built.folder, max_restarts=0) for _ in range(2)]
    pool = built.pool(*servers)
    servers[0].served.stop()
    sequences = [((1, 5, 6), 1)]
    expected = TorchEngine(model).score(sequences)[0]
    assert pool.score(sequences)[0] == pytest.approx(expected, abs=1e-5)


def test_an_aborted_request_is_forgotten(built: Built) -> None:
    pool = built.pool(Launched(built.stack, built.folder))
    ticket = pool.submit(Request((1, 2), Sampling(max_tokens=2000)))
    pool.abort(ticket)
    pool.abort(ticket)
    assert pool.num_open == 0 and pool.step() == []


def test_metrics_are_given_once(built: Built) -> None:
    pool = built.pool(Launched(built.stack, built.folder))
    first, second = pool.take_metrics(), pool.take_metrics()
    assert first["sync/seconds"] > 0 and first["sync/logprob_gap/max"] < 1e-3
    assert set(second) == {"engine/servers", "engine/restarts"}
