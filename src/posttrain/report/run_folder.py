"""Reading a run's folder: whatever is there, also of a run that was cut off."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from posttrain.errors import DataError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion of rollouts.jsonl. reward and rewards: None = no reward applied, or it
    failed (then `error`).
    """

    text: str
    reward: float | None = None
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    advantage: float | None = None
    num_tokens: int | None = None
    finish_reason: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """One line of rollouts.jsonl: the completions of a prompt at a step."""

    step: int
    id: str
    prompt: str
    answer: str | None
    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of evaluation.json. correct: 0 or 1 a sample; texts: of the first few samples
    only.
    """

    id: str
    prompt: str
    answer: str | None
    correct: tuple[int, ...]
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """evaluation.json. intervals: accuracy, pass@k, maj@k by name; numbers: the metrics that have
    no interval.

    num_available: problems that the task has. strategy: the search in words; search_settings,
    scorer: all there is to set. oracle: whether the gold chose.
    """

    task: str
    num_examples: int
    num_samples: int
    intervals: Mapping[str, Interval]
    numbers: Mapping[str, float]
    problems: tuple[Problem, ...]
    search: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    prompts_dropped: int = 0
    num_available: int | None = None
    strategy: str = ""
    search_settings: Mapping[str, Any] = field(default_factory=dict)
    scorer: Mapping[str, Any] | None = None
    oracle: bool = False

    @property
    def problems_text(self) -> str:
        """How many problems were asked: "200 of 300 problems"."""
        some = self.num_available is not None and self.num_available != self.num_examples
        return f"{self.num_examples:,}{f' of {self.num_available:,}' if some else ''} problems"

    def by_k(self, name: str) -> dict[int, Interval]:
        """The intervals of "pass" or "maj" by number of samples, ascending."""
        found = {
            int(k.partition("@")[2]): v
            for k, v in self.intervals.items()
            if k.startswith(f"{name}@")
        }
        return dict(sorted(found.items()))


@dataclass(frozen=True, slots=True)
class StageRow:
    """A row of summary.json.

    p_value: paired against the row above, None for the first. note: the search in words; search:
    with all its settings. oracle: whether the gold chose. num_samples: among how many.
    """

    stage: str
    accuracy: float
    low: float
    high: float
    p_value: float | None = None
    pass_at: Mapping[int, float] = field(default_factory=dict)
    maj_at: Mapping[int, float] = field(default_factory=dict)
    mean_tokens: float | None = None
    seconds: float | None = None
    note: str = ""
    folder: str = ""
    search: str = ""
    oracle: bool = False
    num_samples: int | None = None

    @property
    def label(self) -> str:
        """The stage's title, which says so where an oracle chose."""
        return (
            f"{self.stage} (oracle)"
            if self.oracle and "oracle" not in self.stage.lower()
            else self.stage
        )

    @property
    def short_label(self) -> str:
        """The label in 28 characters: a long title is cut, and never the word that an oracle
        chose.
        """
        if len(self.label) <= 28:
            return self.label
        end = self.label.removeprefix(self.stage)
        return f"{self.stage[: 27 - len(end)]}…{end}"


@dataclass(frozen=True, slots=True)
class Summary:
    """summary.json: the table of a pipeline's stages."""

    title: str
    command: str
    rows: tuple[StageRow, ...]


@dataclass(slots=True)
class RunFolder:
    """A run. metrics: one mapping a step. cut_off: files whose last line is half written.
    stages: of a pipeline.
    """

    path: Path
    recipe: str = ""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    rollouts: list[Group] = field(default_factory=list)
    evaluation: Measured | None = None
    summary: Summary | None = None
    stages: list[RunFolder] = field(default_factory=list)
    cut_off: list[str] = field(default_factory=list)

    @property
    def command(self) -> str:
        """The command line that made the run, which the recipe's first line holds."""
        first = self.recipe.split("\n", 1)[0]
        return first.removeprefix("#").strip() if first.startswith("#") else ""

    @property
    def title(self) -> str:
        """The pipeline's title, else the recipe's, else the folder's name."""
        if self.summary:
            return self.summary.title
        for line in self.recipe.splitlines():
            if line.startswith("title:"):
                return line.removeprefix("title:").strip().strip("'\"") or self.path.name
        return self.path.resolve().name


def read_run(path: Path) -> RunFolder:
    """Read a run folder; files that are not there are left empty.

    Raises:
        DataError: the folder holds no run, or a file in it is broken (file and line are named).
    """
    if not path.is_dir():
        raise DataError(
            f"no run folder {path}; one holds recipe.yaml, metrics.jsonl or evaluation.json"
        )
    run = RunFolder(path)
    if (path / "recipe.yaml").is_file():
        run.recipe = _text(path / "recipe.yaml")
    run.metrics = _lines(run, "metrics.jsonl", _metrics)
    run.rollouts = _lines(run, "rollouts.jsonl", _group)
    run.evaluation = _whole(path / "evaluation.json", _measured)
    run.summary = _whole(path / "summary.json", _summary)
    # Stages in the order they ran (the summary's), then those that have no row: stages without an
    # evaluation.
    named = [row.folder for row in run.summary.rows if row.folder] if run.summary else []
    there = sorted(
        (p for p in path.iterdir() if p.is_dir() and (p / "recipe.yaml").is_file()),
        key=lambda p: (p / "recipe.yaml").stat().st_mtime_ns,
    )
    order = [
        *(n for n in named if (path / n).is_dir()),
        *(p.name for p in there if p.name not in named),
    ]
    run.stages = [read_run(path / name) for name in dict.fromkeys(order)]
    if not (run.recipe or run.metrics or run.evaluation or run.summary or run.stages):
        raise DataError(
            f"{path} holds no run: none of recipe.yaml, metrics.jsonl, evaluation.json is there"
        )
    return run


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}") from error


