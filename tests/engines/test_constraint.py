"""Samples of a given form: matchers, then the distribution that an engine samples from."""

from __future__ import annotations

import json
import re
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
