"""The attention of decoding steps that can be recorded as a CUDA graph (`kernels.graphs`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from posttrain.engines.decode import DecodePlan
from posttrain.models.prefixed_attention import KeyValues

_WIDTH = 64  # columns by which a recorded step is too wide at most


class SteadyPlan(DecodePlan):
    """A plan whose steps are the same operators on the same memory as long as `shape` is equal."""

    _step = _WIDTH

    def __init__(
        self,
        prompts: list[KeyValues],
        prompt_of: Tensor,
        capacity: Tensor,
        own: Sequence[KeyValues | None] = (),
    ) -> None:
        self._num_arranged = 0
        super().__init__(prompts, prompt_of, capacity, own)
        self._has_kernel = False

    @property
    def shape(self) -> tuple[int, int]:
        """How often rows have come or left; columns attended to."""
        return self._num_arranged, self._width

    @property
    def dtype(self) -> torch.dtype:
        """Of keys and values."""
        return self._prompts[0][0].dtype

    def _arrange(self) -> None:
        super()._arrange()
        self._num_arranged += 1

    def _measure(self) -> None:
        super()._measure()
        # A recording cannot depend on whether rows have written equally much.
        self._level = False
