"""An engine on one server, against a server of the same protocol over our own engine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_vllm import ServedFake, running

from posttrain.engines.http_client import JsonClient
from posttrain.engines.served import ServedEngine
from posttrain.engines.server_weights import save_for_servers
from posttrain.engines.sync import DiskSync
from posttrain.engines.sync_probe import SyncProbe
from posttrain.engines.torch import TorchEngine
from posttrain.engines.vllm_protocol import Vllm
from posttrain.errors import ConfigError, DataError, EndpointError, ServerLost, WeightSyncError
from posttrain.models.language_model import LanguageModel
from posttrain.models.load import load_model
from posttrain.types import Constraint, Request, Sampling, VersionSpan

LONG = Sampling(max_tokens=120)


@pytest.fixture
def model(tiny_folder: Path) -> LanguageModel:
    return load_model(tiny_folder, dtype="float32", device="cpu")


@pytest.fixture
def served(model: LanguageModel, tmp_path: Path) -> Iterator[ServedFake]:
    folder = tmp_path / "start"
    folder.mkdir()
    save_for_servers(model, folder)
    with running(folder) as fake:
        fake.fake.faults = tmp_path / "faults.json"
        fake.fake.faults.write_text("{}")
        yield fake


def engine_on(served: ServedFake, model: LanguageModel, folder: Path) -> ServedEngine:
    """An engine on a server, with the weights of the model."""
    client = JsonClient(served.url, timeout=60, max_retries=2)
    server = Vllm(client)
    ours = TorchEngine(model)
    probe = SyncProbe(ours.score, max_gap=1e-4, vocab_size=model.config.vocab_size)
    engine = ServedEngine(
        server, model, DiskSync(folder), probe, facts=server.facts(), stop_ids=ours.stop_ids
    )
    engine.sync(model.weights_version)
    return engine


@pytest.fixture
def engine(served: ServedFake, model: LanguageModel, tmp_path: Path) -> Iterator[ServedEngine]:
    engine = engine_on(served, model, tmp_path / "weights")
    yield engine
    engine.close()


def faults(served: ServedFake, **given: Any) -> None:
    served.fake.faults.write_text(json.dumps(given))


def moved(model: LanguageModel, by: float = 0.05) -> None:
    """An update of all weights."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.pretrained.parameters():
            parameter.add_(torch.randn_like(parameter) * by)
    model.weights_version += 1


def test_samples_are_those_of_the_embedded_engine(
    engine: ServedEngine, model: LanguageModel
) -> None:
    requests = [
        Request((1, 5 + i), Sampling(max_tokens=12, stop_ids=(9,)), n=3, seed=100 + i, reuse=False)
        for i in range(3)
    ]
    expected = TorchEngine(model).generate(requests)
    groups = engine.generate(requests)
    for group, plain in zip(groups, expected, strict=True):
        for sample, own in zip(group, plain, strict=True):
            assert (sample.ids, sample.finish_reason) == (own.ids, own.finish_reason)
            assert sample.raw_logprobs == pytest.approx(own.raw_logprobs, abs=1e-5)
            assert sample.engine_logprobs == sample.raw_logprobs
            assert sample.version_spans == (VersionSpan(0, 0, len(sample.ids)),)


def test_scores_are_those_of_the_model(engine: ServedEngine, model: LanguageModel) -> None:
    sequences = [((1, 5, 6, 7), 2), ((1, 9), 0), ((1, 3), 2)]
    ours = TorchEngine(model).score(sequences)
    for served, embedded in zip(engine.score(sequences), ours, strict=True):
        assert served == pytest.approx(embedded, abs=1e-5)


def test_every_request_names_its_weights_so_that_no_older_prefix_is_read(
    engine: ServedEngine, model: LanguageModel, served: ServedFake
) -> None:
    moved(model)
    engine.sync(1)
    engine.generate([Request((1, 2, 3), Sampling(max_tokens=2))])
    assert served.fake.seen[0]["cache_salt"] == "0"
    assert served.fake.seen[-1]["cache_salt"] == "1"


def test_an_update_reaches_the_server(
    engine: ServedEngine, model: LanguageModel, served: ServedFake
) -> None:
    before = engine.score([((1, 5, 6, 7), 1)])
    moved(model)
    engine.sync(1)
    after = engine.score([((1, 5, 6, 7), 1)])
    assert after[0] == pytest.approx(TorchEngine(model).score([((1, 5, 6, 7), 1)])[0], abs=1e-5)
    assert max(abs(a - b) for a, b in zip(before[0], after[0], strict=True)) > 1e-3
    (sample,) = engine.generate([Request((1, 2), Sampling(max_tokens=4))])[0]
    assert sample.weights_version == 1


