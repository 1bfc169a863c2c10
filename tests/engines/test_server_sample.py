"""From a server's choices to samples: one id per token, whatever the server tells."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from posttrain.engines.characters import END, piece_text
from posttrain.engines.endpoint import Written
from posttrain.engines.server_sample import Choice, sample_of
from posttrain.types import Request, Sampling


def request(*stops: str, num_top: int = 0) -> Request:
    return Request((1,), Sampling(max_tokens=9, stop=stops), num_top_logprobs=num_top)


def text(ids: list[int]) -> str:
    return "".join(map(piece_text, ids))


def choice(written: str, count: int, reason: Any = "stop", **more: Any) -> Choice:
    return Choice(Written(written, reason), count, 3, **more)


def test_tokens_tell_what_ended_a_text() -> None:
    tokens: Any = {"tokens": ("1+1", "=2.\n"), "logprobs": (-0.5, -0.25)}
    cut = sample_of(choice("1+1=2.", 2, **tokens), request("x", "\n"), was_cut=False)
    assert (cut.stop_string, text(cut.ids), cut.raw_logprobs) == ("\n", "1+1=2.\n", [-0.5, -0.25])
    tokens = {"tokens": ("1+1", "=2", "</s>"), "logprobs": (-0.5, -0.25, -1.0)}
    end = sample_of(choice("1+1=2", 3, **tokens), request("\n"), was_cut=False)
    assert end.stop_string is None and end.ids[-1] == END and text(end.ids) == "1+1=2"
    long = sample_of(choice("1+1=2</s>", 3, "length", **tokens), request("\n"), was_cut=True)
    assert long.finish_reason == "budget" and text(long.ids) == "1+1=2</s>"


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_without_tokens_the_count_is_the_servers(count: int) -> None:
    for reason in ("stop", "length"):
        sample = sample_of(choice("a longer text", count, reason), request(), was_cut=False)
        assert len(sample.ids) == count and text(sample.ids) == "a longer text"
        assert sample.raw_logprobs == [] and sample.finish_reason == reason


def test_without_tokens_a_stop_is_what_the_server_says_or_the_last_of_them() -> None:
    said = sample_of(choice("ab", 2, stop="x"), request("x", "\n"), was_cut=False)
    assert said.stop_string == "x" and text(said.ids) == "abx"
    silent = sample_of(choice("ab", 2), request("x", "\n"), was_cut=False)
    assert silent.stop_string == "\n" and text(silent.ids) == "ab\n"
    empty = sample_of(choice("", 1), request("x", "\n"), was_cut=False)
    assert empty.stop_string is None and empty.ids == [END]


def test_alternatives_are_ids_too() -> None:
    tops = ((("a", -0.1), ("bc", -2.0), ("d", -3.0)),)
    given = choice("a", 1, "length", tokens=("a",), logprobs=(-0.1,), top=tops)
    sample = sample_of(given, request(num_top=2), was_cut=False)
    ((first, second),) = sample.top_logprobs
    assert first == (ord("a"), -0.1) and piece_text(second[0]) == "bc"


def test_a_total_is_shared_by_length() -> None:
    from posttrain.engines.server_sample import choices_of

    class Fake:
        config = SimpleNamespace(model="m", url="u")

        def written(self, answer: Any) -> list[Written]:
            return [Written(c.text, "stop") for c in answer.choices]

    answer = SimpleNamespace(
        choices=[SimpleNamespace(text=t, logprobs=None) for t in ("a" * 30, "", "b" * 10)],
        usage=SimpleNamespace(completion_tokens=17, prompt_tokens=2),
    )
    made: Any = Fake()
    counts = [c.num_tokens for c in choices_of(made, answer)]
    assert sum(counts) == 17 and counts[0] > counts[2] >= counts[1]
