"""Decoding steps that are recorded once as a CUDA graph and then replayed.

A step of a small model on a GPU takes longer to start, operator by operator, than to compute. A
CUDA graph starts all of them at once, but repeats exactly what was recorded: the same operators on
the same memory. So a step that is to be recorded

    reads lengths, places and tokens from tensors, and no number that the host knows and that
    changes from step to step, writes each row's keys and values where `written` [R] says, into
    buffers that stay where they are, attends over W columns of them, a multiple of 64, and hides
    what a row has not come to.

Rows that come or leave and a W that has become too small make a new recording necessary. It costs
some steps, so that it is made once the same rows have run for a few; and the first one is compared
with the step that it replaces.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from posttrain.engines.decode import DecodePlan, KeyValues
from posttrain.models.forest_model import BOUNDS, relative_error

_WIDTH = 64  # columns by which a recorded step is too wide at most
_PAYS = 4  # steps of the same rows after which a recording, which costs some steps itself, is made
_COMPARED = 16  # rows whose logits are compared: all of them in float64 would be gigabytes

Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
"""Takes a function that computes on tensors in place; gives what repeats it, and the tensor
that the repetition fills.
"""


class SteadyPlan(DecodePlan):
    """A plan whose steps are the same operators on the same memory as long as `shape` is the
    same.
    """

    _step = _WIDTH

    def __init__(self, prompts: list[KeyValues], prompt_of: Tensor, capacity: Tensor) -> None:
        self._arranged = 0
        super().__init__(prompts, prompt_of, capacity)
        self._has_kernel = False

    @property
    def shape(self) -> tuple[int, int]:
        """How often rows have come or left; columns attended to."""
        return self._arranged, self._width

    @property
    def dtype(self) -> torch.dtype:
        """Of keys and values."""
        return self._prompts[0][0].dtype

    def _arrange(self) -> None:
        super()._arrange()
        self._arranged += 1

    def _measure(self) -> None:
        super()._measure()
        self._level = (
            False  # whether rows have written equally much is not to be known by a recording
        )


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
        self._of: tuple[SteadyPlan, tuple[int, int]] | None = None
        self._steps = 0
        self._replay: Callable[[], None] | None = None
        self._tokens = self._found = torch.empty(0)

    def step(self, compute: Callable[[Tensor], Tensor], tokens: Tensor, plan: SteadyPlan) -> Tensor:
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
        return self._found

    def _recording(
        self, compute: Callable[[Tensor], Tensor], tokens: Tensor, plan: SteadyPlan
    ) -> Tensor:
        self._tokens = tokens.clone()
        expected = compute(self._tokens) if not self.recorded else None
        plan.forget_masks()  # they are part of what is recorded
        try:
            replay, found = self._record(lambda: compute(self._tokens))
            if expected is not None:
                found[:_COMPARED] = (
                    torch.nan
                )  # so that a recording that computes nothing is found out
            replay()
            bound = BOUNDS.get(plan.dtype, 5e-2)
            if (
                expected is not None
                and not relative_error(found[:_COMPARED], expected[:_COMPARED]) <= bound
            ):
                self.why_not = "a recorded step gives other logits than the step itself"
        except (
            Exception
        ) as error:  # whatever a foreign model does that cannot be recorded is the answer
            cause = (
                error.__context__ or error
            )  # the end of a recording complains of what went wrong within it
            self.why_not = f"{type(cause).__name__}: {str(cause).partition(chr(10))[0]}"
        plan.forget_masks()  # these lie in the recording's memory
        if self.why_not is not None:
            warnings.warn(
                f"decoding steps run one by one and not from a recording: {self.why_not}",
                stacklevel=2,
            )
            self.release()
            return compute(tokens)
        self._replay, self._found = replay, found
        self.recorded += 1
        return found


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
                    found = work()
            finally:
                torch.cuda.set_stream(
                    current
                )  # a recording that fails leaves its own stream behind
        return graph.replay, found
