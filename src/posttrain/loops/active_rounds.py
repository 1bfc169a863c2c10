"""The rounds of active learning of one selector and seed: select, label, train, evaluate, stop.

    RUN/ledger.jsonl            questions and answers, with costs
    RUN/rounds.jsonl            of each round: the rows that were chosen, and its scores
    RUN/model                   what was learnt last

A row of rounds.jsonl is written when the rows are chosen, and again when the round is measured; the
file is written whole. What a resume computes again (the model of a round) is a function of the
labels and the seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from posttrain import registry
from posttrain.component import Component
from posttrain.errors import DataError
from posttrain.evaluation.learning_curves import Curve
from posttrain.files import write_text_whole, written_whole
from posttrain.labellers.base import Cost, Labeller, Question, Row
from posttrain.labellers.ledger import FILE, Ledger
from posttrain.labellers.proposals import proposed
from posttrain.learners.base import Learner
from posttrain.loops.active_settings import Budget, Choice
from posttrain.selectors.ranking import checked_pairs, checked_places
from posttrain.terminal import write
from posttrain.training.ending import Interrupted

ROUNDS = "rounds.jsonl"
_OF_LOOP = ("num", "num_candidates", "num_completions", "rng", "texts", "ask", "yes_probability")
_AGREED_ON = 500  # rows whose predictions are compared between rounds


class ActiveRun:
    """One selector with one seed.

    Args:
        learner: what learns. pool: rows with a column id. labeller: who labels.
        advisers: further inputs of selectors, such as ask. known: answers that other runs share.
        folder: None keeps everything in memory.
    """

    def __init__(
        self,
        learner: Learner,
        pool: Sequence[Row],
        labeller: Labeller,
        choice: Choice,
        budget: Budget,
        *,
        seed: int,
        folder: Path | None,
        console: Console,
        advisers: dict[str, Any] | None = None,
        known: Ledger | None = None,
    ) -> None:
        self.learner, self.labeller = learner, labeller
        self.pool = {row["id"]: row for row in pool}
        self.choice, self.budget, self.seed = choice, budget, seed
        self.known = known
        self.folder, self.console, self.advisers = folder, console, advisers or {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(None if folder is None else folder / FILE)
        self.rounds = _read_rounds(folder)
        for state in self.rounds:
            self.pool |= {row["id"]: row for row in state.get("proposed", ())}
        self._trained: int | None = None

    def run(self) -> Curve:
        """All rounds, or those that are left."""
        self.learner.restart()
        number, reason = 0, ""
        while not reason:
            state = self._chosen(number)
            if not state["chosen"]:
                reason = "no row of the pool is left, or the budget of labels is spent"
                break
            self._label(number)
            if "score" not in state:
                self._measure(number)
            scores = [one["score"] for one in self.rounds if "score" in one]
            reason = self.budget.reason(
                number, scores[: number + 1], Cost(**state["spent"]), state["agreement"]
            )
            number += 1
        if self.folder is not None:
            self._ensure(len(self._measured) - 1)
            with written_whole(self.folder / "model") as place:
                self.learner.save(place)
        return self._curve(reason)

    @property
    def _measured(self) -> list[dict[str, Any]]:
        return [state for state in self.rounds if "score" in state]

    # -- select

    def _chosen(self, number: int) -> dict[str, Any]:
        """The round with its rows, chosen now or before."""
        if number < len(self.rounds):
            return self.rounds[number]
        size = self.choice.rows_per_round if number else self.choice.num_initial
        if self.budget.max_labels:
            size = min(size, self.budget.max_labels - self._num_asked)
        state: dict[str, Any] = {"round": number}
        if number and self.choice.num_proposals:
            state["proposed"] = self._proposed(number)
            self.pool |= {row["id"]: row for row in state["proposed"]}
        state["chosen"] = self._select(number, size)
        self.rounds.append(state)
        self._write()
        return state

    def _proposed(self, number: int) -> list[Row]:
        """New rows by the adviser."""
        return proposed(
            self.advisers["ask"],
            [*self.pool.values()],
            np.random.default_rng((self.seed, number, 47)),
            num=self.choice.num_proposals,
            prefix=f"proposed-{number}",
        )

    @property
    def _num_asked(self) -> int:
        return sum(len(state["chosen"]) for state in self.rounds)

    def _select(self, number: int, size: int) -> list[Any]:
        used = {_row_id(item) for state in self.rounds for item in state["chosen"]}
        candidates = [row for name, row in self.pool.items() if name not in used]
        if size < 1 or not candidates:
            return []
        rng = np.random.default_rng((self.seed, number, 41))
        item = self.choice.selector if number else self.choice.cold_start
        if number:
            self._ensure(number - 1)
            candidates = self._narrowed(candidates, size, number, rng)
        places = self._places(item, candidates, size, number, rng)
        if self.learner.selects == "pair":
            return [[candidates[i]["id"], a, b] for i, a, b in places]
        return [candidates[place]["id"] for place in places]

    def _narrowed(
        self, candidates: list[Row], size: int, number: int, rng: np.random.Generator
    ) -> list[Row]:
        """The candidates that are scored: some at random, and of them what is not pruned."""
        limit = self.choice.num_candidates
        if limit and len(candidates) > limit:
            drawn = sorted(rng.permutation(len(candidates))[: max(limit, size)].tolist())
            candidates = [candidates[place] for place in drawn]
        if self.choice.prune is None:
            return candidates
        count = max(size, round(self.choice.prune_share * len(candidates)))
        places = self._places(self.choice.prune, candidates, count, number, rng)
        return [candidates[place] for place in sorted(places)]

    def _places(
        self,
        item: Component,
        candidates: Sequence[Row],
        size: int,
        number: int,
        rng: np.random.Generator,
    ) -> list[Any]:
        entry = registry.selectors.entry_of(item)
        given: dict[str, Any] = {
            "num": min(size, len(candidates)),
            "num_candidates": len(candidates),
            "rng": rng,
            "texts": [_text(row) for row in candidates],
            "num_completions": min((len(r.get("completions", ())) for r in candidates), default=0),
            **self.advisers,
        }
        names = [name for name in entry.inputs if name not in _OF_LOOP]
        if names:
            labelled = self._labelled(number)
            seed = self._seed(number)
            given |= self.learner.inputs(names, candidates, labelled, seed)
        function: Callable[..., Any] = registry.selectors.bind_of(item)
        places = function(*(given[name] for name in entry.inputs))
        check = checked_pairs if entry.declared["selects"] == "pair" else checked_places
        return list(check(entry.name, places, len(candidates), size))

    # -- label

    def _label(self, number: int) -> None:
        rows = [self._question_row(item) for item in self.rounds[number]["chosen"]]
        question = Question(
            column=self.learner.column,
            labels=self.learner.labels,
            labelled=self._labelled(number),
            round=number,
            seed=self._seed(number),
            folder=self.folder,
            predict=self._predict(number),
            embed=self.learner.embed if number else None,
        )
        answers = self.ledger.ask(
            rows,
            self.labeller,
            question,
            at_a_time=self.choice.questions_at_a_time,
            known=self.known,
        )
        missing = sum(answer is None for answer in answers)
        if missing:
            raise Interrupted(
                f"round {number}: {missing} of {len(rows)} rows have no label yet; "
                f"{self.labeller.waiting()}"
            )

    def _predict(self, number: int) -> Any:
        """The small model of the round before, trained once it is asked."""
        if not number or self.learner.predict([]) is None:
            return None

        def predict(rows: Sequence[Row]) -> tuple[list[str], list[float]]:
            self._ensure(number - 1)
            said = self.learner.predict(rows)
            assert said is not None  # it was asked above
            return said

        return predict

    def _question_row(self, item: Any) -> Row:
        if isinstance(item, list):
            return self.learner.pair(self.pool[item[0]], item[1], item[2])
        return self.pool[item]

    def _labelled(self, number: int) -> list[Row]:
        """Rows of the rounds before, with their labels."""
        labels, rows = self.ledger.labels, []
        for state in self.rounds[:number]:
            for item in state["chosen"]:
                row = self._question_row(item)
                label = labels.get(row["id"])
                if label is None or label.value is None:
                    continue
                if label.confidence is None or label.confidence >= self.choice.min_confidence:
                    rows.append({**row, self.learner.column: label.value})
        return rows

    # -- train and evaluate

    def _ensure(self, number: int) -> None:
        """Train on the labels up to a round, if that is not what was trained last."""
        if number < 0 or self._trained == number:
            return
        rows = self._labelled(number + 1)
        if not rows:
            raise DataError(
                f"round {number}: no row has a label that is learnt from; the labeller gave none, "
                "or all lie below min_confidence"
            )
        self.learner.train(rows, self._seed(number))
        self._trained = number

    def _measure(self, number: int) -> None:
        self._ensure(number)
        outcomes = self.learner.outcomes()
        state = self.rounds[number]
        state["score"] = float(np.mean(outcomes))
        state["num_labels"] = len(self._labelled(number + 1))
        state["spent"] = asdict(self.ledger.spent)
        state["agreement"] = 0.0
        if self.budget.stable_share:
            state["predicted"] = self._predictions()
            before = self.rounds[number - 1].get("predicted") if number else None
            if before:
                same = [a == b for a, b in zip(before, state["predicted"], strict=True)]
                state["agreement"] = float(np.mean(same))
        self._write()
        write(
            self.console,
            f"{self.choice.name}, seed {self.seed}: {state['num_labels']} labels, score "
            f"{state['score']:.1%}, spent {self.ledger.spent}",
        )

    def _predictions(self) -> list[str]:
        said = self.learner.predict([*self.pool.values()][:_AGREED_ON])
        return [] if said is None else said[0]

    def _seed(self, number: int) -> int:
        """Of the training of a round, the same for every selector."""
        return self.seed * 1000 + number

    # -- the record

    def _write(self) -> None:
        if self.folder is not None:
            lines = [json.dumps(state, ensure_ascii=False) for state in self.rounds]
            write_text_whole(self.folder / ROUNDS, "".join(f"{line}\n" for line in lines))

    def _curve(self, reason: str) -> Curve:
        done = self._measured
        spent = [Cost(**state["spent"]) for state in done]
        return Curve(
            selector=self.choice.name,
            seed=self.seed,
            num_labels=[state["num_labels"] for state in done],
            scores=[state["score"] for state in done],
            money=[cost.money for cost in spent],
            tokens=[cost.tokens for cost in spent],
            minutes=[cost.minutes for cost in spent],
            annotation=self._annotation(),
            reason=reason,
        )

    def _annotation(self) -> float | None:
        """The share of labels that equal the pool's gold, where it has gold."""
        rows = self._labelled(len(self.rounds))
        gold = [(r, self.pool.get(r["id"], {}).get(self.learner.column)) for r in rows]
        known = [(str(r[self.learner.column]) == str(g)) for r, g in gold if g is not None]
        return float(np.mean(known)) if known else None


def _row_id(item: Any) -> str:
    return str(item[0] if isinstance(item, list) else item)


def _text(row: Row) -> str:
    """What an adviser reads of a row."""
    value: Any = row.get("text", row.get("prompt", ""))
    if isinstance(value, str):
        return value
    return "\n".join(str(turn.get("content", "")) for turn in value)


def _read_rounds(folder: Path | None) -> list[dict[str, Any]]:
    file = None if folder is None else folder / ROUNDS
    if file is None or not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
