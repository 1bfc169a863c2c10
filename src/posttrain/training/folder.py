"""A run's folder: its recipe, and whether what it holds may be gone on with."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from posttrain.errors import CheckpointError, ConfigError
from posttrain.terminal import visible, write
from posttrain.training import checkpoint, resume
from posttrain.training.caller import Caller
from posttrain.training.changes import Change, check_accepted, recipe_changes
from posttrain.training.lock import locked
from posttrain.training.resume import IN_PYTHON
from posttrain.world import World

_ALONE = World.alone()


class RunFolder:
    """The folder that a run writes to. Of several processes the main one writes and prints.

    Args:
        path: the folder. record: the run's recipe as plain values.
        command: what started the run; the first line of recipe.yaml.
        resume: go on with what the folder holds.
        accept: names of changes since the checkpoint that a resume may make
            (see `training.changes`).
        plugins: files of the user's functions.
        temporary: whether the folder is removed after the work, so that no path in it is named.
        world: the processes of the run.
        before_open: is called just before the first write; a pipeline opens its own folder then.
    """

    def __init__(
        self,
        path: Path,
        record: Mapping[str, Any],
        *,
        command: str = "",
        resume: bool = False,
        accept: Collection[str] = (),
        plugins: Sequence[Path] = (),
        console: Console | None = None,
        seed: int = 0,
        temporary: bool = False,
        world: World = _ALONE,
    ) -> None:
        check_accepted(accept)
        self.path = path
        self.record = plain(record)
        self.caller = Caller(python=IN_PYTHON in record)
        self.command = command
        self.resume = resume
        self.accept = accept
        self.plugins = plugins
        self.console = console or Console()
        self.seed = seed
        self.temporary = temporary
        self.world = world
        self.before_open: Callable[[], None] = lambda: None

    @property
    def holds_run(self) -> bool:
        """Whether a run has been started here."""
        return (self.path / "recipe.yaml").exists()

    def refuse_existing(self) -> None:
        """Refuse to start a run where there is one.

        Raises:
            ConfigError: the folder holds a run that is not resumed.
        """
        if self.world.is_main and not self.resume and self.holds_run:
            raise ConfigError(
                f"output: {self.path} already holds a run. Go on with it by "
                f"`{self.caller.resume(self.path)}`, choose another output, or remove the folder"
            )

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Within it no other run works in the folder."""
        return locked(self.path) if self.world.is_main else contextlib.nullcontext()

    def open(self) -> None:
        """Make the folder with the resolved recipe in it."""
        if not self.world.is_main:
            return
        self.refuse_existing()
        self.before_open()
        self.path.mkdir(parents=True, exist_ok=True)
        checkpoint.remove_partial(self.path)
        values = {**self.record, "output": str(self.path)}
        if self.plugins:
            values["plugins"] = [str(p) for p in self.plugins]
        text = f"# {visible(self.command)}\n{yaml.safe_dump(values, sort_keys=False)}"
        checkpoint.write_text_whole(self.path / "recipe.yaml", text)

    def open_at(self, start: resume.Start, steps: int) -> None:
        """Make the folder, or go on in it: what training would overwrite moves aside."""
        if self.resume and self.world.is_main:
            self.write(*resume.announced(start, steps))
            self.before_open()
            resume.set_aside(start)
        self.open()

    def written(self, name: str) -> str:
        """ " written to" a file of the folder, or nothing where the folder does not stay."""
        return "" if self.temporary else f" written to {self.path / name}"

    def go_on(self, steps: int, *, after: bool = False) -> str:
        """The call that goes on with the run. A recipe knows its length.

        Args:
            steps: its length. after: whether it goes on from an earlier result.
        """
        length = str(steps) if self.caller.python else ""
        return self.caller.resume(self.path, steps=length, after=after)

    def changes(self) -> list[Change]:
        """The keys that differ from the recipe that the folder holds."""
        before = resume.recorded_recipe(self.path)
        return [c for c in recipe_changes(before, self.record) if c.name != "output"]

    def refuse_other_recipe(self) -> None:
        """Refuse to go on with another recipe where rows are made part by part, or measured.

        Raises:
            CheckpointError: lists the keys that differ.
        """
        # Content is not fingerprinted here, so another path may mean other rows or another model.
        refused = [
            c for c in self.changes() if c.rule not in ("free", "rounding") and c.name != "plugins"
        ]
        measured = [c for c in self.changes() if c.name.startswith("evaluation")]
        if refused or measured:
            lines = "".join(f"\n  {c.text}" for c in refused or measured)
            raise CheckpointError(
                f"{self.path} was begun with another recipe, and what is there would not fit the "
                f"rest:{lines}\nStart a new run with another output=..."
            )

    def start(self) -> resume.Start:
        """Where to start from, with changes of the recipe that need no weights refused already.

        Raises:
            CheckpointError: there is no run, no readable checkpoint, or a change is refused.
        """
        return self.world.from_main(self._start)

    def _start(self) -> resume.Start:
        if not self.resume:
            return resume.Start(self.path, caller=self.caller)
        if not self.holds_run:
            raise CheckpointError(f"{self.path} holds no run; start it anew")
        start = resume.find_start(self.path, self.caller)
        if start.checkpoint is not None or start.has_model:
            start.changes = resume.changes_since(start, self.record)
            start.refuse(self.accept)
        return start

    def write(self, *lines: str, style: str = "") -> None:
        """Print lines."""
        for line in lines if self.world.is_main else ():
            write(self.console, line, style=style)


def plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(record, default=str))
    return values
