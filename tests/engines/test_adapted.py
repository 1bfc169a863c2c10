"""One base and several adapters in one engine: each request gets what its model writes alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_folders import adapter_folder

from posttrain.config import LoraConfig
from posttrain.engines.adapted import AdaptedEngine
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError
from posttrain.models.adapter_sharing import with_adapter
from posttrain.models.language_model import LanguageModel
from posttrain.models.load import load_model
from posttrain.types import Budget, Request, Sample, Sampling

pytest.importorskip("peft", reason="adapters need the extra peft")

PROMPT = tuple(range(5, 45))
SETTINGS = {"first": LoraConfig(r=2), "second": LoraConfig(r=5, target_modules=["q_proj"])}


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folders(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("adapters")
    return {
        name: adapter_folder(tiny_folder, place / name, settings, seed)
        for seed, (name, settings) in enumerate(SETTINGS.items())
    }


@pytest.fixture(scope="module")
def base(tiny_folder: Path, dtype: Any) -> LanguageModel:
    return load_model(tiny_folder, dtype=dtype)


@pytest.fixture(scope="module")
def adapted(base: LanguageModel, folders: dict[str, Path]) -> dict[str, LanguageModel]:
    return {name: with_adapter(base, str(folder)) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def alone(tiny_folder: Path, folders: dict[str, Path], dtype: Any) -> dict[str, list[Any]]:
    """What each model writes, loaded from its own folder into an engine of its own."""
    places = {"": tiny_folder, **folders}
    return {
        name: written(TorchEngine(load_model(place, dtype=dtype)).generate(wanted()))
        for name, place in places.items()
    }


def wanted(adapter: str = "") -> list[Request]:
    """Sampled, greedy, and prompts that begin alike."""
    return [
        Request(PROMPT, Sampling(max_tokens=12), n=3, seed=1, adapter=adapter),
        Request(PROMPT[:30], Sampling(max_tokens=9, temperature=0.0), adapter=adapter),
        Request((*PROMPT, 9), Sampling(max_tokens=20, temperature=0.6), seed=2, adapter=adapter),
    ]


def written(groups: list[list[Sample]]) -> list[Any]:
    return [[s.ids for s in group] for group in groups]


def test_each_request_is_written_by_its_own_model(
    base: LanguageModel, adapted: dict[str, LanguageModel], alone: dict[str, list[Any]]
) -> None:
    engine = AdaptedEngine(base, adapted)
    assert len({str(ids) for ids in alone.values()}) == 3
    names = ["first", "", "second"]
    mixed = [request for triple in zip(*map(wanted, names), strict=True) for request in triple]
    ids = written(engine.generate(mixed))
    for place, name in enumerate(names):
        assert ids[place::3] == alone[name]
    assert written(engine.generate(mixed)) == ids  # with prefixes that are held by now
    stats = engine.stats
    assert stats.generated_tokens == stats.returned_tokens + stats.discarded_tokens
    assert stats.prompt_tokens == stats.computed_tokens + stats.reused_tokens
    assert engine.num_open == 0


def test_requests_that_come_and_go_change_nothing(
    base: LanguageModel, adapted: dict[str, LanguageModel], alone: dict[str, list[Any]]
) -> None:
    engine = AdaptedEngine(base, adapted, max_rows=4)
    names = ["second", "", "first"]
    streamed: dict[tuple[str, int], list[int]] = {}
    tickets: dict[int, tuple[str, int]] = {}
    results: dict[tuple[str, int], list[list[int]]] = {}
    for number in range(3):
        for name in names:
            request = wanted(name)[number]

            def collect(index: int, ids: list[int], name: str = name, at: int = number) -> None:
                if index == 0:
                    streamed.setdefault((name, at), []).extend(ids)

            tickets[engine.submit(request, collect)] = (name, number)
            dropped = engine.submit(replace(request, seed=99))
            engine.step()
            engine.abort(dropped)
            engine.abort(dropped)
    while engine.num_open:
        for finished in engine.step():
            results[tickets[finished.ticket]] = [s.ids for s in finished.samples]
    for name in names:
        assert [results[name, number] for number in range(3)] == alone[name]
        assert [streamed[name, at] for at in range(3)] == [group[0] for group in alone[name]]


def test_log_probs_come_with_the_tokens(
    base: LanguageModel, adapted: dict[str, LanguageModel]
) -> None:
    engine = AdaptedEngine(base, adapted)
    for name in ("", "first"):
        told: dict[int, list[tuple[int, float]]] = {}
        plain: list[int] = []

        def note(
            index: int,
            ids: list[int],
            logprobs: list[float],
            told: dict[int, list[tuple[int, float]]] = told,
        ) -> None:
            told.setdefault(index, []).extend(zip(ids, logprobs, strict=True))

        engine.submit(wanted(name)[0], lambda _, ids, plain=plain: plain.extend(ids), note)
        results = []
        while engine.num_open:
            results += engine.step()
        samples = results[0].samples
        assert told == {
            k: list(zip(s.ids, s.raw_logprobs, strict=True)) for k, s in enumerate(samples)
        }
        assert sorted(plain) == sorted(token for s in samples for token in s.ids)


def test_a_prefix_is_never_taken_from_another_model(
    base: LanguageModel, adapted: dict[str, LanguageModel]
) -> None:
    engine = AdaptedEngine(base, adapted)

    def reused(adapter: str) -> int:
        engine.submit(Request(PROMPT, Sampling(max_tokens=1), adapter=adapter))
        (finished,) = engine.step()
        return finished.reused_tokens

    assert [reused(name) for name in ("first", "second", "")] == [0, 0, 0]
    assert [reused(name) for name in ("first", "second", "")] == [len(PROMPT) - 1] * 3


def test_all_models_share_the_bounds(
    base: LanguageModel, adapted: dict[str, LanguageModel]
) -> None:
    engine = AdaptedEngine(base, adapted, max_prefix_bytes=30_000)
    for name in ("", "first", "second"):
        engine.generate(wanted(name))
        memory = engine.engine(name)._prefixes.memory
        assert 0 < memory.num_bytes <= memory.max_bytes == 30_000
    assert sum(e._prefixes.num_bytes for e in engine._engines.values()) == memory.num_bytes
    assert engine.num_prefix_bytes == memory.num_bytes
    engine.sync(7)
    assert memory.num_bytes == 0 and engine.weights_version == 7


def test_unknown_adapters_are_refused_by_every_engine(
    base: LanguageModel, adapted: dict[str, LanguageModel]
) -> None:
    engine = AdaptedEngine(base, adapted)
    with pytest.raises(ConfigError, match="second"):
        engine.submit(wanted("secund")[0])
    with pytest.raises(ConfigError, match="first"):
        TorchEngine(base).submit(wanted("first")[0])
    with pytest.raises(ConfigError):
        engine.generate([*wanted("first"), wanted("third")[0]])
    assert engine.num_open == 0 and engine.step() == []


def test_a_step_that_fails_ends_all_requests(
    base: LanguageModel,
    adapted: dict[str, LanguageModel],
    alone: dict[str, list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = AdaptedEngine(base, adapted)
    for name in ("", "second"):
        engine.submit(wanted(name)[0])
    with monkeypatch.context() as patch:
        patch.setattr(adapted["second"], "prefill", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.step()
    assert engine.num_open == 0 and all(not e.num_open for e in engine._engines.values())
    assert written(engine.generate(wanted("second"))) == alone["second"]


def test_weights_do_not_change_while_requests_are_open(base: LanguageModel) -> None:
    engine = AdaptedEngine(base, {})
    ticket = engine.submit(wanted()[0])
    with pytest.raises(ConfigError):
        engine.sync(1)
    engine.abort(ticket)
    engine.sync(1)
    assert engine.context_length == base.context_length
    assert engine.stop_ids == TorchEngine(base).stop_ids


def test_budgets_go_over_adapters(base: LanguageModel, adapted: dict[str, LanguageModel]) -> None:
    engine, budget = AdaptedEngine(base, adapted), Budget(max_tokens=10)
    requests = [replace(wanted(name)[0], budget=budget) for name in ("", "first")]
    samples = [s for group in engine.generate(requests) for s in group]
    assert sum(len(s.ids) for s in samples) == 10
    assert {s.finish_reason for s in samples} == {"budget"}


def test_scores_are_the_bases(base: LanguageModel, adapted: dict[str, LanguageModel]) -> None:
    engine = AdaptedEngine(base, adapted)
    sequences = [(PROMPT, 1)]
    assert engine.score(sequences) == TorchEngine(base).score(sequences)
    theirs = engine.engine("first").score(sequences)
    assert not torch.allclose(torch.tensor(theirs), torch.tensor(engine.score(sequences)))
