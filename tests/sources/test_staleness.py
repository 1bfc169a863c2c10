"""How old the weights of samples are, counted by token."""

from __future__ import annotations

from posttrain.sources.staleness import staleness, version_spans
from posttrain.types import Sample, Trace, Turn, VersionSpan


def sample(length: int, version: int, *spans: tuple[int, int, int]) -> Sample:
    ids = list(range(length))
    parts = tuple(VersionSpan(*span) for span in spans)
    return Sample(ids, [], [], "stop", weights_version=version, version_spans=parts)


def test_staleness_is_a_mean_over_tokens() -> None:
    samples = [sample(4, 3), sample(6, 1, (1, 0, 2), (2, 2, 6))]
    means = staleness(samples, 3).means()
    # four tokens of age 0, two of age 2, four of age 1
    assert means["sampling/staleness/mean"] == 8 / 10
    assert means["sampling/staleness/max"] == 2
    assert means["sampling/mixed_versions"] == 0.5


def test_an_empty_sample_is_of_no_age() -> None:
    assert staleness([sample(0, 0), sample(1, 5)], 5).means()["sampling/staleness/max"] == 0


def test_spans_of_turns_follow_each_other() -> None:
    turns = [
        Turn((1,), sample(3, 1, (1, 0, 2), (2, 2, 3)), ""),
        Turn((1,), sample(2, 2), ""),
        Turn((1,), sample(0, 2), ""),
        Turn((1,), sample(1, 3), ""),
    ]
    assert version_spans(Trace(turns)) == [(1, 0, 2), (2, 2, 5), (3, 5, 6)]
