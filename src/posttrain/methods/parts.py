"""Rows that are made part by part, so that a run that was stopped goes on after the last whole
part.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from posttrain.methods.run import Interrupted, Run
from posttrain.training.checkpoint import write_text_whole

T = TypeVar("T")


def make_parts(
    run: Run,
    items: Sequence[T],
    batch_size: int,
    make: Callable[[Sequence[T], int], dict[str, Any]],
) -> list[dict[str, Any]]:
    """What `make` gives for each batch of items, kept as parts/NUMBER.json; what is there already
    is not made again.

    Args:
        make: (some items, the batch's number) -> what JSON can hold; must not depend on the batches
        before.
    Raises:
        Interrupted: the user stopped it.
    """
    folder = _folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    places = [folder / f"{number:06d}.json" for number in range(-(-len(items) // batch_size))]
    try:
        for number, place in enumerate(places):
            if not place.exists():
                made = make(items[number * batch_size : (number + 1) * batch_size], number)
                write_text_whole(place, json.dumps(made, allow_nan=False))
    except KeyboardInterrupt as stop:
        raise Interrupted(
            f"stopped; what is made is kept. Go on with: posttrain resume {run.folder}"
        ) from stop
    return [json.loads(place.read_text(encoding="utf-8")) for place in places]


def remove_parts(run: Run) -> None:
    """Take the parts away, once what they were for is written."""
    shutil.rmtree(_folder(run))


def _folder(run: Run) -> Path:
    return run.folder / "parts"
