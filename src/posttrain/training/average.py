"""The moving average of trained weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from posttrain.errors import CheckpointError


class WeightAverage:
    """The exponential moving average of trained weights (Polyak and Juditsky 1992; as in Tarvainen
    and Valpola 2017, arXiv 1703.01780), which begins at the weights of the start:

        average <- decay average + (1 - decay) weights        after each update

    Training never reads it. `exchange` puts it in the place of the weights for a measurement or
    for saving, tensor by tensor, without a second copy of the model.

    Args:
        parameters: of the model. masters: their float32 copies; a parameter that has none stands
            for itself. The average is of these.
        decay: at least 0 and below 1; the average is over about 1 / (1 - decay) updates.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], masters: Sequence[Tensor], decay: float
    ) -> None:
        self.parameters, self.masters, self.decay = parameters, masters, decay
        self.values = [master.detach().clone() for master in masters]
        self.is_applied = False

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        if self.values:
            masters = [master.detach() for master in self.masters]
            torch._foreach_lerp_(self.values, masters, 1 - self.decay)

    @torch.no_grad()
    def exchange(self) -> None:
        """Put the average in the place of the model's weights, or the weights back, exactly."""
        for parameter, master, value in zip(
            self.parameters, self.masters, self.values, strict=True
        ):
            if master is not parameter:  # the copy keeps the weights
                parameter.copy_(master if self.is_applied else value)
                continue
            aside = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(aside)
        self.is_applied = not self.is_applied

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the model's weights are the average."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    def state_dict(self) -> dict[int, Tensor]:
        """The average by the places of the parameters."""
        return dict(enumerate(self.values))

    @torch.no_grad()
    def load_state_dict(self, state: dict[int, Tensor]) -> None:
        """Restore the average. Without one in the state it begins at the weights as they are now.

        Raises:
            CheckpointError: the state averages other parameters.
        """
        if state and [v.shape for v in state.values()] != [v.shape for v in self.values]:
            raise CheckpointError(
                f"the checkpoint averages {len(state)} parameters, this run {len(self.values)} of "
                "other shapes; start a new run"
            )
        for place, value in enumerate(self.values):
            value.copy_(state[place] if state else self.masters[place].detach())
