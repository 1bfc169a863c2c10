"""The comparison of engines: the same prompts on both sides, ratios of the same round."""

from __future__ import annotations

import pytest

from .loading import load


def test_both_sides_have_the_same_prompts_and_every_trial_new_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = load("engine_work", monkeypatch)
    shared, distinct = (work.prompts_of(case, 100, 0) for case in ("shared", "distinct"))
    assert (len(shared), len(distinct), len(set(distinct))) == (1, 64, 64)
    assert {len(ids) for ids in [*shared, *distinct]} == {512}
    assert work.prompts_of("distinct", 100, 0) == distinct
    assert not set(work.prompts_of("distinct", 100, 1)) & set(distinct)


def test_the_table_pairs_rounds_and_reads_the_best_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = load("engine_peer", monkeypatch)

    def round_of(ours: float, theirs: float) -> dict[str, object]:
        sides = {"ours": ours, "vllm": theirs}
        cases = {name: dict.fromkeys(peer.CASES, seconds) for name, seconds in sides.items()}
        return {"memory_rate": 1e9, **cases}

    rounds = [round_of(1.0, 2.0), round_of(4.0, 4.0), round_of(2.0, 6.0)]  # ratios 2, 1, 3
    weights = int(0.5e9 / peer.NEW_TOKENS)  # the fastest round reads half a gigabyte in a second
    table = peer.markdown({"runs": {"7m-fp32": rounds}, "weight_bytes": {"7m-fp32": weights}})
    cell = "2.00 s, vLLM 4.00 s: **2.00**"
    assert table.split("\n")[-1] == f"| 7m-fp32 | {cell} | {cell} | {cell} | 50% |"
