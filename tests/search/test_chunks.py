"""Completions that are sampled a chunk at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from posttrain.search.base import Candidate
from posttrain.search.chunks import begun, continued, is_open

END = 0


def decode(ids: Sequence[int]) -> str:
    return "".join(chr(96 + i) for i in ids if i != END)


def writing(whole: tuple[int, ...], prompt: int = 1):
    """Writes a fixed completion, two tokens at a time."""

    def write(context, n):
        done = len(context) - prompt
        ids = whole[done : done + 2]
        return [Candidate(ids, decode(ids), -1.0, END in ids) for _ in range(n)]

    return write


def test_chunks_make_the_whole(scripted, search) -> None:
    async def run(ask):
        (path,) = await begun((9,), ask, 1, 2)
        length = 0
        while is_open(path, ask, length):
            length = len(path.ids)
            (path,) = await continued([path], (9,), ask, decode, 2)
        return path

    ask = scripted(writing((1, 2, 3, 4, END)))
    path = search(run(ask))
    assert (path.ids, path.text, path.ended) == ((1, 2, 3, 4, END), "abcd", True)
    assert [bound for *_, bound in ask.calls] == [2, 2, 2]
    ask = scripted(writing((1, 2, 3, 4, 5, 6)), max_tokens=3)
    path = search(run(ask))
    assert [bound for *_, bound in ask.calls] == [2, 1] and not path.ended
    ask = scripted(writing((1, 2)))  # what the budget leaves empty does not go on
    assert search(run(ask)).ids == (1, 2) and len(ask.calls) == 2


def test_a_stop_string_over_two_chunks_ends_a_path(scripted, search) -> None:
    async def run(ask):
        (path,) = await begun((9,), ask, 1, 2)
        (path,) = await continued([path], (9,), ask, decode, 2)
        return path

    ask = scripted(writing((1, 2, 3, 4, 5)))
    ask.sampling = replace(ask.sampling, stop=("bc",))
    path = search(run(ask))
    assert (path.text, path.ended, path.stop_string) == ("a", True, "bc")
    assert path.ids == (1, 2, 3, 4) and not is_open(path, ask)
