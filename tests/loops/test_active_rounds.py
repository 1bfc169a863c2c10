"""Rounds with a learner of plain numbers: stopping, budgets, and kills at every stage."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from posttrain.component import Component
from posttrain.errors import DataError
from posttrain.labellers.base import Cost, Label, Labeller, Question, Row, labeller_of
from posttrain.learners.base import Learner
from posttrain.loops.active_rounds import ActiveRun
from posttrain.loops.active_settings import Budget, Choice
from posttrain.training.ending import Interrupted

THREE = Budget(3)
QUIET = Console(quiet=True)
POOL: list[Row] = [
    {"id": f"r{i}", "text": f"text {i}", "x": i / 40, "label": str(int(i >= 20))} for i in range(40)
]


class Threshold(Learner):
    """A class by the mean of both classes' x; probabilities by the distance from it."""

    labels = ("0", "1")
    carries = frozenset({"probabilities"})

    def __init__(self) -> None:
        self.middle = 0.5
        self.trainings: list[int] = []

    def train(self, rows: Sequence[Row], seed: int) -> None:
        means = [
            np.mean([r["x"] for r in rows if r["label"] == c] or [i]) for i, c in enumerate("01")
        ]
        self.middle = float(np.mean(means))
        self.trainings.append(len(rows))

    def inputs(
        self, names: Collection[str], candidates: Sequence[Row], labelled: Sequence[Row], seed: int
    ) -> dict[str, Any]:
        p = 1 / (1 + np.exp(-20 * (np.array([r["x"] for r in candidates]) - self.middle)))
        return {"probabilities": np.stack([1 - p, p], axis=1)}

    def outcomes(self) -> list[float]:
        return [float((r["x"] >= self.middle) == (r["label"] == "1")) for r in POOL]

    def predict(self, rows: Sequence[Row]) -> tuple[list[str], list[float]] | None:
        return [str(int(r["x"] >= self.middle)) for r in rows], [1.0 for _ in rows]

    def save(self, folder: Path) -> None:
        (folder / "middle.txt").write_text(repr(self.middle))


class Counting(Labeller):
    """Appends each question to a file before it answers: what it would be paid for."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def label(self, rows: Sequence[Row], question: Question) -> list[Label | None]:
        with self.file.open("a") as opened:
            opened.writelines(f"{row['id']}\n" for row in rows)
        return [Label(row["label"], Cost(1.0, 2, 0.5), source="counting") for row in rows]

    def asked(self) -> list[str]:
        return self.file.read_text().split() if self.file.exists() else []


def choice(**changes: Any) -> Choice:
    values: dict[str, Any] = {
        "selector": Component("entropy"),
        "name": "entropy",
        "cold_start": Component("random"),
        "num_initial": 4,
        "rows_per_round": 3,
    }
    return Choice(**{**values, **changes})


def active_run(
    labeller: Labeller, folder: Path | None, budget: Budget = THREE, **changes: Any
) -> ActiveRun:
    return ActiveRun(
        Threshold(),
        POOL,
        labeller,
        choice(**changes),
        budget,
        seed=1,
        folder=folder,
        console=QUIET,
    )


def test_rounds_in_memory(tmp_path: Path) -> None:
    labeller = Counting(tmp_path / "asked")
    curve = active_run(labeller, None).run()
    assert curve.num_labels == [4, 7, 10, 13] and len(set(labeller.asked())) == 13
    assert curve.money == [4, 7, 10, 13] and curve.tokens[-1] == 26 and curve.minutes[-1] == 6.5
    assert curve.annotation == 1.0 and "3 rounds" in curve.reason
    later = [int(name[1:]) for name in labeller.asked()[4:]]
    assert all(8 <= place <= 32 for place in later)  # entropy asks near the boundary


@pytest.mark.parametrize(
    ("budget", "rounds", "word"),
    [
        (Budget(9, max_labels=8), 3, "labels"),
        (Budget(9, max_money=7.0), 2, "money"),
        (Budget(9, max_tokens=9), 2, "tokens"),
        (Budget(9, max_minutes=2.0), 1, "minutes"),
        (Budget(9, plateau_rounds=1, plateau_gain=2.0), 2, "plateau"),
        (Budget(9, stable_share=0.05), 2, "stable"),
        (Budget(99), 13, "left"),
    ],
)
def test_what_ends_a_run(tmp_path: Path, budget: Budget, rounds: int, word: str) -> None:
    curve = active_run(Counting(tmp_path / "asked"), None, budget).run()
    assert len(curve.scores) == rounds and word in curve.reason


def test_labels_without_confidence_or_value_are_not_learnt(tmp_path: Path) -> None:
    class Unsure(Labeller):
        def label(self, rows: Sequence[Row], question: Question) -> list[Label | None]:
            return [Label(r["label"], confidence=int(r["id"][1:]) % 2 / 1) for r in rows]

    curve = active_run(Unsure(), None, Budget(1), min_confidence=0.5, num_initial=20).run()
    assert curve.num_labels[0] < 20

    class Silent(Labeller):
        def label(self, rows: Sequence[Row], question: Question) -> list[Label | None]:
            return [Label(None) for _ in rows]

    with pytest.raises(DataError):
        active_run(Silent(), None).run()


def test_pruning_and_a_part_of_the_pool(tmp_path: Path) -> None:
    seen: list[int] = []

    def mine(probabilities: Any, num: int) -> Any:
        seen.append(len(probabilities))
        return list(range(num))

    def half(probabilities: Any, num: int) -> Any:
        assert num == 5
        return list(range(num))

    active_run(
        Counting(tmp_path / "asked"),
        None,
        Budget(1),
        selector=Component.of(mine),
        prune=Component.of(half),
        num_candidates=10,
    ).run()
    assert seen == [5]


_FRESH = "POSTTRAIN_TEST_IN_A_FRESH_PROCESS"


def _run_in_child(folder: Path, asked: Path, die_at: int) -> int:
    """The run in a forked process that kills itself at a file event or a question."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    events = 0

    def event() -> None:
        nonlocal events
        events += 1
        if events == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(name: str, args: tuple[Any, ...]) -> None:
        if name in ("open", "os.rename", "os.mkdir") and str(args[0]).startswith(str(folder)):
            event()

    class Killed(Counting):
        def label(self, rows: Sequence[Row], question: Question) -> list[Label | None]:
            event()
            answers = super().label(rows, question)
            event()
            return answers

    code = 1
    with contextlib.suppress(BaseException):
        sys.addaudithook(audit)
        active_run(
            Killed(asked), folder, Budget(1), num_initial=3, rows_per_round=2, questions_at_a_time=2
        ).run()
        code = 0
    os._exit(code)


