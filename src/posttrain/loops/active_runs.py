"""All selectors with all seeds of an active learning, checked before any weights are loaded."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posttrain import registry
from posttrain.component import Component
from posttrain.config import DataConfig
from posttrain.data.rows import rows_of
from posttrain.errors import CheckpointError, ConfigError, DataError
from posttrain.evaluation.learning_curves import Active
from posttrain.files import write_text_whole
from posttrain.labellers.adviser import Adviser
from posttrain.labellers.base import ORACLE, Labeller, Question, Row
from posttrain.labellers.ledger import FILE as LEDGER
from posttrain.labellers.ledger import Ledger
from posttrain.learners.base import Learner, check_inputs
from posttrain.loops.active_rounds import ActiveRun
from posttrain.loops.active_settings import Budget, Choice
from posttrain.methods.evaluate import needed
from posttrain.methods.objects import Rows, TaskLike, data_of, task_of
from posttrain.models.spec import ModelSpec
from posttrain.selectors.foreign import as_selector, is_strategy
from posttrain.terminal import write
from posttrain.training.ending import resumed_as
from posttrain.training.plan import Facts, Place, PreparedJob

_OF_LOOP = {"num", "num_candidates", "num_completions", "rng", "texts"}
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_OF_ADVISER = {"ask", "yes_probability"}


@dataclass(frozen=True, slots=True)
class Runs:
    """What an active learning consists of.

    Attributes:
        make_learner: from a model. pool: rows with ids. selectors: each is run on its own.
        labeller: who labels. label_name: in words.
        choice: how rows are chosen, whatever the selector. budget: when a run ends.
        num_seeds: of each selector. adviser: the model that selectors ask. use: of the labels.
    """

    make_learner: Callable[..., Learner]
    pool: Sequence[Row]
    selectors: Sequence[Component]
    labeller: Labeller
    label_name: str
    choice: Choice
    budget: Budget
    num_seeds: int
    adviser: Adviser | None
    use: str

    def check(self) -> None:
        """Refuse what no model can change.

        Raises:
            ConfigError: two selectors of one name, or a person who would label for several runs.
        """
        names = [shown(item) for item in self.selectors]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"selectors: {name!r} stands there twice; leave one out")
        if self.choice.num_proposals and (self.adviser is None or self.use != "classes"):
            raise ConfigError(
                "num_proposals: an adviser writes texts for use 'classes'; name an adviser, or "
                "leave it out"
            )
        if self.choice.num_proposals and self.labeller.is_oracle:
            raise ConfigError(
                f"num_proposals: texts that are written have no gold, and labeller "
                f"{self.label_name} reads it; take a model, a file or a function"
            )
        waits = type(self.labeller).waiting is not Labeller.waiting
        if waits and self.num_seeds * len(names) > 1:
            raise ConfigError(
                f"labeller {self.label_name}: a person labels for one selector and one seed; set "
                "num_seeds to 1 and name one selector"
            )

    def prepare(self, spec: ModelSpec | None, seed: int) -> PreparedJob:
        """The job for one model and seed."""
        learner = self.make_learner(needed(spec))
        learner.check(self.pool)
        pruner = self.choice.prune
        for item in (*self.selectors, self.choice.cold_start, *([pruner] if pruner else [])):
            self._check_selector(item, learner, prunes=item is pruner)
        self.labeller.check(Question(learner.column, learner.labels, folder=Path()))
        seeds = range(seed, seed + self.num_seeds)

        def run(place: Place) -> Active:
            with resumed_as(f"posttrain resume {place.path}, or the same call with resume=True"):
                return self.run(learner, seeds, place)

        return PreparedJob(facts=self._facts(), run=run)

    def run(self, learner: Learner, seeds: Sequence[int], place: Place) -> Active:
        """All rounds of all selectors and seeds."""
        place.open()
        _refuse_other_pool(place.path, self.pool)
        if self.labeller.is_oracle:
            write(place.console, ORACLE, style="yellow")
        alone = len(self.selectors) * len(seeds) == 1
        known = None if alone else Ledger(place.path / LEDGER)
        curves = []
        for seed in seeds:
            for number, item in enumerate(self.selectors, 1):
                folder = place.path / f"seed-{seed}" / f"{number}-{item.name}"
                run = ActiveRun(
                    learner,
                    self.pool,
                    self.labeller,
                    replace(self.choice, selector=item, name=shown(item)),
                    self.budget,
                    seed=seed,
                    folder=place.path if alone else folder,
                    console=place.console,
                    advisers=_advisers(self.adviser),
                    known=known,
                )
                curves.append(run.run())
        title = f"active learning: {self.use}"
        result = Active(title, self.label_name, curves, self.labeller.is_oracle)
        if known is not None and known.entries:
            result.notes.append(f"paid in all, as runs share answers: {known.spent}")
        result.model = getattr(learner, "model", None)
        result.save(place.path)
        write(place.console, str(result))
        return result

    def _facts(self) -> Facts:
        choice = self.choice
        oracle = f" ({ORACLE})" if self.labeller.is_oracle else ""
        return [
            ("pool", f"{len(self.pool)} rows, for {self.use}"),
            ("selectors", ", ".join(shown(item) for item in self.selectors)),
            ("labeller", f"{self.label_name}{oracle}"),
            (
                "labels",
                f"{choice.num_initial} first, then {choice.rows_per_round} in each of "
                f"{self.budget.num_rounds} rounds; {self.num_seeds} seeds",
            ),
        ]

    def _check_selector(self, item: Component, learner: Learner, *, prunes: bool) -> None:
        """Refuse a selector that cannot run here, with its settings."""
        entry = registry.selectors.entry_of(item)
        registry.selectors.check_of(item, "selectors")
        own = [name for name in entry.inputs if name not in _OF_LOOP | _OF_ADVISER]
        check_inputs(entry.name, own, learner.carries, self.use)
        if self.adviser is None and _OF_ADVISER & set(entry.inputs):
            raise ConfigError(f"selector {entry.name!r} asks a language model; name one as adviser")
        selects = entry.declared["selects"]
        wanted = "row" if prunes else learner.selects
        if selects != wanted:
            raise ConfigError(
                f"selector {entry.name!r} selects a {selects}, and a {wanted} is needed for use "
                f"{self.use!r}"
            )


def pool_of(data: Rows | None, task: TaskLike | None) -> list[Row]:
    """The rows of the pool, each with an id of its own.

    Raises:
        ConfigError: neither data nor a task, or both. DataError: two rows have one id.
    """
    if (data is None) == (task is None):
        raise ConfigError("active needs exactly one of data (rows) and task (whose examples)")
    if task is not None:
        examples = task_of(task).examples
        rows = [
            {"prompt": e.prompt, "completion": e.completion, "answer": e.answer, "id": e.id}
            for e in examples
        ]
    else:
        rows = [dict(row) for row in rows_of(data_of(data))]  # type: ignore[arg-type]
    for number, row in enumerate(rows, 1):
        row["id"] = str(row.get("id") or number)
    if not rows or len({row["id"] for row in rows}) < len(rows):
        raise DataError(
            f"active: {len(rows)} rows have {len({r['id'] for r in rows})} different ids; a pool "
            "has at least one row, and each row an id of its own"
        )
    return rows


def recorded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as a resume compares them, in whatever process: rows in memory by a digest,
    functions and objects by their names.
    """
    values = {}
    for name, value in settings.items():
        is_held = not isinstance(value, str | Path | DataConfig) or getattr(value, "rows", None)
        if name in ("data", "eval_data") and value is not None and is_held:
            value = _digest(rows_of(data_of(value)))
        values[name] = value if is_plain(value) else _ADDRESS.sub("", str(value))
    return values


