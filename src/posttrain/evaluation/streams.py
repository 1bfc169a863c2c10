"""What a benchmark of continual pretraining has measured: streams of domains over seeds, their
table, and paired comparisons.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.errors import DataError
from posttrain.evaluation import continual
from posttrain.evaluation.statistics import Difference, Interval, holm, paired_t
from posttrain.files import write_text_whole

FILE = "continual.json"

MEASURES = ("nats", "rank", "keyword_rank")
"""Of a domain's held-out part: nats per token, mean rank of the true token, mean rank of the tokens
of its keywords. Lower is better.
"""

COLUMNS = ("ZS", "DAPT", "CPT", "LC", "FG", "backward", "forward")
"""Zero shot, trained on the domain alone, just after its own stage, at the last checkpoint,
forgetting, and the mean gains of the last stage on earlier domains and of all stages on later ones.
"""

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Stream:
    """One setting of the stream, over seeds.

    Attributes:
        name: in words. settings: what it was trained with.
        orders: the domains in the order of training, by seed.
        values: measure -> [seeds, N + 1, N], columns in the order of training.
        alone: measure -> [seeds, N]: after training on the domain alone, in the same order.
    """

    name: str
    settings: dict[str, Any]
    orders: list[list[str]]
    values: dict[str, list[list[list[float]]]]
    alone: dict[str, list[list[float]]]

    def columns(self, measure: str = "nats", *, perplexity: bool = False) -> dict[str, list[float]]:
        """The columns of the table by seed, means over domains.

        Args:
            perplexity: of the exponentials of nats, domain by domain, as in arXiv 2402.17400.
        """
        matrices = np.asarray(self.values[measure], dtype=np.float64)
        alone = np.asarray(self.alone[measure], dtype=np.float64)
        if perplexity:
            matrices, alone = np.exp(matrices), np.exp(alone)
        rows = [
            {
                "ZS": continual.zero_shot(matrix).mean(),
                "DAPT": single.mean(),
                "CPT": continual.own_stage(matrix).mean(),
                "LC": continual.last_checkpoint(matrix).mean(),
                "FG": continual.forgetting_gap(matrix)[:-1].mean(),
                "backward": continual.backward_gains(matrix)[-1],
                "forward": continual.forward_gains(matrix)[:-1].mean(),
            }
            for matrix, single in zip(matrices, alone, strict=True)
        ]
        return {name: [float(row[name]) for row in rows] for name in COLUMNS}

    def by_lag(self, measure: str = "nats") -> dict[int, Interval]:
        """Mean gain by lag i - j (`continual.gains_by_lag`), over seeds."""
        gains = [continual.gains_by_lag(matrix) for matrix in self.values[measure]]
        return {lag: continual.over_seeds([gain[lag] for gain in gains]) for lag in gains[0]}


@dataclass(frozen=True, slots=True)
class Comparison:
    """b - a in nats per token, paired over seeds. p_value: adjusted for all comparisons (Holm)."""

    a: str
    b: str
    difference: Difference
    p_value: float

    def __str__(self) -> str:
        d = self.difference
        text = f"{self.b} - {self.a}: {d.estimate:+.4f}"
        if d.n < 2:
            return text
        return f"{text} [{d.low:+.4f}, {d.high:+.4f}], p {self.p_value:.2g}"


@dataclass(slots=True)
class Streams:
    """A benchmark of continual pretraining.

    Attributes:
        model: in words. domains: their names. seeds: of each stream, so that streams are paired.
        streams: the first is the one that others are compared with.
        neighbours: mean cosine of neighbouring domains by order, where vectors were made.
    """

    model: str
    domains: list[str]
    seeds: list[int]
    streams: list[Stream]
    neighbours: dict[str, float]

    def comparisons(self) -> list[Comparison]:
        """Of each stream CPT with DAPT and DAPT with ZS; and LC, CPT, FG of each with the first."""
        pairs: list[tuple[str, str, Difference]] = []
        columns = [stream.columns() for stream in self.streams]
        names = [stream.name for stream in self.streams]
        for name, values in zip(names, columns, strict=True):
            for a, b in (("ZS", "DAPT"), ("DAPT", "CPT")):
                pairs.append((f"{a} of {name}", f"{b} of {name}", paired_t(values[a], values[b])))
        for name, values in zip(names[1:], columns[1:], strict=True):
            for column in ("CPT", "LC", "FG"):
                difference = paired_t(columns[0][column], values[column])
                pairs.append((f"{column} of {names[0]}", f"{column} of {name}", difference))
        adjusted = holm([d.p_value for _, _, d in pairs]) if len(self.seeds) > 1 else None
        return [
            Comparison(a, b, d, d.p_value if adjusted is None else adjusted[i])
            for i, (a, b, d) in enumerate(pairs)
        ]

    def __str__(self) -> str:
        seeds = f"{len(self.seeds)} seed{'s' * (len(self.seeds) != 1)}"
        lines = [
            f"{self.model}: {len(self.domains)} domains, {seeds}",
            "",
            "perplexity, mean over domains and seeds",
            *_aligned([("stream", *COLUMNS), *(_row(stream) for stream in self.streams)]),
        ]
        for measure, title in (("rank", "true token"), ("keyword_rank", "keywords")):
            if all(measure in stream.values for stream in self.streams):
                lines += ["", f"mean rank of the {title}"]
                rows = [_row(stream, measure) for stream in self.streams]
                lines += _aligned([("stream", *COLUMNS), *rows])
        lines += ["", "gain in nats per token by lag (stages since the domain's own)"]
        lags = list(self.streams[0].by_lag())
        rows = [
            (stream.name, *(f"{i.estimate:+.3f}" for i in stream.by_lag().values()))
            for stream in self.streams
        ]
        lines += _aligned([("stream", *map(str, lags)), *rows])
        bounds = ", 95 % intervals" if len(self.seeds) > 1 else ""
        lines += ["", f"differences in nats per token{bounds}, paired over {seeds}"]
        lines += [str(comparison) for comparison in self.comparisons()]
        if self.neighbours:
            near = ", ".join(f"{name} {value:.3f}" for name, value in self.neighbours.items())
            lines += ["", f"mean cosine of neighbouring domains: {near}"]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain values for continual.json; the table and comparisons are there to be shown."""
        table = {
            stream.name: {
                column: asdict(continual.over_seeds(values))
                for column, values in stream.columns(perplexity=True).items()
            }
            for stream in self.streams
        }
        return {
            **asdict(self),
            "table": table,
            "comparisons": [asdict(c) for c in self.comparisons()],
        }

    def save(self, path: str | Path) -> Path:
        """Write the benchmark as JSON, whole or not at all. path: a file, or a folder for
        continual.json.
        """
        file = _file(path)
        write_text_whole(file, json.dumps(_finite(self.to_json()), indent=1))
        return file


