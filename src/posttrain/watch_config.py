"""What is watched for reward hacking, as plain settings. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from posttrain.typecheck import described

Exploit = Literal["empty", "repeated", "long", "echo", "markers", "placeholder"]
Alarm = Literal["gold_falls", "length", "format", "probes"]


@described("Watch")
@dataclass(frozen=True, slots=True)
class WatchConfig:
    """What is watched for reward hacking while a policy is trained on rewards.

    Attributes:
        gold: rewards that are really wanted. They are oracles: watched, never trained on.
        gold_every: steps between two looks at them.
        kl_every: steps between estimates of KL(policy || start); 0 is off. The weights of the start
            are then kept in memory.
        probe_every: steps between probes with known exploits; 0 is off.
        num_probe_prompts: prompts that are answered by each probe.
        probes: exploits that are tried.
        texts: further completions to try, of yours.
        window: steps whose means an alarm compares.
        max_growth: factor by which completions may grow since the first window.
        max_drop: by how much the share of completions with an answer may fall since then.
        stop_on: alarms that end the training.
        patience: how often in a row such an alarm has to be raised.
    """

    gold: list[Any] = field(default_factory=list)
    gold_every: int = 1
    kl_every: int = 0
    probe_every: int = 0
    num_probe_prompts: int = 8
    probes: list[Exploit] = field(
        default_factory=lambda: ["empty", "repeated", "long", "echo", "markers", "placeholder"]
    )
    texts: list[str] = field(default_factory=list)
    window: int = 10
    max_growth: float = 2.0
    max_drop: float = 0.2
    stop_on: list[Alarm] = field(default_factory=list)
    patience: int = 3
