"""What rows wrote, while others come and leave."""

from __future__ import annotations

import numpy as np
import torch

from posttrain.engines.transcript import Transcript


def test_lines_keep_their_text_while_others_join_and_leave() -> None:
    transcript = Transcript()
    transcript.join(2)
    wrote: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    lines = ["a", "b"]

    def step(first: int) -> None:
        ids = torch.arange(first, first + len(lines))
        transcript.append(ids, -ids.float(), -ids.float() / 2)
        for line, token in zip(lines, ids.tolist(), strict=True):
            wrote[line].append(token)

    step(10)
    step(20)
    transcript.join(1)
    lines.append("c")
    for first in (30, 40, 50, 60, 70):
        step(first)
    transcript.keep(np.array([1, 2]))
    lines.remove("a")
    step(80)
    assert transcript.at.tolist() == [8, 6]
    for line, name in enumerate(lines):
        count = len(wrote[name])
        assert transcript.ids(line, 0, count) == wrote[name]
        assert transcript.ids(line, 2, 4) == wrote[name][2:4]
        sampled, raw = transcript.logprobs(line, count)
        assert sampled == [-float(t) for t in wrote[name]] == [2 * x for x in raw]
