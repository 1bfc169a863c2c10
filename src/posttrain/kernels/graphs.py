"""Decoding steps that are recorded once as a CUDA graph and then replayed.

A step of a small model on a GPU takes longer to start, operator by operator, than to compute. A
CUDA graph starts all of them at once, but repeats exactly what was recorded: the same operators on
the same memory. So a step that is to be recorded

  * reads lengths, places and tokens from tensors, and no number that the host knows and that
    changes from step to step;
  * writes each row's keys and values where `written` [R] says, into buffers that stay in place;
  * attends over W columns of them, a multiple of 64, and hides those that a row has not written.

Rows that come or leave and a W that has become too small make a new recording necessary. It costs
some steps, so that it is made once the same rows have run for a few; and the first one is compared
with the step that it replaces.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from posttrain.kernels.agreement import bound_of, relative_error

_PAYS = 4  # steps of the same rows after which a recording, which costs some steps itself, is made
_COMPARED = 16  # rows whose logits are compared: all of them in float64 would be gigabytes

Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
"""Takes a function that computes on tensors in place; gives what repeats it, and the tensor
that the repetition fills.
"""


class Recordable(Protocol):
    """The attention of a decoding step that can be recorded.

    shape: as long as it is equal, a step is the same operators on the same memory. dtype: of keys
    and values.
    """

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def forget_masks(self) -> None:
        """Make what rows must not see anew when it is next needed."""
        ...


class StepGraphs:
    """Repeats a decoding step from a recording where there is one.

    Args:
        record: makes recordings.
    Attributes:
        why_not: why steps are no longer recorded, None where they are. recorded, replayed: how
        many.
    """

    def __init__(self, record: Recorder) -> None:
        self.why_not: str | None = None
        self.recorded = self.replayed = 0
        self._record = record
        self.release()

    def release(self) -> None:
        """Forget the recording and the memory that it holds."""
        self._of: tuple[Recordable, tuple[int, int]] | None = None
        self._steps = 0
        self._replay: Callable[[], None] | None = None
        self._tokens = self._output = torch.empty(0)

    def step(self, compute: Callable[[Tensor], Tensor], tokens: Tensor, plan: Recordable) -> Tensor:
        """compute(tokens [R]), logits [R, V], which the next step may write over. It reads `tokens`
        and `plan`, and writes to the plan's buffers alone."""
        if self.why_not is not None:
            return compute(tokens)
        if self._of is None or self._of[0] is not plan or self._of[1] != plan.shape:
            # The first steps with rows that have come or left run as they are: buffers are made,
            # and kernels are chosen.
            self.release()
            self._of = plan, plan.shape
        self._steps += 1
        if self._steps < _PAYS:
            return compute(tokens)
        if self._replay is None:
            return self._recording(compute, tokens, plan)
        self._tokens.copy_(tokens)
        self._replay()
        self.replayed += 1
        return self._output

    def _recording(
        self, compute: Callable[[Tensor], Tensor], tokens: Tensor, plan: Recordable
    ) -> Tensor:
        self._tokens = tokens.clone()
        expected = compute(self._tokens) if not self.recorded else None
        plan.forget_masks()  # they are part of what is recorded
        try:
            replay, output = self._record(lambda: compute(self._tokens))
            if expected is not None:
                # NaN, so that a recording that computes nothing does not pass.
                output[:_COMPARED] = torch.nan
            replay()
            if expected is not None:
                error = relative_error(output[:_COMPARED], expected[:_COMPARED])
                if not error <= bound_of(plan.dtype):
                    self.why_not = "a recorded step gives other logits than the step itself"
        except Exception as failure:  # a foreign model may do anything that cannot be recorded
            # The end of a recording complains about what went wrong within it.
            cause = failure.__context__ or failure
            self.why_not = f"{type(cause).__name__}: {str(cause).partition(chr(10))[0]}"
        plan.forget_masks()  # these lie in the recording's memory
        if self.why_not is not None:
            warnings.warn(
                f"decoding steps run one by one and not from a recording: {self.why_not}",
                stacklevel=2,
            )
            self.release()
            return compute(tokens)
        self._replay, self._output = replay, output
        self.recorded += 1
        return output


class CudaRecorder:
    """Records CUDA graphs of work on one device. Each has memory of its own: no pool is shared
    with graphs that are gone.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        # A graph is recorded on the current device, whatever device the tensors are on.
        with torch.cuda.device(self._device):
            self._stream = self._stream or torch.cuda.Stream(self._device)
            current = torch.cuda.current_stream(self._device)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, stream=self._stream):
                    output = work()
            finally:
                # A recording that fails leaves its own stream behind.
                torch.cuda.set_stream(current)
        return graph.replay, output
