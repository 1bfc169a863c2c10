"""The state in which a fit ends: what a later fit of the same model needs to go on exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from posttrain.errors import CheckpointError, ConfigError
from posttrain.models.forest_model import ForestModel
from posttrain.sources.rows import Source
from posttrain.training import checkpoint
from posttrain.training.loop import State
from posttrain.training.resume import Start
from posttrain.training.saving import trained_norm

_TOLERANCE = 1e-6  # of norms in float64, whose sums another device takes in another order


@dataclass(frozen=True, slots=True)
class TrainingState:
    """The state in which a fit ends.

    Attributes:
        step: steps done. num_tokens: tokens trained on.
        norm: of the trained weights, by which a model is known again.
        optimizer: moments, counts and float32 copies. generators: the random numbers' state.
    """

    step: int
    num_tokens: int
    norm: float
    optimizer: dict[str, Any]
    generators: dict[str, Any]

    @classmethod
    def of(cls, model: ForestModel, optimizer: Any, state: State) -> TrainingState:
        """The state of a training as it is now. The optimiser's tensors are not copied."""
        return cls(
            step=state.step,
            num_tokens=state.num_tokens,
            norm=trained_norm(model),
            optimizer=optimizer.state_dict(),
            generators=checkpoint.random_state(),
        )

    @classmethod
    def read(cls, folder: Path, step: int) -> TrainingState:
        """The state of a run's last step, from its checkpoint.

        Raises:
            ConfigError: the run keeps no checkpoint of that step.
            CheckpointError: the checkpoint is damaged.
        """
        place = last_checkpoint(folder, step)
        saved = checkpoint.read_state(place)
        if "norm" not in saved:
            raise CheckpointError(
                f"after: {place} was written by an older version of posttrain, without the norm "
                "of its weights; go on by resume=True, or leave out after"
            )
        return cls(
            step=step,
            num_tokens=int(saved["num_tokens"]),
            norm=float(saved["norm"]),
            optimizer=torch.load(place / "optimizer.pt", weights_only=True),
            generators=torch.load(place / "rng_state.pth", weights_only=True),
        )

    def restore(self, model: ForestModel, optimizer: Any, *, fresh: bool = False) -> State:
        """Set optimiser and generators to this state; the steps and tokens to count on from.

        Args:
            fresh: leave the optimiser as it is, for weights that begin elsewhere.

        Raises:
            ConfigError: the model's trained weights are others than those that the fit left.
            CheckpointError: the optimiser trains other parameters.
        """
        checkpoint.restore_random_state(self.generators)
        if fresh:
            return State(self.step, self.num_tokens)
        norm = trained_norm(model)
        if not math.isclose(norm, self.norm, rel_tol=_TOLERANCE):
            raise ConfigError(
                f"after: the norm of the trained weights is {norm:.8g}, and the earlier fit left "
                f"{self.norm:.8g}; its optimiser's state belongs to its own weights. Give the "
                "model that it trained, or leave out after"
            )
        try:
            optimizer.load_state_dict(self.optimizer)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"after: the earlier fit's optimiser does not fit this plan's "
                f"({type(error).__name__}: {error}); leave out after"
            ) from error
        return State(self.step, self.num_tokens)


def last_checkpoint(folder: Path, step: int) -> Path:
    """The checkpoint of a run's last step.

    Raises:
        ConfigError: the run keeps none.
    """
    places = [folder, *folder.glob("round-*")]  # of a run, or of the rounds of a loop
    folders = [place / f"checkpoint-{step}" for place in places]
    folders = [path for path in folders if path in checkpoint.checkpoints(path.parent)]
    if not folders:
        raise ConfigError(
            f"after: {folder} keeps no checkpoint of its last step, {step}, which holds the "
            "optimiser's state; train it with save_final=True"
        )
    return folders[0]


def resumed(start: Start, source: Source, optimizer: Any) -> State:
    """Optimiser, source and generators as a checkpoint has them; the state to go on from.

    Raises:
        CheckpointError: the checkpoint is damaged, or its source is another one.
    """
    assert start.checkpoint is not None
    checkpoint.load_checkpoint(start.checkpoint, optimizer)
    try:
        source.load_state(start.saved["source"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{start.checkpoint} does not fit this recipe: its source holds other state "
            f"({type(error).__name__}: {error})"
        ) from error
    return State(start.step, start.saved["num_tokens"], str(start.checkpoint))