def read_streams(path: str | Path) -> Streams:
    """The benchmark that `Streams.save` wrote.

    Args:
        path: the file, or the folder that holds it.
    Raises:
        DataError: it is missing or broken.
    """
    file = _file(path)
    if not file.is_file():
        raise DataError(
            f"no benchmark at {file}; make one with `posttrain continual_pretraining --model M "
            "--data FOLDER`"
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        streams = [Stream(**item) for item in values["streams"]]
        rest = {name: values[name] for name in ("model", "domains", "seeds", "neighbours")}
        return Streams(**rest, streams=streams)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is no benchmark ({type(error).__name__}: {error})") from error


def _file(path: str | Path) -> Path:
    return Path(path) / FILE if Path(path).is_dir() else Path(path)


def _row(stream: Stream, measure: str = "") -> tuple[str, ...]:
    values = stream.columns(measure) if measure else stream.columns(perplexity=True)
    return (stream.name, *(_cell(continual.over_seeds(values[c])) for c in COLUMNS))


def _cell(interval: Interval) -> str:
    half = interval.high - interval.estimate
    bound = f" ±{half:.2f}" if np.isfinite(half) and half >= 0.005 else ""
    return f"{interval.estimate:.2f}{bound}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]
        ).rstrip()
        for row in rows
    ]


def _finite(values: Any) -> Any:
    """The same without infinite numbers, for which JSON has no word: None stands for them."""
    if isinstance(values, Mapping):
        return {key: _finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    if isinstance(values, float) and not np.isfinite(values):
        return None
    return values
