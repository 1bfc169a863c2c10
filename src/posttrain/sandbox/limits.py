"""What a program in the sandbox may use."""

from __future__ import annotations

import math
from dataclasses import dataclass

from posttrain.errors import ConfigError

_MAX_OUTPUT = 16 << 20
_LEAST_MEMORY = 64 << 20


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Limits of one program.

    Attributes:
        seconds: processor time. A machine that is busy with other things gives a program four times
            as long by the clock on the wall (`wall_seconds`), so that verdicts depend on it less.
        memory_bytes: address space.
        output_bytes: most that it writes to standard output, and to standard error; more ends it.
        file_bytes: all files in its folder together.
    Raises:
        ConfigError: a limit that no program can keep.
    """

    seconds: float = 5.0
    memory_bytes: int = 512 << 20
    output_bytes: int = 1 << 20
    file_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise ConfigError(f"sandbox: seconds {self.seconds} must be above 0")
        if self.memory_bytes < _LEAST_MEMORY:
            raise ConfigError(
                f"sandbox: memory_bytes {self.memory_bytes} is less than the interpreter needs; "
                f"give at least {_LEAST_MEMORY}"
            )
        if not 0 < self.output_bytes <= _MAX_OUTPUT:
            raise ConfigError(
                f"sandbox: output_bytes {self.output_bytes} must be from 1 to {_MAX_OUTPUT}"
            )
        if self.file_bytes < 1:
            raise ConfigError(f"sandbox: file_bytes {self.file_bytes} must be at least 1")

    @property
    def wall_seconds(self) -> float:
        """Most time from start to end, waiting included."""
        return 4 * self.seconds

    @classmethod
    def of(cls, seconds: float, memory_mb: int) -> SandboxLimits:
        """Limits of the settings that rewards and tasks have."""
        return cls(seconds=seconds, memory_bytes=memory_mb << 20)
