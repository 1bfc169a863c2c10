"""Optional experiment trackers. None is used unless the recipe names it, and nothing is sent anywhere otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError, MissingDependency, nearest
from posttrain.training.hooks import Hook


class TensorBoard:
    """Event files in RUN/tensorboard."""

    def __init__(self, folder: Path) -> None:
        try:
            import tensorboard  # noqa: F401 (torch's writer fails late without it)
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingDependency("tensorboard", "tensorboard") from error
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Service:
    """A tracker with wandb's interface: init, log, finish."""

    def __init__(self, module: Any, folder: Path) -> None:
        self._module = module
        module.init(project="posttrain", name=folder.name)

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        self._module.log(metrics, step=step)

    def close(self) -> None:
        self._module.finish()


def _wandb(folder: Path) -> Hook:
    try:
        import wandb
    except ImportError as error:
        raise MissingDependency("wandb", "wandb") from error
    return _Service(wandb, folder)


def _trackio(folder: Path) -> Hook:
    try:
        import trackio
    except ImportError as error:
        raise MissingDependency("trackio", "trackio") from error
    return _Service(trackio, folder)


_TRACKERS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": _wandb, "trackio": _trackio}


def build_trackers(report_to: list[str], folder: Path) -> list[Hook]:
    """The trackers that a recipe's report_to names.

    Raises:
        ConfigError: an unknown name. MissingDependency: its library is not installed.
    """
    for name in report_to:
        if name not in _TRACKERS:
            raise ConfigError(f"report_to: unknown tracker {name!r}: {nearest(name, _TRACKERS)}")
    return [_TRACKERS[name](folder) for name in report_to]
