"""Reading a run's folder: every file that is there, also of a run that was cut off."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeVar

from posttrain.errors import DataError
from posttrain.report.records import (
    BestOf,
    Completion,
    Group,
    Interval,
    Measured,
    Problem,
    RewardMeasured,
    RunFolder,
    StageRow,
    Summary,
)
from posttrain.report.turns import turn_records
from posttrain.types import Text, plain_text

T = TypeVar("T")

ROUNDS = "rounds.json"
"""What the folder of a loop has."""

MAX_SAMPLE_ROWS = 4000
"""Rows of samples.jsonl that are read: a page shows far fewer."""


def read_run(path: Path) -> RunFolder:
    """Read a run folder; absent files leave their fields empty.

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
    run.rollouts = _lines(run, "rollouts.jsonl", group_record)
    _read_samples(run)
    run.evaluation = _whole(path / "evaluation.json", measured_record)
    run.reward = _whole(path / "reward_evaluation.json", _reward_measured)
    run.summary = _whole(path / "summary.json", _summary)
    run.forgetting = _whole(path / "forgetting.json", _ledger)
    run.continual = _whole(path / "continual.json", _benchmark)
    run.sequences = _whole(path / "sequences.json", _sequences)
    run.stages = [read_run(path / name) for name in _stage_names(run)]
    parts = (run.recipe, run.metrics, run.evaluation, run.reward, run.samples, run.summary)
    if not any(parts) and not run.stages:
        raise DataError(
            f"{path} holds no run: none of recipe.yaml, metrics.jsonl, evaluation.json is there"
        )
    return run


def _ledger(values: dict[str, Any]) -> dict[str, Any]:
    """What forgetting.json holds, as it is, if it has what a page shows."""
    missing = [k for k in ("new", "old", "p_values", "lines") if not isinstance(values[k], list)]
    if missing:
        raise TypeError(f"{missing[0]} is no list")
    return values


def _benchmark(values: dict[str, Any]) -> dict[str, Any]:
    """What continual.json holds, as it is, if it has what a page shows."""
    kinds = {"streams": list, "comparisons": list, "seeds": list, "domains": list, "table": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(values[name], kind)]
    if wrong:
        raise TypeError(f"{wrong[0]} is no {kinds[wrong[0]].__name__}")
    return values


def _sequences(values: dict[str, Any]) -> dict[str, Any]:
    """What sequences.json holds, as it is, if it has what a page shows."""
    kinds = {"stages": list, "seeds": list, "table": dict, "comparisons": list, "scores": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(values[name], kind)]
    if wrong:
        raise TypeError(f"{wrong[0]} is no {kinds[wrong[0]].__name__}")
    return values


def _stage_names(run: RunFolder) -> list[str]:
    """Folders of stages in the order they ran (the summary's), then stages without an
    evaluation, which have no row in the summary.
    """
    if (run.path / ROUNDS).is_file():
        return []  # the folders of a loop's rounds, whose tables the loop's own hold
    rows = run.summary.rows if run.summary else ()
    in_summary = [row.folder for row in rows if row.folder and (run.path / row.folder).is_dir()]
    folders = [p for p in run.path.iterdir() if p.is_dir() and (p / "recipe.yaml").is_file()]
    by_age = sorted(folders, key=lambda p: (p / "recipe.yaml").stat().st_mtime_ns)
    return list(dict.fromkeys([*in_summary, *(p.name for p in by_age)]))


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
    return _record(str(path), values, make)


def _lines(run: RunFolder, name: str, make: Callable[[dict[str, Any]], T]) -> list[T]:
    path = run.path / name
    if not path.is_file():
        return []
    # Only "\n" ends a line: str.splitlines would also cut at separators that a completion may hold.
    # The last character of a killed run's file may be cut in the middle of its bytes.
    lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
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
        rows.append(_record(f"{path}:{number}", values, make))
    return rows


def _record(place: str, values: Any, make: Callable[[dict[str, Any]], T]) -> T:
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


