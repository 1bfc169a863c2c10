"""How a run is gone on with, in the words of whoever started it: the shell or Python."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Caller:
    """Who started a run.

    Attributes:
        python: `pt.fit` in a script or notebook; else a command of the shell.

    >>> Caller(python=True).resume(Path("runs/a"))
    "pt.fit(model, plan, output='runs/a', resume=True)"
    >>> Caller().resume(Path("runs/a"), accept=["max_steps"])
    'posttrain resume runs/a --accept max_steps'
    """

    python: bool = False

    def resume(
        self, folder: Path, *, steps: str = "", accept: Iterable[str] = (), after: bool = False
    ) -> str:
        """The call that goes on with a run.

        Args:
            steps: its new length, where it changes. accept: changes that are accepted.
            after: whether it goes on from an earlier result, which only Python can give.
        """
        names = list(accept)
        if self.python:
            length = f"steps={steps}, " if steps else ""
            length += "after=result, " if after else ""
            more = f", {self.accepting(names)}" if names else ""
            return f"pt.fit(model, plan, {length}output={str(folder)!r}, resume=True{more})"
        length = f" max_steps={steps}" if steps else ""
        more = f" {self.accepting(names)}" if names else ""
        return f"posttrain resume {folder}{length}{more}"

    def accepting(self, names: Iterable[str]) -> str:
        """The argument that accepts changes."""
        if self.python:
            return f"accept={list(names)!r}"
        return " ".join(f"--accept {name}" for name in names)

    def start_from(self, model: Path) -> str:
        """How a new run starts from a model."""
        return f"pt.fit({str(model)!r}, ...)" if self.python else f"model.path={model}"

    @property
    def length(self) -> str:
        """The name of the number of steps."""
        return "steps" if self.python else "max_steps"


SHELL = Caller()
"""A command of the shell."""
