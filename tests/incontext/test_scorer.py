"""Labels by a server's text, and prompts that are too long."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from posttrain.config import EndpointConfig
from posttrain.engines.endpoint import Written
from posttrain.errors import ConfigError
from posttrain.incontext.rows import Labelled
from posttrain.incontext.scorer import EndpointScorer, ModelScorer, label_place
from posttrain.incontext.templates import PromptEncoder, Template
from posttrain.methods.endpoint import EndpointModel
from posttrain.models.spec import model_spec


def test_the_label_that_a_text_begins_with() -> None:
    words = ["good", "good enough", "bad"]
    assert label_place(" Good enough!", words) == 1
    assert label_place('"bad"', words) == 2
    assert label_place("It is bad", words) is None


@pytest.mark.parametrize("route", ["auto", "chat"])
def test_a_server_writes_labels(route: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    config = EndpointConfig(url="http://localhost:1/v1", model="m", route=route)
    scorer = EndpointScorer(EndpointModel(config), Template(), ["pos", "neg"])
    asked: list[Any] = []

    def complete(prompts: list[Any], sampling: Any, *, n: int, seeds: list[int]) -> Any:
        asked.extend(prompts)
        assert sampling.temperature == 0 and n == 1
        return [[Written(" neg\n", "stop")], [Written("well", "stop")], []]

    monkeypatch.setattr(scorer._endpoint, "complete", complete)
    shot = [Labelled("a", "pos")]
    found = scorer.logprobs([(shot, "x"), (shot, "y"), ([], "z")])
    assert np.exp(found[0]).tolist() == [0.0, 1.0] and np.isnan(found[1:]).all()
    if route == "chat":
        assert [m["role"] for m in asked[0]] == ["user", "assistant", "user"]
    else:
        assert asked[0] == "Input: a\nLabel: pos\n\nInput: x\nLabel:"


def test_long_prompts_are_refused_by_the_context() -> None:
    spec = model_spec("embedded-icl")
    scorer = ModelScorer(spec, PromptEncoder(spec.tokenizer, Template(), ["a", "b"]))
    scorer.check_lengths([([], "short")])
    with pytest.raises(ConfigError, match="num_shots"):
        scorer.check_lengths([([Labelled("word " * 300, "a")] * 5, "short")])
