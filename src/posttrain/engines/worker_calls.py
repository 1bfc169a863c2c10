"""What a trainer says to the process that samples for it."""

from __future__ import annotations

from dataclasses import dataclass

from posttrain.engines.shared_weights import Place
from posttrain.model_config import ModelConfig
from posttrain.types import Request


@dataclass(frozen=True, slots=True)
class Start:
    """What the process is made from.

    Attributes:
        folder: of the model. origin: how the trainer's was loaded, None where that is unknown.
        device: of the model. num_threads: of torch. switches: of `kernels.setup`.
        places: of the parameters in the block `descriptor`. version: of the weights.
    """

    folder: str
    origin: ModelConfig | None
    device: str
    num_threads: int
    switches: dict[str, bool]
    places: list[Place]
    descriptor: int
    version: int


@dataclass(frozen=True, slots=True)
class News:
    """What a request has written since the last answer: one item of `OnTokens` or `OnLogprobs`."""

    ticket: int
    index: int
    ids: list[int]
    logprobs: list[float] | None


@dataclass(frozen=True, slots=True)
class Opened:
    """A request with the trainer's number for it, and what it wants to hear."""

    ticket: int
    request: Request
    tokens: bool = False
    logprobs: bool = False
