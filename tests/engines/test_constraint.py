"""Samples of a given form: matchers, then the distribution that an engine samples from."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("llguidance")

from posttrain.engines.constraint import Grammars, masked, with_raw
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.models.load import load_model
from posttrain.types import Constraint, Request, Sampling

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"enum": [1, 22]}, "b": {"type": "boolean"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
IDS = (5, 6, 7)


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LanguageModel:
    return load_model(str(tiny_folder), dtype="float32")


def test_a_matcher_allows_what_may_follow(tiny_tokenizer: Any) -> None:
    end = tiny_tokenizer.eos_token_id
    grammars = Grammars(tiny_tokenizer, len(tiny_tokenizer), [end])
    matcher = grammars.matcher(Constraint.regex("ab?c*"))

    def texts() -> set[str]:
        ids = matcher.allowed.nonzero()[0].tolist()
        return {"END" if i == end else tiny_tokenizer.decode([i]) for i in ids}

    def write(text: str) -> None:
        for token in tiny_tokenizer.encode(text, add_special_tokens=False):
            matcher.accept(token)

    assert texts() == {"a"} and not matcher.is_complete
    write("a")
    assert texts() == {"b", "c", "END"} and matcher.is_complete and not matcher.is_done
    other = matcher.copy()
    write("b")
    assert texts() == {"c", "END"}
    assert other.allowed.sum() == 3  # on its own
    matcher.accept(end)
    assert matcher.is_done
    assert grammars.matcher(Constraint.regex("ab?c*")).allowed.sum() == 1


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint.regex("(a"),
        Constraint("json_schema", "{"),
        Constraint.json_schema({"type": "nonsense"}),
    ],
)
def test_refuses_what_is_not_valid(model: LanguageModel, constraint: Constraint) -> None:
    engine = TorchEngine(model)
    with pytest.raises(ConfigError):
        engine.submit(Request(IDS, Sampling(), constraint=constraint))
    assert engine.num_open == 0


def test_a_model_without_a_tokenizer_is_refused(model: LanguageModel) -> None:
    bare = LanguageModel(model.hf, None)  # type: ignore[arg-type]
    bare.share_trunks()
    with pytest.raises(ConfigError):
        TorchEngine(bare).submit(Request(IDS, Sampling(), constraint=Constraint.regex("a")))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_sample_has_the_form(model: LanguageModel, temperature: float) -> None:
    engine = TorchEngine(model)
    sampling = Sampling(max_tokens=40, temperature=temperature)
    pattern = "[0-9]{2,4}-(yes|no)"
    forms = [Constraint.json_schema(SCHEMA), Constraint.regex(pattern), None]
    wanted = [Request(IDS, sampling, n=4, seed=3, constraint=form) for form in forms]
    objects, texts, free = engine.generate(wanted)
    decode = model.tokenizer.decode
    for sample in objects:
        value = json.loads(decode(sample.ids, skip_special_tokens=True))
        assert value["a"] in (1, 22) and isinstance(value["b"], bool) and len(value) == 2
    for sample in texts:
        assert re.fullmatch(pattern, decode(sample.ids, skip_special_tokens=True))
        assert sample.finish_reason == "stop"
    alone = TorchEngine(model).generate(wanted[2:])[0]
    assert [s.ids for s in free] == [s.ids for s in alone]  # beside them nothing changes


def test_a_sample_that_is_cut_has_not_ended(model: LanguageModel) -> None:
    request = Request(IDS, Sampling(max_tokens=3), constraint=Constraint.regex("a{9}"))
    ((sample,),) = TorchEngine(model).generate([request])
    assert (len(sample.ids), sample.finish_reason) == (3, "length")


def test_logprobs_are_of_both_distributions(model: LanguageModel) -> None:
    """Three ways on, each a token: the share of each among the three, and in the vocabulary."""
    engine = TorchEngine(model)
    request = Request(IDS, Sampling(max_tokens=5), n=300, constraint=Constraint.regex("[xyz]"))
    (samples,) = engine.generate([request])
    assert {len(s.ids) for s in samples} == {1}
    with torch.no_grad():
        logits = model.pretrained(input_ids=torch.tensor([IDS])).logits[0, -1]
    ids = model.tokenizer.encode("xyz", add_special_tokens=False)
    among = torch.log_softmax(logits[ids], 0).tolist()
    whole = torch.log_softmax(logits, 0)[ids].tolist()
    for sample in samples:
        place = ids.index(sample.ids[0])
        assert sample.engine_logprobs == pytest.approx([among[place]], abs=1e-4)
        assert sample.raw_logprobs == pytest.approx([whole[place]], abs=1e-4)
    counts = [sum(s.ids[0] == i for s in samples) for i in ids]
    expected = [300 * 2.718281828**x for x in among]
    chi_square = sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True))
    assert chi_square < 13.8  # two degrees of freedom: p = 0.001


def test_lines_without_a_matcher_keep_their_bits(tiny_tokenizer: Any) -> None:
    grammars = Grammars(tiny_tokenizer, 300, [tiny_tokenizer.eos_token_id])
    logits = torch.randn(3, 300)
    matchers = {1: grammars.matcher(Constraint.regex("a|b"))}
    result = masked(logits, matchers)
    assert torch.equal(result[[0, 2]], logits[[0, 2]])
    assert result[1].isfinite().sum() == 2
    raw = with_raw(torch.zeros(3), logits, torch.tensor([0, 7, 0]), matchers)
    expected = torch.log_softmax(logits[1], 0)[7]
    torch.testing.assert_close(raw, torch.tensor([0.0, float(expected), 0.0]))
    assert masked(logits, {}) is logits and with_raw(raw, logits, raw, {}) is raw


def many_keys(count: int) -> Constraint:
    """Any of the keys may come next, which is an item of the parser for each."""
    properties = {f"p{i}": {"type": "string"} for i in range(count)}
    return Constraint.json_schema({"type": "object", "properties": properties})


def test_a_small_schema_of_a_large_grammar_is_refused(tiny_tokenizer: Any) -> None:
    parts = [
        {"anyOf": [{"properties": {f"p{i}": {"type": kind}}} for kind in ("string", "integer")]}
        for i in range(11)
    ]
    grammars = Grammars(tiny_tokenizer, len(tiny_tokenizer), [tiny_tokenizer.eos_token_id])
    with pytest.raises(ConfigError) as refused:
        grammars.matcher(Constraint.json_schema({"type": "object", "allOf": parts}))
    assert "\n" not in str(refused.value)


def test_the_latest_grammars_are_held(tiny_tokenizer: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("posttrain.engines.constraint._MAX_COMPILED", 2)
    grammars = Grammars(tiny_tokenizer, len(tiny_tokenizer), [tiny_tokenizer.eos_token_id])
    first, second, third = (Constraint.regex(letter) for letter in "abc")
    held = grammars.compiled(first)
    other = grammars.compiled(second)
    assert grammars.compiled(first) is held  # and is the later one now
    grammars.compiled(third)
    assert grammars.compiled(first) is held and grammars.compiled(second) is not other


def test_a_sample_that_cannot_be_followed_fails_its_request_alone(model: LanguageModel) -> None:
    engine = TorchEngine(model)
    sampling = Sampling(max_tokens=12)
    failing = Request(IDS, sampling, n=3, seed=1, constraint=many_keys(600))
    free = Request(IDS, sampling, n=2, seed=1)
    tickets = [engine.submit(failing), engine.submit(free)]
    results = {}
    while engine.num_open:
        results |= {f.ticket: f for f in engine.step()}
    assert isinstance(results[tickets[0]].error, ConfigError)
    assert not results[tickets[0]].samples
    (alone,) = TorchEngine(model).generate([free])
    assert [s.ids for s in results[tickets[1]].samples] == [s.ids for s in alone]
    stats = engine.stats
    assert stats.generated_tokens == stats.returned_tokens + stats.discarded_tokens
    with pytest.raises(ConfigError):
        engine.generate([failing])
    assert engine.num_open == 0 and engine.step() == []


def test_a_constraint_is_compiled_ahead_in_another_thread(model: LanguageModel) -> None:
    engine = TorchEngine(model)
    constraint = Constraint.json_schema(SCHEMA)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(engine.compile, constraint).result()
        with pytest.raises(ConfigError):
            pool.submit(engine.compile, Constraint.regex("(a")).result()
    held = engine._grammars.compiled(constraint)
    ((sample,),) = engine.generate([Request(IDS, Sampling(max_tokens=40), constraint=constraint)])
    assert json.loads(model.tokenizer.decode(sample.ids, skip_special_tokens=True))
    assert engine._grammars.compiled(constraint) is held and not held.is_complete
