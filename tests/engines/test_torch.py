from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from posttrain.engines.decode import DecodePlan
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError, DataError
from posttrain.models.language_model import LanguageModel
from posttrain.types import Request, Sample, Sampling

Build = Callable[[str], LanguageModel]
PROMPTS = [tuple(range(3, 20)), tuple(range(3, 12)), tuple(range(40, 70)), (5,)]


@pytest.fixture(scope="module", params=["llama", "qwen3", "gemma2", "gpt2", "mamba"])
def model(decoder: Build, request: pytest.FixtureRequest) -> LanguageModel:
    return decoder(request.param)


@pytest.fixture(scope="module")
def llama(decoder: Build) -> LanguageModel:
    return decoder("llama")


def ids(groups: list[list[Sample]]) -> list[list[list[int]]]:
    return [[s.ids for s in group] for group in groups]


def requests(n: int = 5, **settings: Any) -> list[Request]:
    return [
        Request(p, Sampling(**{"max_tokens": 20, **settings}), n=n, seed=i)
        for i, p in enumerate(PROMPTS)
    ]


def test_greedy_equals_generate(model: LanguageModel) -> None:
    out = TorchEngine(model).generate(requests(1, temperature=0.0))
    for prompt, (sample,) in zip(PROMPTS, out, strict=True):
        theirs = model.hf.generate(
            torch.tensor([prompt]), max_new_tokens=20, do_sample=False, pad_token_id=0
        )
        assert sample.ids == theirs[0, len(prompt) :].tolist()


def test_logprobs_are_the_trainers(model: LanguageModel) -> None:
    engine = TorchEngine(model)
    out = engine.generate(requests())
    samples = [(p, s) for p, group in zip(PROMPTS, out, strict=True) for s in group]
    for (_, sample), scores in zip(
        samples, engine.score([([*p, *s.ids], len(p)) for p, s in samples]), strict=True
    ):
        assert sample.raw_logprobs == pytest.approx(scores, abs=1e-5)
        assert sample.engine_logprobs == sample.raw_logprobs  # temperature 1, nothing cut off


def test_a_sample_does_not_depend_on_its_company(model: LanguageModel) -> None:
    together = ids(TorchEngine(model).generate(requests()))
    assert ids(TorchEngine(model, max_rows=1).generate(requests())) == together
    assert ids(TorchEngine(model, max_rows=7).generate(requests())) == together
    assert ids(TorchEngine(model).generate(requests()[::-1]))[::-1] == together
    assert [ids(TorchEngine(model).generate([r]))[0] for r in requests()] == together
    more = ids(TorchEngine(model).generate(requests(9)))
    assert [group[:5] for group in more] == together
    assert len({tuple(s) for s in together[0]}) == 5


def test_rows_that_end_early_leave_and_change_nothing(llama: LanguageModel) -> None:
    """Half of the vocabulary ends a sample, so that rows leave at different times."""
    engine = TorchEngine(llama)
    stops = tuple(range(0, 97, 2))
    out = engine.generate(requests(8, stop_ids=stops))
    free = engine.generate(requests(8))
    for cut_group, free_group in zip(out, free, strict=True):
        for cut, whole in zip(cut_group, free_group, strict=True):
            first = next((i for i, t in enumerate(whole.ids) if t in stops), len(whole.ids) - 1)
            assert cut.ids == whole.ids[: first + 1]
            assert cut.finish_reason == ("stop" if cut.ids[-1] in stops else "length")
    assert len({len(s.ids) for g in out for s in g}) > 2


