"""What a training step costs: memory of a device, operations, bytes moved and seconds, predicted by
arithmetic. No weights are loaded.

Per step and device, with P weights of w bytes, N devices and S = N where everything is sharded,
else 1:

    memory     weights and gradients P w / S; moments, float32 copies and averages / S; activations
               of a micro-batch; logits of a chunk of targets; for sampling whole weights, and keys
               and values of the rows that decode side by side
    training   6 (tokens body + targets head) operations, 8 where layers are computed again, and
               attention, over rate x share_of_rate x N
    sampling   max(bytes of weights, keys and values / bandwidth, operations / rate) per token of
               each wave of rows
    traffic    sharded: weights gathered twice and gradients scattered once per micro-batch;
               replicated: gradients summed once per update; the whole weights once for sampling
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from posttrain.errors import ConfigError
from posttrain.training.devices import Device
from posttrain.training.shapes import Shape


@dataclass(frozen=True, slots=True)
class Workload:
    """What one step does, over all devices.

    Attributes:
        tokens: distinct tokens that are trained on. targets: of them.
        context: tokens that a token attends to, on average.
        micro_tokens: distinct tokens of a micro-batch, of one device.
        sampled_rows: completions that are sampled, 0 = none. prompt_tokens: of each distinct
            prompt. completion_tokens: of each completion. group: completions of a prompt.
        extra_passes: forward passes without gradient over the trained tokens (reference, teacher,
            old log-probs).
        frozen: whole frozen copies of the model in memory. critic: whether one is trained beside.
        updates: of the weights per step; passes: training passes over each token.
    """

    tokens: float
    targets: float
    context: float
    micro_tokens: int = 16384
    sampled_rows: int = 0
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    group: int = 1
    extra_passes: int = 0
    frozen: int = 0
    critic: bool = False
    updates: int = 1
    passes: int = 1


@dataclass(frozen=True, slots=True)
class Layout:
    """How a training is laid out.

    Attributes:
        devices: N. sharded: weights, gradients and states are split over all (FSDP2), else each
            device has all of them. trained: share of the weights that are trained (adapters).
        optimizer: name of the update rule. average: whether weights are averaged.
        checkpointing: whether layers are computed again in the backward pass.
        weight_bytes: of one weight, 2 or 4.
    """

    devices: int = 1
    sharded: bool = False
    trained: float = 1.0
    optimizer: str = "adamw"
    average: bool = False
    checkpointing: bool = False
    weight_bytes: int = 2


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step costs on one device.

    Attributes:
        memory: bytes by what holds them. seconds: by what takes them. traffic: bytes sent by a
            device. device: what it was computed for.
        breaks_first: what runs out first, or what takes most of the time.
    """

    memory: Mapping[str, float]
    seconds: Mapping[str, float]
    traffic: Mapping[str, float]
    device: Device
    breaks_first: str = field(default="")

    @property
    def peak(self) -> float:
        """Bytes at the worst moment: sampling and training do not overlap."""
        training, sampling = (
            sum(self.memory.get(name, 0.0) for name in names)
            for names in (_OF_TRAINING, _OF_SAMPLING)
        )
        transient = (*_OF_TRAINING, *_OF_SAMPLING)
        held = sum(value for name, value in self.memory.items() if name not in transient)
        return held + max(training, sampling)

    @property
    def step_seconds(self) -> float:
        """Of the whole step."""
        return sum(self.seconds.values())


_OF_TRAINING = ("gradients", "activations", "logits", "gathered layers")
_OF_SAMPLING = ("keys and values", "whole weights")

MAX_ROWS = 256
"""Rows that an engine decodes side by side by default."""

MOMENT_BYTES = {"adamw": 8.0, "adamw_8bit": 2 + 8 / 256, "muon": 4.0}
"""Bytes of moments per weight; Muon's are of hidden matrices, whose others have AdamW's."""


