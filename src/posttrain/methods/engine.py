"""From what a method is given as its engine to the engine that samples."""

from __future__ import annotations

from pathlib import Path

from posttrain.config import EngineLike, OverlapConfig, ServedConfig
from posttrain.engine_config import check_engine
from posttrain.engines.base import Closing, Engine
from posttrain.engines.launch import check_launch
from posttrain.engines.pool import EnginePool
from posttrain.engines.process import ProcessEngine
from posttrain.engines.servers import open_servers
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.models.spec import ModelSpec
from posttrain.terminal import echo
from posttrain.training.plan import Facts
from posttrain.types import Sampling
from posttrain.world import World

_ALONE = World.alone()


class RolloutEngine:
    """The engine of a method: chosen and checked with its plan, opened when there are weights.

    Args:
        config: "embedded" for the trained model itself, or servers.
        overlap: with it the embedded engine is in a process of its own.

    Raises:
        ConfigError: settings that cannot be; see `check_engine`, `check_launch`.
    """

    def __init__(self, config: EngineLike, overlap: OverlapConfig | None = None) -> None:
        check_engine(config)
        if isinstance(config, ServedConfig) and config.launch is not None:
            check_launch(config.launch)
        self.config, self.overlap = config, overlap
        self._opened: list[Closing] = []

    def check(self, spec: ModelSpec) -> None:
        """Refuse a way of weights that does not fit the model.

        Raises:
            ConfigError: names the setting.
        """
        if not isinstance(self.config, ServedConfig):
            return
        sync = self.config.sync
        if sync == "adapter" and not spec.has_adapters:
            raise ConfigError(
                "engine.sync: adapter sends LoRA adapters alone, and the model has none; take "
                "sync: disk, or set model.lora"
            )
        if sync in ("disk", "nccl") and spec.has_adapters:
            raise ConfigError(
                f"engine.sync: {sync} sends whole models, and this one trains adapters; take "
                "sync: adapter"
            )

    @property
    def is_served(self) -> bool:
        """Whether servers sample. Of several processes the main one alone is connected to them."""
        return isinstance(self.config, ServedConfig)

    def open(
        self,
        model: LanguageModel,
        sampling: Sampling,
        folder: Path | None,
        world: World = _ALONE,
    ) -> Engine:
        """The engine for a model with weights. folder: of the run. world: its processes."""
        engine: EnginePool | ProcessEngine
        config = self.config
        if isinstance(config, ServedConfig) and world.is_main:
            engine = open_servers(config, model, sampling=sampling, folder=folder, notice=_notice)
        elif self.overlap is not None and not self.is_served:
            engine = ProcessEngine(model, num_threads=self.overlap.num_threads)
        else:
            return TorchEngine(model)
        self._opened.append(engine)
        return engine

    def close(self) -> None:
        """End what was opened."""
        while self._opened:
            self._opened.pop().close()

    def facts(self) -> Facts:
        """What a check shows; nothing of the embedded engine."""
        config = self.config
        if not isinstance(config, ServedConfig):
            return []
        if config.launch is not None:
            count = config.launch.num_servers
            where = f"{count} {'server' if count == 1 else 'servers'} of {config.launch.python}"
        else:
            where = ", ".join(config.urls)
        return [("engine", f"{where} ({config.protocol}), weights by {config.sync}")]


def _notice(text: str) -> None:
    echo(text, error=True)
