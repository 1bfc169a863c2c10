"""From a server's completion to a sample: which log-probs it gives, and whose weights wrote it."""

from __future__ import annotations

import pytest

from posttrain.engines.http_client import JsonClient
from posttrain.engines.server_protocol import Choice, LogprobsMode, sample_of, shape_error
from posttrain.errors import EndpointError, WeightSyncError
from posttrain.types import Sampling, VersionSpan

CHOICE = Choice([5, 6], [-1.0, -2.0], "stop", spans=[("3", 0, 1), ("4", 1, 2)])


@pytest.mark.parametrize(
    ("sampling", "mode", "engine", "raw"),
    [
        (Sampling(), "raw_logprobs", True, True),
        (Sampling(), "processed_logprobs", True, True),
        (Sampling(temperature=0), "raw_logprobs", True, True),
        (Sampling(temperature=0.5), "raw_logprobs", False, True),
        (Sampling(temperature=0.5), "processed_logprobs", True, False),
        (Sampling(top_p=0.9), "raw_logprobs", False, True),
        (Sampling(top_p=0.9), "processed_logprobs", True, False),
        (Sampling(temperature=0.5), None, True, False),
        (Sampling(top_k=3), None, False, True),
        (Sampling(temperature=0.5, min_p=0.1), None, False, False),
    ],
)
def test_log_probs_are_given_as_what_they_are(
    sampling: Sampling, mode: LogprobsMode | None, engine: bool, raw: bool
) -> None:
    sample = sample_of(CHOICE, sampling, mode, 4)
    assert bool(sample.engine_logprobs) is engine and bool(sample.raw_logprobs) is raw
    for logprobs in (sample.engine_logprobs, sample.raw_logprobs):
        assert logprobs in ([], [-1.0, -2.0])


def test_spans_of_versions_are_kept_and_the_oldest_names_the_sample() -> None:
    sample = sample_of(CHOICE, Sampling(), "raw_logprobs", 4)
    assert sample.spans == (VersionSpan(3, 0, 1), VersionSpan(4, 1, 2))
    assert sample.weights_version == 3


def test_without_spans_the_version_is_that_of_the_request() -> None:
    sample = sample_of(CHOICE, Sampling(), None, 7, has_spans=False)
    assert sample.weights_version == 7 and sample.version_spans == (VersionSpan(7, 0, 2),)


def test_weights_of_somebody_else_are_an_error() -> None:
    with pytest.raises(WeightSyncError):
        sample_of(Choice([1], [-1.0], "stop", spans=[("default", 0, 1)]), Sampling(), None, 0)


@pytest.mark.parametrize(
    ("reason", "timed_out", "expected"),
    [("stop", True, "stop"), ("length", False, "length"), ("abort", True, "timeout")],
)
def test_reasons(reason: str, timed_out: bool, expected: str) -> None:
    choice = Choice([1], [-1.0], reason)
    sample = sample_of(choice, Sampling(), None, 0, timed_out=timed_out, has_spans=False)
    assert sample.finish_reason == expected


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_a_completion_that_the_server_gave_up_is_an_error(reason: str) -> None:
    with pytest.raises(EndpointError):
        sample_of(Choice([1], [-1.0], reason), Sampling(), None, 0)


def test_one_log_prob_for_each_id() -> None:
    with pytest.raises(EndpointError):
        sample_of(Choice([1, 2], [-1.0], "stop"), Sampling(), None, 0)


def test_an_answer_of_another_form_names_the_server() -> None:
    error = shape_error(JsonClient("http://127.0.0.1:1"), {"x": 1}, KeyError("choices"))
    assert "http://127.0.0.1:1" in str(error)