def is_plain(value: Any) -> bool:
    """Whether JSON holds a value as it is."""
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


def _digest(rows: Sequence[Row]) -> str:
    text = json.dumps(list(rows), sort_keys=True, default=str)
    return f"{len(rows)} rows, {hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"


def selectors_of(items: Any) -> list[Component]:
    """The selectors of a run, one or several.

    Raises:
        ConfigError: there is none.
    """
    if isinstance(items, str | Mapping | Component) or callable(items) or is_strategy(items):
        items = [items]
    made = [selector_of(item) for item in items]
    if not made:
        raise ConfigError("selectors: there is none; give at least one, such as entropy")
    return made


def selector_of(item: Any) -> Component:
    """A selector by name, by function, or a query strategy as it is."""
    if is_strategy(item):
        function = as_selector(item)
        return Component(function.__name__, function=function)
    return Component.of(item)


def shown(item: Component) -> str:
    """A component in words: its name with its settings."""
    settings = ", ".join(f"{key}={value}" for key, value in item.settings.items())
    return f"{item.name}({settings})" if settings else item.name


def _advisers(advice: Adviser | None) -> dict[str, Any]:
    if advice is None:
        return {}

    def ask(questions: Sequence[str]) -> list[str]:
        return [row[0] if row else "" for row in advice.answers(questions)]

    return {"ask": ask, "yes_probability": advice.yes_probability}


def _refuse_other_pool(folder: Path, pool: Sequence[Row]) -> None:
    """Refuse to go on with other rows than the run began with."""
    record = {"pool": _digest(pool)}
    file = folder / "pool.json"
    if not file.is_file():
        write_text_whole(file, json.dumps(record))
    elif json.loads(file.read_text(encoding="utf-8")) != record:
        raise CheckpointError(
            f"{folder} was begun with another pool; go on with the same rows, or choose another "
            "output"
        )
