"""How old the weights are that wrote what is trained on."""

from __future__ import annotations

from collections.abc import Iterable

from posttrain.averages import Averages
from posttrain.types import Sample, Trace, VersionSpan


def version_spans(trace: Trace) -> list[VersionSpan]:
    """Which weights wrote which sampled token of a trace, all turns one after the other.

    Neighbouring spans of one version are one.
    """
    spans: list[VersionSpan] = []
    place = 0
    for turn in trace.turns:
        for version, start, end in turn.sample.spans:
            if spans and spans[-1].version == version:
                spans[-1] = spans[-1]._replace(end=place + end)
            elif end > start:
                spans.append(VersionSpan(version, place + start, place + end))
        place += len(turn.sample.ids)
    return spans


def staleness(samples: Iterable[Sample], version: int) -> Averages:
    """Metrics of samples that are trained on with weights of a version.

    sampling/staleness/mean, max: updates since each token was written, over tokens.
    sampling/mixed_versions: share of the samples that several versions wrote.
    """
    averages = Averages()
    total = num_tokens = largest = num_mixed = num_samples = 0
    for sample in samples:
        spans = sample.spans
        num_samples += 1
        num_mixed += len({span.version for span in spans}) > 1
        for span in spans:
            age, length = version - span.version, span.end - span.start
            total, num_tokens = total + age * length, num_tokens + length
            largest = max(largest, age if length else 0)
    averages.add("sampling/staleness/mean", total, num_tokens)
    averages.add("sampling/mixed_versions", num_mixed, num_samples)
    averages.update({"sampling/staleness/max": float(largest)})
    return averages
