"""A model of lm-evaluation-harness, on a small stand-in of its base class."""

from __future__ import annotations

import abc
import math
import sys
import types
from dataclasses import dataclass
from typing import Any

import pytest

import posttrain as pt
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError, MissingDependency, TemplateError
from posttrain.evaluation.harness import harness_model, rolling_windows
from posttrain.search.base import select


class FakeHook:
    """Remembers what was added."""

    def __init__(self) -> None:
        self.added: list[tuple[str, Any, Any]] = []

    def add_partial(self, attr: str, request: Any, result: Any) -> None:
        self.added.append((attr, request, result))


class FakeLM(abc.ABC):
    """The part of `lm_eval.api.model.LM` that a model has to fill."""

    def __init__(self) -> None:
        self.cache_hook = FakeHook()

    @abc.abstractmethod
    def loglikelihood(self, requests: Any) -> Any: ...

    @abc.abstractmethod
    def loglikelihood_rolling(self, requests: Any) -> Any: ...

    @abc.abstractmethod
    def generate_until(self, requests: Any) -> Any: ...


@dataclass
class Instance:
    """A request of the harness."""

    args: tuple[Any, ...]


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library, as far as it is needed."""
    module: Any = types.ModuleType("lm_eval.api.model")
    module.LM = FakeLM
    for name in ("lm_eval", "lm_eval.api"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", module)


@pytest.fixture(scope="module")
def model() -> Any:
    """The embedded model."""
    return pt.load("embedded")


def requests(*pairs: tuple[Any, ...]) -> list[Instance]:
    return [Instance(pair) for pair in pairs]


def test_the_library_is_optional(monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(MissingDependency):
        harness_model(model)


def test_log_likelihoods_are_the_engines(model: Any) -> None:
    made = harness_model(model)
    assert isinstance(made, FakeLM)
    pairs = [("3+4=", "7"), ("12-5= ", "7"), ("3+4=", "9"), ("", "5"), ("3+4=", "7")]
    results = made.loglikelihood(requests(*pairs))
    engine = TorchEngine(model)
    bos = model.tokenizer.bos_token_id
    for (context, continuation), (logprob, _) in zip(pairs, results, strict=True):
        before = model.tokenizer.encode(context.rstrip(), add_special_tokens=False)
        whole = model.tokenizer.encode(context + continuation, add_special_tokens=False)
        ids = [bos, *whole]
        expected = engine.score([(ids, 1 + len(before))])[0]
        assert logprob == pytest.approx(sum(expected), abs=1e-4)
    assert results[0] == results[4] and len(made.cache_hook.added) == 5
    assert results[0][0] > results[2][0]


def test_greedy_is_what_greedy_decoding_writes(model: Any) -> None:
    made = harness_model(model)
    (text,) = made.generate_until(requests(("3+4=", {"max_gen_toks": 3})))
    results = made.loglikelihood(requests(("3+4=", text), ("3+4=", text[:-1] + "x")))
    assert [greedy for _, greedy in results] == [True, False]


def test_rolling_predicts_each_token_once(model: Any) -> None:
    for length in (2, 3, 5, 50):
        windows = list(rolling_windows(list(range(11)), 99, length))
        assert [i for _, predicted in windows for i in predicted] == list(range(11))
        assert all(len(a) + len(b) <= length and a for a, b in windows)
    assert list(rolling_windows([], 99, 4)) == []
    made = harness_model(model)
    text = "12-5=7"
    ids = model.tokenizer.encode(text, add_special_tokens=False)
    expected = TorchEngine(model).score([([model.tokenizer.bos_token_id, *ids], 1)])[0]
    (result, empty) = made.loglikelihood_rolling(requests((text,), ("",)))
    assert result == pytest.approx(sum(expected), abs=1e-4) and empty == 0
    limit = TorchEngine(model).context_length
    assert limit is not None
    (long,) = made.loglikelihood_rolling(requests(("7 " * limit,)))
    assert math.isfinite(long) and made.accounts["cut_prompts"] == 0


def test_generations_keep_their_order_and_repeats_differ(model: Any) -> None:
    sampled = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 12}
    greedy = {"until": ["\n"], "max_gen_toks": 12}
    rows = [("3+4=", sampled), ("12-5=", greedy), ("3+4=", sampled), ("3+4=", sampled)]
    made = harness_model(model)
    texts = made.generate_until(requests(*rows))
    assert len({texts[0], texts[2], texts[3]}) > 1  # repeats are samples of one request
    assert made.accounts["num_samples"] == 4
    (alone,) = harness_model(model).generate_until(requests(rows[1]))
    assert texts[1] == alone and "\n" not in alone
    assert texts == harness_model(model).generate_until(requests(*rows))
    assert [a[1] for a in made.cache_hook.added] == [rows[1]]  # samples are not cached
    twice = harness_model(model)
    assert len(set(twice.generate_until(requests(rows[1], rows[1])))) == 1
    assert twice.accounts["num_samples"] == 1


def test_stops_and_settings(model: Any) -> None:
    made = harness_model(model)
    (whole,) = made.generate_until(requests(("3+4=", {"max_gen_toks": 12, "until": []})))
    mark = whole[len(whole) // 2]
    (cut,) = made.generate_until(requests(("3+4=", {"max_gen_toks": 12, "until": mark})))
    assert cut == whole[: whole.index(mark)]
    with pytest.raises(ConfigError, match="max_gen_toks"):
        made.generate_until(requests(("3+4=", {"max_gen_tok": 12})))


def test_thoughts_are_not_part_of_the_text(model: Any) -> None:
    made = harness_model(model, think_end="####")
    assert made._answer_text("a\n\nb#### 7\n\nQ", ("\n\n",)) == "7"
    plain = harness_model(model)
    assert plain._answer_text("a#### 7", ()) == "a#### 7"


def test_a_search_chooses(model: Any) -> None:
    async def longest(prompt, ask, extract, *, num_samples: int = 4) -> Any:
        """The longest of several samples."""
        candidates = await ask(prompt, num_samples)
        lengths = [len(c.text) for c in candidates]
        return select(candidates, lengths.index(max(lengths)), extract)

    row = ("3+4=", {"max_gen_toks": 12})
    made = harness_model(model, search=longest)
    texts = made.generate_until(requests(row, ("12-5=", {"max_gen_toks": 8}), row))
    assert made.accounts["num_samples"] == 12 and made.accounts["failures"] == 0
    assert all(texts) and made.accounts["sampled_tokens"] > 12
    bounded = harness_model(model, search=pt.majority_vote(num_samples=4), budget=6)
    bounded.generate_until(requests(row))
    assert bounded.accounts["sampled_tokens"] <= 6
    scored = harness_model(model, search=pt.best_of_n(num_samples=2), scorer="length")
    assert len(scored.generate_until(requests(row))) == 1


def test_searches_that_fail_or_abstain_give_no_text(model: Any) -> None:
    async def broken(prompt, ask) -> Any:
        raise RuntimeError("oh")

    made = harness_model(model, search=broken)
    assert made.generate_until(requests(("3+4=", {}))) == [""]
    assert made.accounts["failures"] == 1
    unsure = harness_model(model, search={"name": "selective_vote", "threshold": 1.1})
    assert unsure.generate_until(requests(("3+4=", {"max_gen_toks": 4}))) == [""]


def test_what_is_refused(model: Any) -> None:
    with pytest.raises(ConfigError):
        harness_model(model, search=pt.best_of_n(num_samples=2), scorer="oracle")
    with pytest.raises(ConfigError):
        harness_model(model, scorer="length")
    with pytest.raises(ConfigError):
        harness_model(model, search=pt.value_beam())


def test_chat_templates(model: Any) -> None:
    made = harness_model(model)
    assert made.tokenizer_name and "/" not in made.tokenizer_name
    if not model.tokenizer.chat_template:
        with pytest.raises(TemplateError):
            made.apply_chat_template([{"role": "user", "content": "hi"}])
    tools = pt.load("embedded-tools")
    chat = harness_model(tools)
    text = chat.apply_chat_template([{"role": "user", "content": "hi"}])
    expected = tools.tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=True, add_generation_prompt=True
    )
    expected = expected["input_ids"] if hasattr(expected, "keys") else expected
    assert chat._call(text, {})[0] == tuple(expected) and chat.chat_template(True)
