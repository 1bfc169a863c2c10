"""A plan says what `fit` trains, and a job what `perform` does. Both are data that a method makes.

A method is a function from objects (rows, a task, rewards, other models) to a `Plan`. Making it
checks everything that needs no model. `prepare` checks and encodes for one model, still without
weights, and gives the `Work`. Only `fit` loads weights and trains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from rich.console import Console

from posttrain.averages import Averages
from posttrain.config import TrustRegionConfig
from posttrain.data.account import Account
from posttrain.data.forest import TokenSequence
from posttrain.errors import ConfigError
from posttrain.limits import check_values
from posttrain.models.class_head import Classes
from posttrain.models.spec import ModelSpec
from posttrain.sources.rows import Source
from posttrain.training.objective import Objective
from posttrain.training.optim import Schedule
from posttrain.training.reference_model import Reference
from posttrain.world import World

Facts = list[tuple[str, str]]
"""Name and value of what a check shows."""

Preview = Callable[[Console, int], None]
"""Prints a number of rows as they are trained on."""


@dataclass(frozen=True, slots=True)
class AdamW:
    """The part of the optimiser that a method chooses; the rest are settings of `fit`.

    Attributes:
        learning_rate: peak learning rate of the run.
        lr_scheduler_type: how it changes over the run.
    """

    learning_rate: float
    lr_scheduler_type: Schedule = "linear"


@dataclass(frozen=True, slots=True)
class Critic:
    """A model of values that is trained beside the policy.

    Attributes:
        model: what it starts from; None is the policy's model.
        learning_rate: None takes the policy's.
        adapters: whether it has the policy's LoRA, where `model` is None.
    """

    model: ModelSpec | None = None
    learning_rate: float | None = None
    adapters: bool = False


@dataclass(frozen=True, slots=True)
class Learner:
    """The model that is trained, as a source gets it.

    Attributes:
        model: with its weights. optimizer: what updates them.
        max_tokens: distinct tokens that one forward pass may hold.
        folder: of the run; None where it is in memory.
        world: the processes that train together; a source shares its work among them, and gives
            the same batches in each.
        last_step: the number of the last step, None where that is open.
    """

    model: Any
    optimizer: Any
    max_tokens: int
    folder: Path | None = None
    world: World = field(default_factory=World.alone)
    last_step: int | None = None


class GradientRule(Protocol):
    """What changes the gradient of an update before it is clipped, such as a projection."""

    def __call__(self, learner: Learner, step: int) -> Averages:
        """Change `.grad` of the trained parameters in place; the metrics of it.

        Args:
            step: from 0. What a rule draws at random is a function of the step, so that a resume
                is exact.
        """
        ...


Measure = Callable[[Any, Source, int], dict[str, float]]
"""(model, source, max_tokens) -> metrics of held-out data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A plan for one model, encoded and checked, before any weights are loaded.

    Attributes:
        steps: optimiser steps of the run.
        source: makes the source of batches for a model with weights.
        objective: where the rows decide what is compared; None is the plan's.
        facts: what a check shows. notes: warnings that are printed when the training starts.
        account: what of the data is lost, and metrics of that at step 0.
        measure: metrics of held-out data, taken before, during and after the training.
        compared: all sequences whose reference log-probs are read, where they are cached.
        filtered: makes the work anew from what a model says of the data, before training; None
            where the data stay as they are.
        by_steps: why the steps done depend on the number of steps, "" where they do not.
        samples: whether the source has `groups` of sampled completions.
        close: releases what rewards hold.
    """

    steps: int
    source: Callable[[Learner], Source]
    facts: Facts
    objective: Objective | None = None
    notes: tuple[str, ...] = ()
    account: Account = field(default_factory=Account)
    preview: Preview | None = None
    measure: Measure | None = None
    compared: Sequence[Sequence[TokenSequence]] = ()
    filtered: Callable[[Any, int, Console], Work] | None = None
    by_steps: str = ""
    samples: bool = False
    close: Callable[[], None] = lambda: None


Prepare = Callable[[ModelSpec, int, int | None], Work]
"""(model, seed, steps or None for the plan's own number) -> work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is trained and how. A method makes it; `fit` runs it.

    Attributes:
        method: the method's name. settings: what it was called with.
        objective: what is minimised. prepare: from a model to the work.
        optimizer: the learning rate and its schedule. trust_region: TRPO's step in AdamW's place.
        reference: the frozen model that losses compare with. teacher: the model that is imitated.
        critic: the model of values. scores: at each "token" or at the end of a "sequence", where a
            score model is trained, or the classes of a classifier; None trains a language model.
        noise: size of the noise on embeddings in training (NEFTune).
        rules: what changes the gradient of each update, in order.
    """

    method: str
    objective: Objective
    prepare: Prepare
    optimizer: AdamW
    settings: Mapping[str, Any] = field(default_factory=dict)
    trust_region: TrustRegionConfig | None = None
    reference: Reference = field(default_factory=Reference)
    teacher: ModelSpec | None = None
    critic: Critic | None = None
    scores: Literal["token", "sequence"] | Classes | None = None
    noise: float = 0.0
    rules: tuple[GradientRule, ...] = ()

    def __post_init__(self) -> None:
        check_values(self.settings)

    def __repr__(self) -> str:
        rate = f"learning_rate={self.optimizer.learning_rate:g}"
        losses = ", ".join(term.name for term in self.objective.terms)
        return f"Plan({self.method}: {losses}; {rate}, {self.optimizer.lr_scheduler_type})"


class Place(Protocol):
    """Where a job writes, and where it prints."""

    path: Path
    console: Console
    seed: int

    def open(self) -> None:
        """Make the folder, once the first result is at hand."""
        ...

    def written(self, name: str) -> str:
        """ " written to" a file of the folder, or nothing where the folder does not stay."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedJob:
    """A job for one model, checked, before any weights are loaded.

    Attributes:
        run: does the work and returns its result.
        facts, account, close: as in `Work`.
    """

    facts: Facts
    run: Callable[[Place], Any]
    account: Account = field(default_factory=Account)
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Work of a model that trains nothing: sampling, labelling, measuring.

    Attributes:
        method: the method's name. settings: what it was called with.
        prepare: (model, seed) -> the job for that model. `model` is None where none is named.
        leaves: the file that a finished run of the job has.
        resumes: whether a call in Python may go on with one that was cut off.
    """

    method: str
    prepare: Callable[[ModelSpec | None, int], PreparedJob]
    leaves: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    resumes: bool = False


class Rounds(Protocol):
    """The rounds of a loop; see `training.rounds`."""

    @property
    def number(self) -> int:
        """The number of the round at hand, from 0."""
        ...

    @property
    def step(self) -> int:
        """Steps of the rounds that are done."""
        ...

    @property
    def path(self) -> Path | None:
        """The folder of the round at hand; None where nothing is written."""
        ...

    @property
    def console(self) -> Console:
        """Where progress is printed."""
        ...

    @property
    def model(self) -> Any:
        """The model as the rounds that are done have left it."""
        ...

    def rows(self, sample: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
        """What the round has sampled."""
        ...

    def fit(self, plan: Plan, *, steps: int, restart: bool = False) -> Any:
        """Train the round at hand."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedLoop:
    """A loop for one model, checked, before any weights are loaded.

    Attributes:
        steps: optimiser steps of all rounds.
        run: the `for` statement over `rounds.fit`.
        facts, account, notes, preview, by_steps, close: as in `Work`.
        prompts: what is sampled from; a resume compares it.
        restarts: whether rounds begin at the weights of the start.
    """

    steps: int
    run: Callable[[Rounds], None]
    facts: Facts
    account: Account = field(default_factory=Account)
    notes: tuple[str, ...] = ()
    preview: Preview | None = None
    prompts: Sequence[Any] = ()
    by_steps: str = ""
    restarts: bool = False
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """Rounds of `fit`: what is done in each and how often. `fit` runs it as it runs a plan.

    Attributes:
        method: the method's name. settings: what it was called with.
        prepare: (model, seed, steps or None for the loop's own number) -> the loop for that model.
        optimizer: the learning rate and its schedule, which is over the steps of all rounds.
    """

    method: str
    prepare: Callable[[ModelSpec, int, int | None], PreparedLoop]
    optimizer: AdamW
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_values(self.settings)


def steps_of(steps: int | None, num_train_epochs: float, steps_per_epoch: int) -> int:
    """The number of steps: as asked for, or as many as the epochs take."""
    return steps or max(1, math.ceil(num_train_epochs * steps_per_epoch))


def settings_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a method as its plan keeps them: `locals()` at its first line."""
    return dict(values)


def check_positive(**counts: int | None) -> None:
    """Refuse counts below 1.

    Raises:
        ConfigError: names the setting.
    """
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name}: {value} must be at least 1")