def test_a_kill_at_every_stage_asks_no_row_twice(tmp_path: Path) -> None:
    """In an interpreter of its own: the fork of one that has run threads may hang."""
    if not os.environ.get(_FRESH):
        name = f"{__file__}::test_a_kill_at_every_stage_asks_no_row_twice"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", name]
        subprocess.run(command, check=True, env={**os.environ, _FRESH: "1"}, timeout=500)
        return
    stages, codes = 0, []
    for die_at in range(1, 400):
        place = tmp_path / str(die_at)
        place.mkdir()
        code = _run_in_child(place / "run", place / "asked", die_at)
        codes.append(code)
        again = _run_in_child(place / "run", place / "asked", 0)
        assert again == 0
        asked = (place / "asked").read_text().split()
        assert len(asked) == len(set(asked)), f"killed at event {die_at}"
        ledger = [json.loads(x) for x in (place / "run" / "ledger.jsonl").read_text().splitlines()]
        lost = [entry["row"] for entry in ledger if entry["source"] == "lost"]
        assert len(lost) <= 2 and len(ledger) == 5
        assert (place / "run" / "model" / "middle.txt").is_file()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        stages += 1
    assert codes[-1] == 0 and stages > 25


def test_a_kill_costs_nothing_where_the_labeller_repeats_itself(tmp_path: Path) -> None:
    oracle, _ = labeller_of("oracle")
    whole = active_run(oracle, None).run()
    folder = tmp_path / "run"
    active_run(oracle, folder, Budget(1)).run()
    lines = (folder / "ledger.jsonl").read_text().splitlines()
    cut = {k: v for k, v in json.loads(lines[-1]).items() if k in ("row", "round")}
    (folder / "ledger.jsonl").write_text("\n".join([*lines[:-1], json.dumps(cut)]) + "\n")
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    rounds[-1] = {"round": 1, "chosen": rounds[-1]["chosen"]}
    (folder / "rounds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rounds))
    assert active_run(oracle, folder).run().scores == whole.scores


def test_a_person_is_waited_for(tmp_path: Path) -> None:
    person, _ = labeller_of("file")
    folder = tmp_path / "run"
    gold = {row["id"]: row["label"] for row in POOL}
    for waited in range(4):
        with pytest.raises(Interrupted) as stop:
            active_run(person, folder).run()
        assert "to_label.jsonl" in str(stop.value)
        file = folder / "to_label.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert len(rows) == (4, 7, 10, 13)[waited] and "text" in rows[-1]
        assert sum(row["label"] is None for row in rows) == (4, 3, 3, 3)[waited]
        filled = [{**row, "label": gold[row["id"]]} for row in rows]
        file.write_text("".join(json.dumps(row) + "\n" for row in filled))
    curve = active_run(person, folder).run()
    assert curve.num_labels == [4, 7, 10, 13]
    assert curve.scores == active_run(labeller_of("oracle")[0], None).run().scores
