"""Counts of the server in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

import bisect
import dataclasses
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

Labels = tuple[tuple[str, str], ...]


class Counter:
    """A number per set of labels that only grows."""

    def __init__(self, name: str, meaning: str) -> None:
        self.name, self.meaning = name, meaning
        self._values: dict[Labels, float] = {}
        self._lock = threading.Lock()

    def add(self, amount: float = 1, **labels: str) -> None:
        """Raise the number of these labels."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            self._values[key] = self._values.get(key, 0) + amount

    def value(self, **labels: str) -> float:
        """The number of these labels."""
        return self._values.get(tuple(sorted(labels.items())), 0)

    def lines(self) -> Iterable[str]:
        """The metric as text."""
        yield from _head(self.name, self.meaning, "counter")
        with self._lock:
            values = sorted(self._values.items())
        for labels, value in values:
            yield f"{self.name}{_labels(labels)} {_number(value)}"


class Histogram:
    """Seconds, counted in buckets."""

    def __init__(self, name: str, meaning: str) -> None:
        self.name, self.meaning = name, meaning
        self._counts = [0] * (len(_BOUNDS) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, seconds: float) -> None:
        """Count a duration."""
        with self._lock:
            self._counts[bisect.bisect_left(_BOUNDS, seconds)] += 1
            self._sum += seconds

    def lines(self) -> Iterable[str]:
        """The metric as text."""
        yield from _head(self.name, self.meaning, "histogram")
        with self._lock:
            counts, total = list(self._counts), self._sum
        below = 0
        for bound, count in zip((*_BOUNDS, float("inf")), counts, strict=True):
            below += count
            limit = "+Inf" if bound == float("inf") else f"{bound:g}"
            yield f'{self.name}_bucket{{le="{limit}"}} {below}'
        yield f"{self.name}_sum {_number(total)}"
        yield f"{self.name}_count {below}"


class Metrics:
    """What the server counts.

    Attributes:
        requests: answers by route and status. tokens: by kind: prompt, completion, discarded.
        first_token: seconds until a stream's first text. duration: seconds of whole requests.
    """

    def __init__(self) -> None:
        self.started = time.time()
        self.requests = Counter("posttrain_requests_total", "Answers by route and status.")
        self.tokens = Counter(
            "posttrain_tokens_total",
            "Tokens by kind: prompt as asked, completion as sampled, discarded of these.",
        )
        self.aborted = Counter(
            "posttrain_aborted_requests_total",
            "Requests whose client went away.",
        )
        self.first_token = Histogram(
            "posttrain_first_token_seconds", "Seconds until the first text of a stream."
        )
        self.duration = Histogram("posttrain_request_seconds", "Seconds of generating requests.")

    def text(self, gauges: Mapping[str, tuple[str, float]], stats: Any = None) -> str:
        """All metrics as text.

        Args:
            gauges: name -> (meaning, value) of numbers as they are now. stats: an engine's counts,
            a dataclass of numbers; each becomes `posttrain_engine_NAME`.
        """
        lines: list[str] = []
        for metric in (self.requests, self.tokens, self.aborted):
            lines += metric.lines()
        for histogram in (self.first_token, self.duration):
            lines += histogram.lines()
        for name, (meaning, value) in gauges.items():
            lines += [*_head(name, meaning, "gauge"), f"{name} {_number(value)}"]
        for name, value in _numbers(stats):
            full = f"posttrain_engine_{name}"
            lines += [*_head(full, "Count of the engine.", "counter"), f"{full} {_number(value)}"]
        return "\n".join(lines) + "\n"


def _numbers(stats: Any) -> list[tuple[str, float]]:
    if not dataclasses.is_dataclass(stats) or isinstance(stats, type):
        return []
    values = [(f.name, getattr(stats, f.name)) for f in dataclasses.fields(stats)]
    return [(name, value) for name, value in values if isinstance(value, int | float)]


def _head(name: str, meaning: str, kind: str) -> list[str]:
    return [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
