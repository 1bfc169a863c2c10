"""What every retention method is made of: the stage at hand, and what is done around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from posttrain import registry
from posttrain.config import Component
from posttrain.data.forest import Batch, TokenSequence
from posttrain.errors import ConfigError
from posttrain.models.adapters import save_merged
from posttrain.models.language_model import LanguageModel
from posttrain.models.loaded import LoadedModel
from posttrain.models.spec import ModelSpec
from posttrain.sources.rows import Source
from posttrain.training.plan import Learner, Plan, Work

MAX_TOKENS = 2048
"""Distinct tokens of a forward pass of what a method measures."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a sequence.

    Attributes:
        number: from 0. name: of what is learnt. plan: what is trained, as the user made it.
        model: as the stages before have left it; it is trained in place.
        earlier: plans of the stages before, in order.
        seed: of what is drawn at random.
        start: trained weights of the model before the first stage, by name.
    """

    number: int
    name: str
    plan: Plan
    model: LanguageModel
    earlier: Sequence[Plan]
    seed: int
    start: dict[str, Tensor]


class Retention:
    """A method against forgetting. The base class does nothing: naive sequential training.

    State that lasts over stages is tensors (`state`), so that an interrupted sequence goes on
    exactly.

    Attributes:
        changes_base: whether frozen weights below adapters are changed, so that the adapters alone
            are no longer the model.
    """

    changes_base = False

    def begin(self, stage: Stage) -> Plan:
        """The plan that is trained in the place of the stage's own."""
        return stage.plan

    def end(self, stage: Stage) -> None:
        """Called once the stage is trained: remember, or change the weights."""

    def restore(self, stage: Stage) -> None:
        """Called in the place of `begin` and `end` for a stage that is read from its folder, once
        the state and the trained weights are those that it left: bring back what of the model is
        neither.
        """

    def save(self, model: LanguageModel, folder: Path) -> None:
        """Write the model that the last stage left."""
        if self.changes_base:
            save_merged(model, folder)
        else:
            model.save(folder)

    def state(self) -> dict[str, Tensor]:
        """What lasts over the stages, by name."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` gave."""


def trained_parameters(model: LanguageModel) -> dict[str, Any]:
    """The parameters that are trained, by name; a critic's are none of them."""
    return {name: p for name, p in model.hf.named_parameters() if p.requires_grad}


def with_settings(plan: Plan, **changes: Any) -> Plan:
    """The plan that its method makes with other settings.

    Raises:
        ConfigError: the plan is not by a registered method, or the method has no such setting.
    """
    if plan.method not in registry.methods.names():
        raise ConfigError(
            f"retention: a plan of {plan.method!r} cannot be made again; give a plan of a "
            "registered method, such as pt.sft(rows)"
        )
    entry = registry.methods.entry(plan.method)
    for name in changes:
        if name not in entry.settings:
            raise ConfigError(f"retention: method {plan.method!r} has no setting {name!r}")
    return registry.methods.get(plan.method)(**{**plan.settings, **changes})


def with_source(plan: Plan, make: Any) -> Plan:
    """A plan whose source is wrapped.

    Args:
        make: (spec, seed, steps, source of the plan, learner) -> source.
    """

    def prepare(spec: ModelSpec, seed: int, steps: int | None) -> Work:
        work = plan.prepare(spec, seed, steps)
        own = work.source

        def source(learner: Learner) -> Source:
            return make(spec, seed, work.steps, own(learner), learner)

        return replace(work, source=source)

    return replace(plan, prepare=prepare)


def with_term(plan: Plan, component: Component, carries: Sequence[str] = ()) -> Plan:
    """A plan with one more loss."""

    def prepare(spec: ModelSpec, seed: int, steps: int | None) -> Work:
        work = plan.prepare(spec, seed, steps)
        if work.objective is None:
            return work
        return replace(work, objective=work.objective.with_term(component, carries=carries))

    objective = plan.objective.with_term(component, carries=carries)
    return replace(plan, objective=objective, prepare=prepare)


def source_of(plan: Plan, model: LanguageModel, seed: int) -> Source:
    """The source of a plan on a model in memory, outside a training."""
    work = plan.prepare(LoadedModel(model), seed, None)
    return work.source(Learner(model, None, MAX_TOKENS))


def sequences_of(batches: Iterator[Batch]) -> Iterator[TokenSequence]:
    """Each sequence of the batches that has targets."""
    for batch in batches:
        for tree in (*batch.trees, *batch.idle):
            yield from (s for s in tree.sequences if s.loss_mask.any())


def steps_of(stage: Stage) -> Iterator[Batch]:
    """The batches of a stage's plan, step after step."""
    source = source_of(stage.plan, stage.model, stage.seed)
    step = 0
    while True:
        yield from source.batches(step)
        step += 1
