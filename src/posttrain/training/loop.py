"""The one training loop. SFT, GRPO and every other method are a source, an objective and hooks
around it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from posttrain.averages import Averages
from posttrain.data.forest import Batch, Forest
from posttrain.errors import TrainingDiverged
from posttrain.models.program import whole_weights
from posttrain.sources.rows import Source
from posttrain.training.hooks import Hook
from posttrain.training.idle import idle_metrics
from posttrain.training.objective import Objective
from posttrain.training.optim import Optimizer
from posttrain.training.sharded import empty_passes, is_in_shares, passes_behind
from posttrain.world import World

_ALONE = World.alone()


@dataclass(slots=True)
class State:
    """Where a run stands: steps done, tokens of their sequences, and the last checkpoint that
    is known to be good.
    """

    step: int = 0
    num_tokens: int = 0
    last_checkpoint: str = "none was saved"
    stop: bool = False

    def agree(self, world: World) -> bool:
        """Whether any process is to stop; then all of them are."""
        stop = world.any(self.stop)
        # A signal may have come since: it counts at the next call, for all processes at once.
        self.stop = self.stop or stop
        return stop


def train(
    model: Any,
    source: Source,
    objective: Objective,
    optimizer: Optimizer,
    hooks: Sequence[Hook],
    state: State,
    *,
    steps: int,
    max_tokens: int,
    rules: Sequence[Callable[[int], Averages]] = (),
    world: World = _ALONE,
) -> State:
    """Run from `state.step` to `steps`; hooks are called with the number of steps done and the
    step's metrics.

    Args:
        max_tokens: distinct tokens that a micro-batch may hold. It sets memory, never the result.
        rules: each is called with the step before the gradient is clipped, and may change it.
        world: the processes that train together. The source gives each of them the same batch, of
        which it computes a share. All make the same update.
    Raises:
        TrainingDiverged: a loss or gradient is NaN or infinite, in any process. The weights are
        left as they were before that step.
    """
    for step in range(state.step, steps):
        meter = _Meter(state)
        for batch in source.batches(step):
            totals = objective.denominators(batch)
            share = batch.share(world.rank, world.size)
            micros = share.split(max_tokens, share_trunks=not is_in_shares(model))
            behind = passes_behind(model, len(micros), world)
            for micro in micros:
                micro = micro.to(model.device)
                outputs = model.forward(micro, objective.needs, temperature=objective.temperature)
                loss, metrics = objective(outputs, micro, totals)
                model.backward(loss, micro)
                meter.micro(loss, metrics, micro)
            empty_passes(model, objective, batch, behind)
            with whole_weights(model if batch.idle else None):
                meter.add(idle_metrics(model, objective, share, totals, max_tokens))
            meter.gather(world)
            world.sum_gradients(model.trainable_parameters())
            meter.add(optimizer.penalize())
            for rule in rules:
                meter.add(rule(step))
            meter.check(batch, optimizer.clip_gradients())
            optimizer.step(step, batch)
        source.updated(model)
        state.step = step + 1
        metrics_of_step = meter.finish(source, optimizer.rate(step))
        for hook in hooks:
            hook(state.step, metrics_of_step)
        if state.agree(world):
            break
    return state


class _Meter:
    """Collects a step's metrics and refuses a step whose loss or gradient is not finite."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.averages = Averages()
        self.of_batch = Averages()
        self.micros: list[tuple[Tensor | float, list[str]]] = []
        self.started = time.perf_counter()
        self.tokens_before = state.num_tokens

    def micro(self, loss: Tensor, metrics: Averages, micro: Forest) -> None:
        """Count a micro-batch."""
        self.of_batch.merge(metrics)
        self.micros.append((loss.detach(), micro.rows))

    def add(self, metrics: Averages) -> None:
        """Count what belongs to the update and is of no micro-batch."""
        self.of_batch.merge(metrics)

    def gather(self, world: World) -> None:
        """Count what the other processes have counted of this batch."""
        if world.size == 1:
            return
        losses = [(float(loss), rows) for loss, rows in self.micros]
        shares = world.gather((self.of_batch, losses))
        self.of_batch, self.micros = Averages(), []
        for metrics, of_share in shares:
            self.of_batch.merge(metrics)
            self.micros += of_share

    def check(self, batch: Batch, grad_norm: float) -> None:
        """Count a batch, and refuse to update weights from a loss or gradient that is not
        finite.
        """
        bad = [row for loss, rows in self.micros if not math.isfinite(float(loss)) for row in rows]
        if bad or not math.isfinite(grad_norm):
            what = "the loss is NaN or infinite" if bad else f"the gradient norm is {grad_norm}"
            rows = bad or batch.rows
            shown = ", ".join(rows[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
            raise TrainingDiverged(
                f"step {self.state.step + 1}: {what}. Rows of the batch: {shown}. Last good "
                "checkpoint: "
                f"{self.state.last_checkpoint}. Lower learning_rate or max_grad_norm, or look at "
                "these rows."
            )
        self.averages.update({"grad_norm": grad_norm})
        # Shares of a loss add up over the micro-batches of an update; of several updates the mean
        # is reported.
        self.of_batch.settle()
        self.averages.merge(self.of_batch)
        self.of_batch = Averages()
        self.state.num_tokens += (
            batch.num_unshared_tokens
        )  # as others count, whatever sharing has spared
        self.micros = []

    def finish(self, source: Source, learning_rate: float) -> dict[str, float]:
        """All metrics of the step."""
        self.averages.merge(source.metrics())
        seconds = time.perf_counter() - self.started
        tokens = self.state.num_tokens - self.tokens_before
        return {
            **self.averages.means(),
            "learning_rate": learning_rate,
            "num_tokens": float(self.state.num_tokens),
            "step_time": seconds,
            "tokens_per_second": tokens / seconds if seconds else 0.0,
        }
