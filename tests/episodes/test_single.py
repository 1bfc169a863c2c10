"""One prompt and one completion as an episode."""

from __future__ import annotations

from typing import Any

from posttrain.data.templates import encode_prompt
from posttrain.episodes.drive import drive
from posttrain.episodes.single import single_turn
from posttrain.types import Example


def test_a_prompt_and_its_completion(tiny_tokenizer: Any, engines: Any) -> None:
    episode = single_turn(tiny_tokenizer, system="Add.")
    engine = engines.BatchEngine(lambda r, k: engines.sample([60, 61], "length"))
    (trace,) = drive([lambda ask: episode(Example("2+3="), ask, ())], engine)
    (turn,) = trace.turns
    assert list(turn.context_ids) == encode_prompt(tiny_tokenizer, "Add.\n\n2+3=")
    assert trace.text == tiny_tokenizer.decode([60, 61]) and trace.stop_reason == "max_tokens"
