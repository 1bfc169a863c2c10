"""Optional experiment trackers. None is used unless the recipe names it; otherwise nothing leaves
the machine.
"""

from __future__ import annotations

import math
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from posttrain.errors import ConfigError, MissingDependency, nearest
from posttrain.training.hooks import Hook


class TensorBoard:
    """Event files in RUN/tensorboard, for `tensorboard --logdir`."""

    def __init__(self, folder: Path) -> None:
        try:
            import tensorboard  # noqa: F401 (without it torch's writer fails only when it writes)
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingDependency("tensorboard", "tensorboard") from error
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class Service:
    """A tracker with Weights & Biases' interface: init, log, finish.

    The run is named after its folder (for a stage of a pipeline PIPELINE/STAGE). Its config is the
    resolved recipe. The library reads its own environment variables, such as those for offline
    mode.
    """

    def __init__(self, module: Any, folder: Path) -> None:
        self._module = module
        stage = (folder.parent / "recipe.yaml").is_file()
        name = f"{folder.parent.name}/{folder.name}" if stage else folder.name
        recipe = folder / "recipe.yaml"
        config = yaml.safe_load(recipe.read_text(encoding="utf-8")) if recipe.is_file() else {}
        module.init(project="posttrain", name=name, config=config)

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        self._module.log({k: v for k, v in metrics.items() if math.isfinite(v)}, step=step)

    def close(self) -> None:
        self._module.finish()


def _wandb(folder: Path) -> Hook:
    try:
        import wandb
    except ImportError as error:
        raise MissingDependency("wandb", "wandb") from error
    return Service(wandb, folder)


def _trackio(folder: Path) -> Hook:
    try:
        import trackio
    except ImportError as error:
        raise MissingDependency("trackio", "trackio") from error
    return Service(trackio, folder)


_TRACKERS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": _wandb, "trackio": _trackio}


def check_trackers(report_to: list[str]) -> None:
    """Check that every tracker exists and that its library is installed, without importing it.

    Raises:
        ConfigError: a name is unknown. MissingDependency: a library is not installed.
    """
    for name in report_to:
        if name not in _TRACKERS and name != "none":
            raise ConfigError(
                f"report_to: unknown tracker {name!r}: {nearest(name, [*_TRACKERS, 'none'])}"
            )
        if name != "none" and name not in sys.modules and find_spec(name) is None:
            raise MissingDependency(name, name)


def build_trackers(report_to: list[str], folder: Path) -> list[Hook]:
    """The trackers named in report_to, each once; "none" stands for no tracker.

    Raises:
        ConfigError, MissingDependency: see `check_trackers`.
    """
    check_trackers(report_to)
    return [_TRACKERS[name](folder) for name in dict.fromkeys(report_to) if name != "none"]