def predict(shape: Shape, work: Workload, layout: Layout, device: Device) -> Cost:
    """The cost of a step.

    Raises:
        ConfigError: a count is not positive.
    """
    if layout.devices < 1 or work.tokens <= 0:
        raise ConfigError(
            f"devices: {layout.devices} and the tokens of a step ({work.tokens:g}) must be above 0"
        )
    memory = _memory(shape, work, layout, device)
    traffic = _traffic(shape, work, layout)
    seconds = _seconds(shape, work, layout, device, traffic)
    cost = Cost(memory, seconds, traffic, device)
    return dataclasses.replace(cost, breaks_first=_first_limit(cost))


def _memory(shape: Shape, work: Workload, layout: Layout, device: Device) -> dict[str, float]:
    shards = layout.devices if layout.sharded else 1
    size, models = layout.weight_bytes, 1 + work.critic
    weights = shape.parameters * size * (models + work.frozen)
    trained = shape.parameters * layout.trained * models
    moments = MOMENT_BYTES[layout.optimizer]
    if layout.optimizer == "muon":
        share = shape.matrices / shape.parameters
        moments = share * moments + (1 - share) * MOMENT_BYTES["adamw"]
    copies = 4 * (size < 4) + 4 * layout.average
    micro = min(work.micro_tokens, work.tokens / layout.devices)
    layers = shape.activation_bytes(size)
    if layout.checkpointing:
        layers = layers / shape.layers + shape.layers * shape.hidden * size
    targets = micro * min(work.targets / work.tokens, 1.0)
    memory = {
        "weights": weights / shards,
        "gradients": trained * size / shards,
        "optimiser": trained * (moments + copies) / shards,
        "activations": micro * layers,
        "logits": _logit_bytes(shape, targets, size),
    }
    if layout.sharded and layout.devices > 1:
        largest = max(shape.head, shape.matrices / shape.layers)
        memory["gathered layers"] = 2 * largest * size
    if work.sampled_rows:
        rows = rows_side_by_side(shape, work, layout, device)
        memory["keys and values"] = rows * _row_tokens(work) * shape.kv_bytes(size)
        if layout.sharded and layout.devices > 1:
            memory["whole weights"] = shape.parameters * size
    return memory


def rows_side_by_side(shape: Shape, work: Workload, layout: Layout, device: Device) -> int:
    """Rows that decode at once on a device: its share, as far as the engine's bounds allow."""
    rows = math.ceil(work.sampled_rows / layout.devices)
    room = device.kv_bytes / (_row_tokens(work) * shape.kv_bytes(layout.weight_bytes))
    return max(1, min(rows, MAX_ROWS, int(room)))


def _row_tokens(work: Workload) -> float:
    """Tokens whose keys and values a row needs; prompts are held once for a group."""
    return work.completion_tokens + work.prompt_tokens / work.group


def _logit_bytes(shape: Shape, targets: float, size: int) -> float:
    """Of `models.logprobs`: two float32 tables of a chunk, and probabilities that are kept."""
    row = 4 * shape.vocab
    chunk, keep = (2**28, 2**31) if size == 2 else (max(2**23, 128 * row), 2**28)
    kept = targets * shape.vocab * size if targets * row <= keep else 0.0
    return 2 * min(chunk, targets * row) + kept


def _traffic(shape: Shape, work: Workload, layout: Layout) -> dict[str, float]:
    others = (layout.devices - 1) / layout.devices
    weights = shape.parameters * layout.weight_bytes * (1 + work.critic)
    trained = weights * layout.trained
    if layout.devices == 1:
        return {}
    if not layout.sharded:
        return {"gradients summed": 2 * trained * others * work.updates}
    whole = shape.parameters * layout.weight_bytes * others
    sampling = {"weights for sampling": whole} if work.sampled_rows else {}
    micros = _micro_batches(work, layout)
    frozen = shape.parameters * layout.weight_bytes * work.extra_passes
    return {
        "weights gathered": (2 * weights * work.passes + frozen) * others * micros,
        "gradients scattered": trained * others * micros * work.passes,
        **sampling,
    }