def _whole(path: Path, make: Callable[[dict[str, Any]], T]) -> T | None:
    if not path.is_file():
        return None
    try:
        values = json.loads(_text(path))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    return _made(str(path), values, make)


def _lines(run: RunFolder, name: str, make: Callable[[dict[str, Any]], T]) -> list[T]:
    path = run.path / name
    if not path.is_file():
        return []
    # Only "\n" ends a line: str.splitlines would also cut at separators that a completion may hold.
    lines = _text_to_last_character(path).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                run.cut_off.append(name)  # a killed run may leave its last line half written
                break
            raise DataError(f"{path}:{number}: not valid JSON: {error}") from error
        rows.append(_made(f"{path}:{number}", values, make))
    return rows


def _text_to_last_character(path: Path) -> str:
    """Text of a file whose last character may be cut in the middle of its bytes."""
    return path.read_bytes().decode("utf-8", errors="replace")


def _made(place: str, values: Any, make: Callable[[dict[str, Any]], T]) -> T:
    if not isinstance(values, dict):
        raise DataError(f"{place}: an object is expected, not {type(values).__name__}")
    try:
        return make(values)
    except KeyError as error:
        raise DataError(f"{place}: the key {error} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{place}: a value has the wrong type ({error})") from error


def _metrics(values: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(values["step"], int | float):
        raise TypeError(f"step is {values['step']!r}, a number is expected")
    return values


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)


def _answer(value: Any) -> str | None:
    return None if value is None else str(value)


def _group(values: dict[str, Any]) -> Group:
    completions = tuple(
        Completion(
            text=str(c["text"]),
            reward=_optional(c.get("reward")),
            rewards={k: _optional(v) for k, v in (c.get("rewards") or {}).items()},
            advantage=_optional(c.get("advantage")),
            num_tokens=c.get("num_tokens"),
            finish_reason=c.get("finish_reason"),
            error=c.get("error"),
        )
        for c in values["completions"]
    )
    return Group(
        int(values["step"]),
        str(values.get("id", "")),
        str(values["prompt"]),
        _answer(values.get("answer")),
        completions,
    )


def _measured(values: dict[str, Any]) -> Measured:
    intervals, numbers = {}, {}
    for name, value in values["metrics"].items():
        if isinstance(value, dict):
            intervals[name] = Interval(
                float(value["estimate"]), float(value["low"]), float(value["high"])
            )
        elif isinstance(value, int | float):
            numbers[name] = float(value)
    problems = tuple(
        Problem(
            str(e["id"]),
            str(e["prompt"]),
            _answer(e.get("answer")),
            tuple(e["correct"]),
            tuple(e.get("texts") or ()),
        )
        for e in values.get("examples") or ()
    )
    return Measured(
        task=str(values["task"]),
        num_examples=int(values["num_examples"]),
        num_samples=int(values["num_samples"]),
        intervals=intervals,
        numbers=numbers,
        problems=problems,
        search=values.get("search"),
        sampling=values.get("sampling") or {},
        seed=values.get("seed"),
        num_available=values.get("num_available"),
        strategy=str(values.get("strategy") or (values.get("search") or "").replace("_", " ")),
        search_settings=values.get("search_settings") or {},
        scorer=values.get("scorer"),
        oracle=bool(values.get("oracle")),
        prompts_dropped=int(values.get("prompts_dropped") or 0),
    )


def _summary(values: dict[str, Any]) -> Summary:
    rows = tuple(
        StageRow(
            stage=str(row["stage"]),
            accuracy=float(row["accuracy"]),
            low=float(row["low"]),
            high=float(row["high"]),
            p_value=_optional(row.get("p_value")),
            pass_at={int(k): float(v) for k, v in (row.get("pass@k") or {}).items()},
            maj_at={int(k): float(v) for k, v in (row.get("maj@k") or {}).items()},
            mean_tokens=_optional(row.get("mean_tokens")),
            seconds=_optional(row.get("seconds")),
            note=str(row.get("note") or ""),
            folder=str(row.get("folder") or ""),
            search=str(row.get("search") or ""),
            oracle=bool(row.get("oracle")),
            num_samples=(row.get("search_settings") or {}).get("num_samples"),
        )
        for row in values["rows"]
    )
    return Summary(str(values.get("title") or "pipeline"), str(values.get("command") or ""), rows)
