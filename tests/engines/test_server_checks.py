"""Servers that cannot stand in for the trained model are refused before anything is sampled."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from posttrain.engines.server_checks import check_facts, mode_for
from posttrain.engines.server_protocol import ServerFacts
from posttrain.errors import ConfigError
from posttrain.types import Sampling

FACTS = ServerFacts("m", "float32", 64, "raw_logprobs", is_tied=False)
MODEL: Any = SimpleNamespace(
    pretrained=SimpleNamespace(dtype=torch.float32), config=SimpleNamespace(vocab_size=10)
)


def server(vocab_size: int = 10) -> Any:
    return SimpleNamespace(
        client=SimpleNamespace(url="http://s"), takes=lambda token, model: token < vocab_size
    )


SHORT = Sampling(max_tokens=16)


def check(facts: ServerFacts, sampling: Sampling = SHORT, **more: Any) -> None:
    check_facts(facts, more.pop("server", server()), MODEL, sampling, **{"whole": True, **more})


def test_a_server_that_fits_is_taken() -> None:
    check(FACTS)
    check(ServerFacts("m"))
    check(replace(FACTS, is_tied=True), whole=False)
    check(FACTS, Sampling(max_tokens=16, top_p=0.9))
    check(replace(FACTS, logprobs_mode="processed_logprobs"))


@pytest.mark.parametrize(
    ("changes", "sampling"),
    [
        ({"dtype": "bfloat16"}, Sampling(max_tokens=16)),
        ({"max_model_len": 16}, Sampling(max_tokens=16)),
        ({"is_tied": True}, Sampling(max_tokens=16)),
        ({}, Sampling(max_tokens=16, temperature=0.5)),
        ({"logprobs_mode": "processed_logprobs"}, Sampling(max_tokens=16, top_p=0.9)),
    ],
)
def test_a_server_that_does_not_fit_is_refused(changes: dict[str, Any], sampling: Sampling) -> None:
    with pytest.raises(ConfigError, match="http://s"):
        check(replace(FACTS, **changes), sampling)


def test_a_server_of_a_smaller_vocabulary_is_refused() -> None:
    with pytest.raises(ConfigError, match="token id 9"):
        check(FACTS, server=server(9))


def test_the_mode_follows_the_temperature() -> None:
    assert mode_for(Sampling()) == mode_for(Sampling(top_p=0.5)) == "raw_logprobs"
    assert mode_for(Sampling(temperature=0.5)) == "processed_logprobs"