def test_running_requests_go_on_with_new_weights_and_say_which_wrote_what(
    engine: ServedEngine, model: LanguageModel, served: ServedFake
) -> None:
    assert engine.in_flight
    engine.stop_ids = frozenset()
    engine.submit(Request((1, 2), LONG, n=2))
    while not any(len(row.ids) > 5 for job in list(served.fake.jobs.values()) for row in job.rows):
        time.sleep(0.001)
    moved(model)
    engine.sync(1)
    finished = []
    while not finished:
        finished = engine.step()
    (result,) = finished
    for sample in result.samples:
        assert [span.version for span in sample.spans] == [0, 1]
        assert sample.spans[0].end == sample.spans[1].start and sample.spans[1].end == 120
        assert sample.weights_version == 0 and len(sample.ids) == 120


@pytest.mark.parametrize("stale", ["head", "all"])
def test_an_update_that_did_not_happen_stops_the_run(
    stale: str, engine: ServedEngine, model: LanguageModel, served: ServedFake
) -> None:
    faults(served, stale=stale)
    moved(model)
    with pytest.raises(WeightSyncError) as caught:
        engine.sync(1)
    assert caught.value.gap > caught.value.bound == 1e-4


def test_errors_that_pass_are_tried_again_and_others_are_of_their_request(
    engine: ServedEngine, served: ServedFake
) -> None:
    faults(served, status=2)
    engine.generate([Request((1, 2), Sampling(max_tokens=2))])
    faults(served, status=3)
    with pytest.raises(EndpointError):
        engine.generate([Request((1, 2), Sampling(max_tokens=2))])
    assert engine.num_open == 0


def test_a_server_that_is_gone_is_noticed(engine: ServedEngine, served: ServedFake) -> None:
    served.stop()
    engine.submit(Request((1, 2), Sampling(max_tokens=2)))
    finished = []
    while not finished:
        finished = engine.step()
    assert isinstance(finished[0].error, ServerLost) and finished[0].error.url == served.url


def test_a_deadline_ends_a_request_with_what_it_has(engine: ServedEngine) -> None:
    request = Request((1, 2), Sampling(max_tokens=5000), deadline_seconds=0.3)
    (sample,) = engine.generate([request])[0]
    assert sample.finish_reason == "timeout" and 0 < len(sample.ids) < 5000


def test_an_aborted_request_gives_nothing_and_frees_the_server(
    engine: ServedEngine, served: ServedFake
) -> None:
    ticket = engine.submit(Request((1, 2), Sampling(max_tokens=5000)))
    while not served.fake.jobs:
        time.sleep(0.001)
    engine.abort(ticket)
    engine.abort(ticket)
    assert engine.num_open == 0
    deadline = time.monotonic() + 30
    while served.fake.jobs and time.monotonic() < deadline:
        engine.step()
    assert not served.fake.jobs


def test_other_requests_finish_while_one_call_generates(engine: ServedEngine) -> None:
    ticket = engine.submit(Request((1, 2), Sampling(max_tokens=1)))
    engine.generate([Request((1, 3), Sampling(max_tokens=40))])
    finished = engine.step()
    while not finished:
        finished = engine.step()
    assert [f.ticket for f in finished] == [ticket]


def test_tokens_are_told_with_their_log_probs(engine: ServedEngine) -> None:
    told: list[Any] = []
    engine.submit(
        Request((1, 2), Sampling(max_tokens=3), n=2),
        on_tokens=lambda index, ids: told.append((index, ids)),
        on_logprobs=lambda index, ids, logprobs: told.append((index, ids, logprobs)),
    )
    finished = []
    while not finished:
        finished = engine.step()
    first, second = finished[0].samples
    assert told == [
        (0, first.ids),
        (0, first.ids, first.raw_logprobs),
        (1, second.ids),
        (1, second.ids, second.raw_logprobs),
    ]


def test_what_cannot_be_sampled_is_refused(engine: ServedEngine) -> None:
    with pytest.raises(DataError):
        engine.submit(Request((), Sampling()))
    with pytest.raises(DataError):
        engine.submit(Request((10**6,), Sampling()))
    with pytest.raises(ConfigError):
        engine.submit(Request((1,), Sampling(), constraint=Constraint.regex("a")))
    with pytest.raises(ConfigError):
        engine.submit(Request((1,), Sampling(), adapter="other"))


def test_a_server_without_spans_refuses_an_update_under_open_requests(
    engine: ServedEngine, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Vllm, "has_spans", False)
    ticket = engine.submit(Request((1, 2), Sampling(max_tokens=2000)))
    with pytest.raises(ConfigError):
        engine.sync(1)
    engine.abort(ticket)
