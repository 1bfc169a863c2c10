"""Stop strings across tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from posttrain.engines.torch import TorchEngine
from posttrain.models.language_model import LanguageModel
from posttrain.types import Request, Sampling

Build = Callable[[str], LanguageModel]


@pytest.fixture(scope="module", params=["llama", "qwen3", "gemma2", "gpt2", "mamba"])
def model(decoder: Build, request: pytest.FixtureRequest) -> LanguageModel:
    return decoder(request.param)


@pytest.fixture(scope="module")
def llama(decoder: Build) -> LanguageModel:
    return decoder("llama")


def test_a_stop_string_may_end_in_a_space(tiny_folder: Any) -> None:
    from posttrain.models.load import load_model

    model = load_model(tiny_folder, dtype="float32")
    prompt = tuple(model.tokenizer("Q:")["input_ids"])
    space = model.tokenizer(" ", add_special_tokens=False)["input_ids"][-1]
    with torch.no_grad():  # the model writes spaces more often than not
        model.head.weight[space] += 3 * model.head.weight.std()
    engine = TorchEngine(model)
    free = engine.generate([Request(prompt, Sampling(max_tokens=40), n=32, seed=3)])[0]
    stopped = engine.generate(
        [Request(prompt, Sampling(max_tokens=40, stop=(" ",)), n=32, seed=3)]
    )[0]
    assert any(space in s.ids for s in free)
    for before, after in zip(free, stopped, strict=True):
        where = before.ids.index(space) if space in before.ids else None
        assert after.ids == (before.ids if where is None else before.ids[: where + 1])
        assert after.stop_string == (None if where is None else " ")


def test_stop_strings_across_tokens(tiny_folder: Any) -> None:
    """Bytes are tokens, so every stop string spans several; the text before it is what a free
    sample holds.
    """
    from posttrain.data.templates import decode_completion
    from posttrain.models.load import load_model

    model = load_model(tiny_folder, dtype="float32")
    engine = TorchEngine(model)
    prompt = tuple(model.tokenizer("Q:")["input_ids"])
    free = engine.generate([Request(prompt, Sampling(max_tokens=60), n=16, seed=3)])[0]
    texts = [model.tokenizer.decode(s.ids, skip_special_tokens=False) for s in free]
    wanted = next(
        t[i : i + 2]
        for t in texts
        for i in range(8, len(t) - 2)
        if "\ufffd" not in t[i : i + 2] and t[i : i + 2].isascii()
    )
    stopped = engine.generate(
        [Request(prompt, Sampling(max_tokens=60, stop=(wanted,)), n=16, seed=3)]
    )[0]
    hits = 0
    for before, after, text in zip(free, stopped, texts, strict=True):
        assert before.ids[: len(after.ids)] == after.ids
        if wanted in text:
            hits += 1
            assert after.stop_string == wanted and after.finish_reason == "stop"
            assert wanted not in decode_completion(model.tokenizer, after)
        else:
            assert after.ids == before.ids and after.stop_string is None
    assert hits >= 1