def test_temperature_and_truncation_logprobs(llama: LanguageModel) -> None:
    engine = TorchEngine(llama)
    (group,) = engine.generate(
        [Request(PROMPTS[0], Sampling(max_tokens=6, temperature=0.7, top_k=5), n=4, seed=1)]
    )
    for sample in group:
        for i, (token, told) in enumerate(zip(sample.ids, sample.engine_logprobs, strict=True)):
            with torch.no_grad():
                logits = (
                    llama.hf(torch.tensor([[*PROMPTS[0], *sample.ids[:i]]])).logits[0, -1].double()
                    / 0.7
                )
            top = logits.topk(5)
            assert token in top.indices.tolist()
            expected = logits[token] - top.values.logsumexp(0)
            assert told == pytest.approx(float(expected), abs=1e-4)


def test_the_context_bounds_a_sample(llama: LanguageModel) -> None:
    (group,) = TorchEngine(llama).generate([Request(tuple(range(90)), Sampling(max_tokens=50))])
    assert len(group[0].ids) == 6 and group[0].finish_reason == "length"


def test_rows_that_join_late_change_nothing(model: LanguageModel) -> None:
    """Rows of very different lengths, some up to the end of the context, wait for places that
    others leave.
    """
    wanted = [
        Request(tuple(range(1, 1 + length)), Sampling(max_tokens=limit), n=3, seed=7 + i)
        for i, (length, limit) in enumerate(
            [(5, 2), (90, 30), (9, 25), (30, 1), (5, 40), (93, 50), (12, 7), (2, 33)]
        )
    ]
    alone = [ids(TorchEngine(model).generate([r]))[0] for r in wanted]
    for rows in (1, 2, 5, 11):
        assert ids(TorchEngine(model, max_rows=rows).generate(wanted)) == alone
    assert ids(TorchEngine(model, max_kv_bytes=200_000).generate(wanted)) == alone


def test_a_prompt_whose_samples_wait_is_computed_once(llama: LanguageModel) -> None:
    engine = TorchEngine(llama, max_rows=3)
    engine.generate(
        [
            Request(PROMPTS[0], Sampling(max_tokens=3), n=8),
            Request(PROMPTS[2], Sampling(max_tokens=3), n=8),
        ]
    )
    assert engine.stats.computed_tokens == len(PROMPTS[0]) + len(PROMPTS[2])