def _micro_batches(work: Workload, layout: Layout) -> int:
    return max(1, math.ceil(work.tokens / layout.devices / work.micro_tokens))


def _seconds(
    shape: Shape, work: Workload, layout: Layout, device: Device, traffic: Mapping[str, float]
) -> dict[str, float]:
    forward = shape.forward_operations(work.tokens, work.targets, work.context)
    per_pass = (3.0 if layout.trained == 1 else 2.0) + (1.0 if layout.checkpointing else 0.0)
    operations = forward * (per_pass * work.passes * (1 + work.critic) + work.extra_passes)
    rate = device.rate * device.share_of_rate * layout.devices
    compute = operations / rate
    link = device.link if layout.devices <= device.per_machine else device.network
    of_training = sum(v for k, v in traffic.items() if k != "weights for sampling")
    sending = of_training / link
    shards = layout.devices if layout.sharded else 1
    moments = MOMENT_BYTES[layout.optimizer] + 4 * layout.average + 4
    touched = shape.parameters * layout.trained * (1 + work.critic) / shards
    update = 2 * touched * (moments + layout.weight_bytes) * work.updates / device.bandwidth
    seconds = {"training": compute}
    # Gathering overlaps with computing; what is left of it is waited for.
    if sending > compute:
        seconds["waiting for others"] = sending - compute
    seconds["update"] = update / device.share_of_bandwidth
    if layout.optimizer == "muon":
        # Five steps of 4 m^2 n + 2 m^3 operations for a matrix [m, n], m <= n: whole matrices, so
        # that no device has less of it.
        seconds["update"] += _orthogonal_operations(shape) / (device.rate * device.share_of_rate)
    if work.sampled_rows:
        whole = traffic.get("weights for sampling", 0.0) / link
        seconds["sampling"] = whole + _sampling_seconds(shape, work, layout, device)
    return seconds


def _orthogonal_operations(shape: Shape) -> float:
    """Of Muon's five Newton-Schulz steps on the matrices of all layers."""
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    total = 0.0
    for count, other in ((2, q), (2, kv), (3, shape.inner)):
        m, n = sorted((shape.hidden, other))
        total += count * 5 * (4 * m * m * n + 2 * m**3)
    return shape.layers * total


def _sampling_seconds(shape: Shape, work: Workload, layout: Layout, device: Device) -> float:
    """Each device samples its share of the rows with whole weights; rows that end make room."""
    rows = rows_side_by_side(shape, work, layout, device)
    own = math.ceil(work.sampled_rows / layout.devices)
    waves, size = own / rows, layout.weight_bytes
    cached = rows * (work.completion_tokens / 2 + work.prompt_tokens / work.group)
    read = shape.parameters * size + cached * shape.kv_bytes(size)
    context = work.prompt_tokens + work.completion_tokens / 2
    operations = rows * shape.forward_operations(1, 1, context)
    step = max(
        read / (device.bandwidth * device.share_of_bandwidth),
        operations / (device.rate * device.share_of_rate),
    )
    step += shape.layers * device.start_seconds
    prompts = own / work.group
    prefill = prompts * shape.forward_operations(work.prompt_tokens, 1, work.prompt_tokens / 2)
    return waves * work.completion_tokens * step + prefill / (device.rate * device.share_of_rate)


def _first_limit(cost: Cost) -> str:
    """What runs out first, or what takes most of the time."""
    if cost.peak > cost.device.memory:
        largest = max(cost.memory, key=lambda name: cost.memory[name])
        share = cost.peak / cost.device.memory
        return f"memory: {share:.1f} times what there is, most of it {largest}"
    largest = max(cost.seconds, key=lambda name: cost.seconds[name])
    return f"time: {cost.seconds[largest] / cost.step_seconds:.0%} is {largest}"