def group_record(values: dict[str, Any]) -> Group:
    """A line of rollouts.jsonl as a record."""
    completions = tuple(
        Completion(
            text=str(c["text"]),
            reward=_optional(c.get("reward")),
            rewards={k: _optional(v) for k, v in (c.get("rewards") or {}).items()},
            advantage=_optional(c.get("advantage")),
            num_tokens=c.get("num_tokens"),
            finish_reason=c.get("finish_reason"),
            error=c.get("error"),
            turns=turn_records(c.get("turns") or ()),
            stop_reason=c.get("stop_reason"),
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


def _read_samples(run: RunFolder) -> None:
    """The first rows of samples.jsonl, those of one prompt as one group."""
    path = run.path / "samples.jsonl"
    if not path.is_file():
        return
    with path.open("rb") as file:
        lines = [line.decode("utf-8", errors="replace") for line in islice(file, MAX_SAMPLE_ROWS)]
        run.num_samples = len(lines) + sum(1 for _ in file)
    groups = [group for number, line in enumerate(lines, 1) for group in _row(path, number, line)]
    for key, same in groupby(groups, key=lambda g: (g.id, g.prompt, g.answer)):
        completions = tuple(c for group in same for c in group.completions)
        run.samples.append(Group(None, *key, completions))


def _row(path: Path, number: int, line: str) -> Iterator[Group]:
    """A row of samples.jsonl as a group: one completion, or a chosen and a rejected one. Rows of
    other formats are skipped.
    """
    try:
        values = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}:{number}: not valid JSON: {error}") from error
    if not isinstance(values, dict) or "prompt" not in values:
        return
    roles = [name for name in ("completion", "chosen", "rejected") if _is_text(values.get(name))]
    if roles and _is_text(values["prompt"]):
        yield _record(f"{path}:{number}", values, lambda row: _sample_group(row, roles))


def _is_text(value: Any) -> bool:
    """Whether a value is a text or a list of messages."""
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(m, dict) and "role" in m for m in value)
    )


def _sample_group(row: dict[str, Any], roles: Sequence[str]) -> Group:
    def text(value: Text) -> str:
        return plain_text(value)

    completions = tuple(
        Completion(
            text(row[role]),
            reward=_optional(row.get("reward")),
            role="" if role == "completion" else role,
        )
        for role in roles
    )
    answer = _answer(row.get("answer"))
    return Group(None, str(row.get("id", "")), text(row["prompt"]), answer, completions)


def _interval(value: dict[str, Any]) -> Interval:
    return Interval(float(value["estimate"]), float(value["low"]), float(value["high"]))


def measured_record(values: dict[str, Any]) -> Measured:
    """The values of evaluation.json as a record."""
    intervals, numbers = {}, {}
    for name, value in values["metrics"].items():
        if isinstance(value, dict):
            intervals[name] = _interval(value)
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


def _reward_measured(values: dict[str, Any]) -> RewardMeasured:
    on_rows, best_of = dict(values.get("data") or {}), values.get("best_of") or {}
    rows, name = on_rows.pop("rows", 0), on_rows.pop("format", "")
    measures: dict[str, Interval | float] = {}
    for key, value in on_rows.items():
        if isinstance(value, dict) and value["estimate"] is not None:
            measures[key] = _interval(value)
        elif isinstance(value, int | float):  # null: not defined for these rows
            measures[key] = float(value)
    curve = tuple(
        BestOf(
            int(point["n"]),
            Interval(float(point["gold"]), float(point["low"]), float(point["high"])),
            float(point["ceiling"]),
            float(point["kl"]),
            float(point["score"]),
        )
        for point in best_of.get("curve") or ()
    )
    gain = best_of.get("gain")
    return RewardMeasured(
        int(rows),
        str(name),
        measures,
        int(best_of.get("problems") or 0),
        int(best_of.get("left_out") or 0),
        int(best_of.get("num_samples") or 0),
        curve,
        _interval(gain) if gain else None,
        _optional(gain.get("p_value")) if gain else None,
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