def test_few_keys_and_values_are_held_where_memory_is_short(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def counted(plan: DecodePlan) -> torch.Tensor:
        seen.append(len(plan.written))
        return plan.lengths[plan.prompt_of] + plan.written

    monkeypatch.setattr(DecodePlan, "positions", counted)
    per_token = 2 * 3 * 2 * 16 * 4
    engine = TorchEngine(llama, max_kv_bytes=per_token * (17 + 4 * 20))
    (group,) = engine.generate([Request(PROMPTS[0], Sampling(max_tokens=20), n=9)])
    assert max(seen) == 4 and [len(s.ids) for s in group] == [20] * 9


def test_caches_are_keyed_by_the_weights(decoder: Build, llama: LanguageModel) -> None:
    model = decoder("llama")
    engine = TorchEngine(model, cache_tokens=10_000)
    before = ids(engine.generate(requests(1, temperature=0.0)))
    computed = engine.stats.computed_tokens
    assert ids(engine.generate(requests(1, temperature=0.0))) == before
    assert engine.stats.computed_tokens == computed  # everything came from the cache
    with torch.no_grad():
        model.hf.model.layers[0].self_attn.v_proj.weight.neg_()
    engine.sync(1)
    fresh = TorchEngine(model).generate(requests(1, temperature=0.0))
    after = engine.generate(requests(1, temperature=0.0))
    assert ids(after) == ids(fresh) != before
    assert after[0][0].weights_version == 1
    small = TorchEngine(model, cache_tokens=20)
    small.generate(requests(1))
    assert sum(len(p) for _, p in small._cache) <= 20


def test_prompts_are_computed_once(llama: LanguageModel) -> None:
    engine = TorchEngine(llama)
    shared = tuple(range(30))
    engine.generate([Request((*shared, 40 + i), Sampling(max_tokens=2), n=8) for i in range(4)])
    stats = engine.stats
    assert (stats.prompt_tokens, stats.computed_tokens) == (4 * 8 * 31, 30 + 4)
    assert stats.prompt_tokens == stats.computed_tokens + stats.reused_tokens
    assert (stats.generated_tokens, stats.returned_tokens, stats.discarded_tokens) == (64, 64, 0)


def test_lora_and_training_mode_are_left_alone(decoder: Build) -> None:
    from posttrain.config import LoraConfig
    from posttrain.models.adapters import add_lora

    model = decoder("llama")
    hf = add_lora(model.hf, LoraConfig(r=2, dropout=0.5), seed=0)
    wrapped = LanguageModel(hf, None)  # type: ignore[arg-type]
    wrapped.share_trunks()
    wrapped.train()
    engine = TorchEngine(wrapped)
    out = engine.generate(requests(2))
    assert ids(out) == ids(
        TorchEngine(decoder("llama")).generate(requests(2))
    )  # B = 0: the base model, without dropout
    assert wrapped.hf.training


def drained(engine: TorchEngine) -> dict[int, list[Sample]]:
    """Step until nothing is open; the samples of each ticket."""
    results: dict[int, list[Sample]] = {}
    while engine.num_open:
        results |= {f.ticket: f.samples for f in engine.step()}
    return results


def test_requests_join_and_leave_while_others_run(decoder: Build) -> None:
    """In float64 a sample has the same ids beside any traffic, whenever it joins."""
    model = decoder("qwen3")
    model.hf.double()
    model.share_trunks()
    wanted = requests(3, temperature=0.8)
    alone = [TorchEngine(model).generate([r])[0] for r in wanted]
    engine = TorchEngine(model, max_rows=7)
    results: dict[int, list[Sample]] = {}
    tickets, passing = {}, []
    for number, request in enumerate(wanted):
        tickets[engine.submit(request)] = number
        prompt = (*request.prompt_ids, 9) if number % 2 else request.prompt_ids
        other = Request(prompt, Sampling(max_tokens=40, top_p=0.9), n=2, seed=99 + number)
        passing.append(engine.submit(other))
        for _ in range(3 + number):
            results |= {f.ticket: f.samples for f in engine.step()}
        engine.abort(passing[0])
    results |= drained(engine)
    assert set(results) == {*tickets, *passing[1:]}
    for ticket, number in tickets.items():
        assert ids([results[ticket]]) == ids([alone[number]])
        for sample, expected in zip(results[ticket], alone[number], strict=True):
            assert sample.raw_logprobs == pytest.approx(expected.raw_logprobs, abs=1e-6)


def test_the_accounts_of_an_open_engine_add_up(model: LanguageModel) -> None:
    engine = TorchEngine(model, max_rows=6)
    tickets = [engine.submit(r) for r in requests(4)]
    for _ in range(5):
        engine.step()
    engine.abort(tickets[0])
    engine.abort(tickets[0])  # no longer open: ignored
    for _ in range(3):
        engine.step()
    engine.abort(tickets[3])
    results = drained(engine)
    stats = engine.stats
    assert set(results) == set(tickets[1:3]) and engine.num_open == 0 and engine.step() == []
    returned = sum(len(s.ids) for samples in results.values() for s in samples)
    assert stats.returned_tokens == returned == 2 * 4 * 20
    assert stats.generated_tokens == returned + stats.discarded_tokens
    assert stats.discarded_tokens >= 4 * 5
    assert stats.prompt_tokens == stats.computed_tokens + stats.reused_tokens


def test_tokens_are_handed_over_as_they_are_written(llama: LanguageModel) -> None:
    engine = TorchEngine(llama)
    request = Request(PROMPTS[0], Sampling(max_tokens=12, stop_ids=tuple(range(0, 97, 9))), n=3)
    heard: dict[int, list[int]] = {0: [], 1: [], 2: []}
    engine.submit(request, lambda index, new: heard[index].extend(new))
    (samples,) = drained(engine).values()
    assert heard == {k: s.ids for k, s in enumerate(samples)}
    assert ids([samples]) == ids(engine.generate([request]))


def test_generate_leaves_other_requests_open(llama: LanguageModel) -> None:
    engine = TorchEngine(llama)
    short, long = (engine.submit(Request((4, 5), Sampling(max_tokens=m))) for m in (2, 30))
    (group,) = engine.generate([Request((8, 9), Sampling(max_tokens=10))])
    assert len(group[0].ids) == 10 and engine.num_open == 1
    with pytest.raises(ConfigError, match="1 requests are open"):
        engine.sync(3)
    assert [f.ticket for f in engine.step()] == [short]
    assert list(drained(engine)) == [long]


def test_a_step_that_fails_aborts_what_is_open(
    decoder: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TorchEngine(decoder("llama"))
    engine.submit(requests()[0])
    engine.step()
    with monkeypatch.context() as patch:
        patch.setattr(DecodePlan, "advance", lambda plan: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.step()
    assert engine.num_open == 0 and engine.step() == []
    assert engine.stats.generated_tokens == engine.stats.discarded_tokens == 5
    assert ids(engine.generate(requests())) == ids(TorchEngine(engine.model).generate(requests()))


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (Request((), Sampling()), DataError, "the prompt is empty"),
        (Request((97,), Sampling()), DataError, "token id 97 is outside 0 to 96"),
        (
            Request(tuple(range(96)), Sampling()),
            DataError,
            "96 tokens and the model's context is 96",
        ),
        (Request((1,), Sampling(max_tokens=0)), ConfigError, "max_tokens is 0"),
        (Request((1,), Sampling(temperature=-1)), ConfigError, "temperature is -1"),
        (Request((1,), Sampling(top_p=0)), ConfigError, "top_p is 0"),
        (Request((1,), Sampling(temperature=float("nan")), n=1), ConfigError, "temperature is nan"),
        (Request((1,), Sampling(stop=("",))), ConfigError, "without the empty string"),
        (Request((1,), Sampling(stop=("x",))), ConfigError, "need a tokenizer"),
        (Request((1,), Sampling(), n=0), ConfigError, "n is 0"),
    ],
)
def test_refuses(
    llama: LanguageModel, request_: Request, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        TorchEngine(llama).generate([Request((1,), Sampling()), request_])


def test_bounds_and_seeds(llama: LanguageModel) -> None:
    with pytest.raises(ConfigError, match="max_rows is 0; it must be at least 1"):
        TorchEngine(llama, max_rows=0)
    with pytest.raises(ConfigError, match="cache_tokens is -1"):
        TorchEngine(llama, cache_tokens=-1)
    a, b, c = (
        TorchEngine(llama).generate([Request((1, 2), Sampling(), seed=s)])[0][0].ids
        for s in (0, 2**63 + 5, -1)
    )
    assert a != b != c != a


def test_bfloat16_runs(decoder: Build) -> None:
    model = decoder("llama")
    model.hf.to(torch.bfloat16)
    model.share_trunks()
    out = TorchEngine(model).generate(requests(2))
    assert all(len(s.ids) == 20 for g in out for s in g)


def test_tokens_are_told_up_to_the_end_of_each_sample(llama: LanguageModel) -> None:
    """Samples of one request end at different times; ended lines run along in silence."""
    engine = TorchEngine(llama)
    told: dict[int, list[int]] = {k: [] for k in range(8)}
    request = Request(PROMPTS[0], Sampling(max_tokens=20, stop_ids=tuple(range(0, 97, 9))), n=8)
    engine.submit(request, lambda index, ids: told[index].extend(ids))
    finished = []
    while engine.num_open:
        finished += engine.step()
    samples = finished[0].samples
    assert len({len(sample.ids) for sample in samples}) > 2
    assert [told[k] for k in range(8)] == [sample.ids for sample in samples]
