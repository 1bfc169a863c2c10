"""The ledger: which rows were asked about, what was answered, and what it has cost.

The file is written whole before a question and after its answer. So a run that is killed between
the two knows that the question was asked. A labeller that repeats itself is asked again; from any
other the answer is lost, and the row is never asked about again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.errors import CheckpointError, ConfigError
from posttrain.files import write_text_whole
from posttrain.labellers.base import Cost, Label, Labeller, Question, Row

FILE = "ledger.jsonl"
LOST = "lost"


class Ledger:
    """Questions and answers by the id of the row.

    Args:
        path: of the file; None keeps the ledger in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.entries: dict[str, dict[str, Any]] = {}
        if path is not None and path.is_file():
            self.entries = _read(path)

    @property
    def spent(self) -> Cost:
        """What all answers have cost."""
        total = Cost()
        for label in self.labels.values():
            total += label.cost
        return total

    @property
    def labels(self) -> dict[str, Label]:
        """Answers by row, in the order of the questions."""
        return {row: Label.read(entry) for row, entry in self.entries.items() if "label" in entry}

    @property
    def lost(self) -> list[str]:
        """Rows whose answer was lost in an interruption."""
        return [row for row, entry in self.entries.items() if entry.get("source") == LOST]

    def ask(
        self,
        rows: Sequence[Row],
        labeller: Labeller,
        question: Question,
        *,
        at_a_time: int = 1,
        known: Ledger | None = None,
    ) -> list[Label | None]:
        """The labels of rows: those of the ledgers, and of the labeller for the others.

        Args:
            rows: with a column id each. at_a_time: rows of one question, so the most answers that
                an interruption may lose.
            known: a ledger that several runs share, so that they do not pay for one row each. It is
                passed over where the labeller repeats itself.

        Returns:
            None where a person has not answered yet.
        """
        shared = [] if known is None or labeller.repeats else [known]
        ledgers = [*shared, self]
        for ledger in ledgers:
            ledger._settle(labeller)
        answered = shared[0].labels if shared else {}
        opened = [row for row in rows if "label" not in self.entries.get(row["id"], {})]
        if any(row["id"] in answered for row in opened):
            found = [row for row in opened if row["id"] in answered]
            self._begin(found, question)
            self._end(found, [answered[row["id"]] for row in found])
            opened = [row for row in opened if row["id"] not in answered]
        size = len(opened) if labeller.repeats else at_a_time
        for start in range(0, len(opened), max(size, 1)):
            part = opened[start : start + size]
            for ledger in ledgers:
                ledger._begin(part, question)
            answers = labeller.label(part, question)
            if len(answers) != len(part):
                raise ConfigError(
                    f"labeller: {type(labeller).__name__} gave {len(answers)} answers for "
                    f"{len(part)} rows; it must give one for each"
                )
            for ledger in ledgers:
                ledger._end(part, answers)
        labels = self.labels
        return [labels.get(row["id"]) for row in rows]

    def _begin(self, rows: Sequence[Row], question: Question) -> None:
        """Record that rows are asked about."""
        for row in rows:
            self.entries[row["id"]] = {"row": row["id"], "round": question.round}
        self._write()

    def _end(self, rows: Sequence[Row], answers: Sequence[Label | None]) -> None:
        """Record the answers."""
        for row, answer in zip(rows, answers, strict=True):
            if answer is not None:
                self.entries[row["id"]] |= answer.record()
        self._write()

    def _settle(self, labeller: Labeller) -> None:
        """Questions that were cut off: to be asked again where that is free, else lost."""
        if labeller.repeats:
            return
        cut_off = [entry for entry in self.entries.values() if "label" not in entry]
        for entry in cut_off:
            entry |= Label(None, source=LOST).record()
        if cut_off:
            self._write()

    def _write(self) -> None:
        if self.path is not None:
            lines = [json.dumps(entry, ensure_ascii=False) for entry in self.entries.values()]
            write_text_whole(self.path, "".join(f"{line}\n" for line in lines))


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {str(entry["row"]): entry for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is no ledger of labels ({error}); restore it, or start again in another folder"
        ) from error
