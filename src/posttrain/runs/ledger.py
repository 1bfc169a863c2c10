"""The forgetting ledger of a recipe: old abilities before and after its training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from posttrain.config import ForgettingConfig, ModelConfig
from posttrain.methods.forgetting import forgetting
from posttrain.methods.measurement import measuring_of
from posttrain.models.named import NamedModel
from posttrain.runs.calls import Call
from posttrain.terminal import write
from posttrain.training.folder import RunFolder
from posttrain.world import World

FILE = "forgetting.json"


class Run(Protocol):
    """What of a run the ledger needs."""

    call: Call
    console: Console
    world: World
    run_folder: RunFolder

    @property
    def folder(self) -> Path:
        """Where it writes."""
        ...


class Ledger:
    """Suites of old abilities, checked before the training and measured after it.

    Raises:
        ConfigError, DataError: a suite that cannot be measured.
    """

    def __init__(self, run: Run, config: ForgettingConfig) -> None:
        self.run, self.config = run, run.call.forgetting_of(config)
        spec = run.call.trained_model
        # The model of the start is the one below fresh adapters, in its full precision.
        plain = replace(spec.config, lora=None, adapter=None, quantization="none")
        self.before = NamedModel(plain, seed=spec.seed, notice=spec.notice)
        place = run.run_folder
        old = place.changes() if place.resume and place.holds_run else []
        self.changed = any(change.name.startswith("forgetting") for change in old)
        options: dict[str, Any] = {"num_examples": config.num_examples, "limits": run.call.limits}
        for task in (*self.config.old, *([self.config.new] if self.config.new else [])):
            measuring_of(self.before, task, **options)

    @property
    def text(self) -> str:
        """The suites, as a check shows them."""
        config = self.config
        names = [task.name for task in config.old] + list(config.rows)
        new = "" if config.new is None else f"; new: {config.new.name}"
        return f"{', '.join(names)}, before and after{new}"

    def measure(self) -> None:
        """Write forgetting.json and print the ledger, unless this one is there."""
        run, config = self.run, self.config
        file = run.folder / FILE
        if not run.world.is_main or (file.is_file() and not self.changed):
            return
        dtype, device = self.before.config.dtype, self.before.config.device
        after = ModelConfig(str(run.folder / "model"), dtype=dtype, device=device)
        ledger = forgetting(
            self.before,
            after,
            old=config.old,
            rows=config.rows,
            new=config.new,
            num_examples=config.num_examples,
            num_samples=config.num_samples,
            num_prompts=config.num_prompts,
            sampling=config.sampling,
            seed=config.seed,
            limits=run.call.limits,
            console=run.console,
            output=file,
        )
        write(run.console, str(ledger))
