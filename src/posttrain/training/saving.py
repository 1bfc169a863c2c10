"""When a run saves, and what it refuses to save."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.errors import TrainingDiverged
from posttrain.models.forest_model import ForestModel, evaluating
from posttrain.models.program import whole_weights
from posttrain.sources.rows import Source
from posttrain.training.average import WeightAverage
from posttrain.training.checkpoint import (
    prune_checkpoints,
    save_checkpoint,
    save_shares,
    written_whole,
)
from posttrain.training.loop import State
from posttrain.training.settings import TrainingSettings
from posttrain.training.sharded import is_in_shares
from posttrain.world import World

_ALONE = World.alone()

GROWTH = 10.0
"""By how much the norm of the trained weights grows in a run that has collapsed: fine-tuning
moves it by some percent.
"""


class Saver:
    """The hook that writes checkpoints: every so many steps, every so many seconds, at the end, and
    when a run is stopped.

    Saving reads the state and changes nothing of it, so that when it happens has no influence on
    the result.

    Args:
        steps: of the whole run. every: steps, 0 = off. seconds: since the last save, 0 = off.
        final: whether to save at
            the end. limit: checkpoints that are kept; a finished run without `every` keeps the last
            alone.
        facts: JSON values that every state file holds. world: the processes that save together,
            which are several where the model lies in shares.
    """

    def __init__(
        self,
        folder: Path,
        model: ForestModel,
        source: Source,
        optimizer: Any,
        state: State,
        *,
        steps: int,
        every: int,
        seconds: float,
        limit: int,
        final: bool,
        facts: dict[str, Any],
        world: World = _ALONE,
    ) -> None:
        self.world = world
        self.folder, self.model, self.source, self.optimizer, self.state = (
            folder,
            model,
            source,
            optimizer,
            state,
        )
        self.steps, self.every, self.seconds, self.limit, self.final = (
            steps,
            every,
            seconds,
            limit,
            final,
        )
        self.facts = facts
        self.last_step = -1  # that was saved
        self._saved = time.monotonic()

    @classmethod
    def of(cls, settings: TrainingSettings, *parts: Any, **options: Any) -> Saver:
        """A saver with the cadences of the settings of a training."""
        return cls(
            *parts,
            **options,
            every=settings.save_every,
            seconds=settings.save_seconds,
            limit=settings.save_total_limit,
            final=settings.save_final,
        )

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        """Save if it is time.

        Raises:
            TrainingDiverged: the weights are not finite. CheckpointError: the disk is full.
        """
        if self.world.from_main(lambda: self._is_due(step)):
            self.save(step)

    def _is_due(self, step: int) -> bool:
        timed = self.seconds > 0 and time.monotonic() - self._saved >= self.seconds
        regular = self.every > 0 and step % self.every == 0
        return (self.final and step == self.steps) or self.state.stop or timed or regular

    def stop(self) -> None:
        """Save a run that was stopped, by this process or another one, while hooks were called."""
        if self.state.stop and self.last_step != self.state.step:
            self.save(self.state.step)

    def finish(self) -> None:
        """What is left once the model is saved: nothing, where neither a final state nor
        regular ones are asked for.
        """
        if not self.final and not self.every:
            prune_checkpoints(self.folder, 0)

    def save(self, step: int) -> None:
        """Write the checkpoint of a step, and remove those beyond the limit."""
        with whole_weights(self.model):
            check_finite(self.model, self.state)
            norm = trained_norm(self.model)
        values = {
            "num_tokens": self.state.num_tokens,
            "source": self.source.state(),
            "weights_version": getattr(self.model, "weights_version", 0),
            "steps": self.steps,
            "norm": norm,
            **self.facts,
        }
        if is_in_shares(self.model):
            parts: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer}
            path = save_shares(self.folder, step, **parts, state=values, world=self.world)
        else:
            path = save_checkpoint(
                self.folder,
                step,
                save_model=self.model.save_for_resume,
                optimizer=self.optimizer,
                state=values,
            )
        self.state.last_checkpoint, self.last_step = str(path), step
        if self.world.is_main:
            keep = 1 if step == self.steps and not self.every else self.limit
            prune_checkpoints(self.folder, keep)
        self._saved = time.monotonic()


def write_model(
    saver: Saver, norm: float, average: WeightAverage | None, warn: Callable[[str], None]
) -> None:
    """Write the folder `model` of a run. The model's weights are the average's from then on.

    Args:
        norm: of the trained weights at the start. warn: is told of weights that have collapsed.
    Raises:
        TrainingDiverged: the model is not fit to be used.
    """
    model = saver.model
    check_finite(model, saver.state)
    warning = collapse(norm, trained_norm(model))
    if warning is not None:
        warn(warning)
    if average is not None:
        average.exchange()
    with written_whole(saver.folder / "model") as place:
        model.save(place)
    saver.finish()


def check_finite(model: ForestModel, state: State) -> None:
    """Refuse trained weights that are NaN or infinite, or with which the model's outputs are.

    Raises:
        TrainingDiverged: names the weights, the last good checkpoint and the way out.
    """
    bad = [p for p in model.trainable_parameters() if not torch.isfinite(p).all()]
    if not bad and _finite_outputs(model):
        return
    names = {id(p): name for name, p in model.hf.named_parameters()}
    what = (
        f"the weights are NaN or infinite ({names.get(id(bad[0]), 'of the critic')})"
        if bad
        else ("the model's outputs are NaN or infinite")
    )
    raise TrainingDiverged(
        f"after step {state.step}: {what}, so they are not saved. Last good checkpoint: "
        f"{state.last_checkpoint}. "
        "Lower learning_rate or max_grad_norm"
    )


def _finite_outputs(model: ForestModel) -> bool:
    """Whether the hidden states of a few tokens are finite."""
    ids = np.arange(min(4, model.config.vocab_size))
    forest = Forest.pack([Tree.build([TokenSequence(ids, ids > 0)])])
    with evaluating(model.hf), torch.no_grad():
        return bool(torch.isfinite(model.hidden(forest)).all())


def trained_norm(model: ForestModel) -> float:
    """The norm of the trained weights, in float64."""
    return (
        sum(float(p.detach().double().square().sum()) for p in model.trainable_parameters()) ** 0.5
    )


def collapse(before: float, now: float) -> str | None:
    """A warning where the trained weights have grown as they only do in a run that has
    collapsed.
    """
    if before <= 0 or now < GROWTH * before:
        return None
    return (
        f"the trained weights have grown {now / before:.3g}-fold, as they do when training "
        "collapses: look at the loss and "
        "at what the model writes before using it, and lower learning_rate"
    )
