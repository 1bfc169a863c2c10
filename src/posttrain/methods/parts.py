"""Rows that are made part by part, so that a run that was stopped goes on after the last whole
part.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from posttrain.files import write_text_whole
from posttrain.training.ending import Interrupted

T = TypeVar("T")


def make_parts(
    folder: Path,
    items: Sequence[T],
    batch_size: int,
    make: Callable[[Sequence[T], int], dict[str, Any]],
) -> list[dict[str, Any]]:
    """The results of `make` for each batch of items, saved as parts/NUMBER.json.

    A part that is there already is not made again.

    Args:
        folder: of the run.
        make: (some items, the batch's number) -> JSON values. It must not depend on the batches
            before.

    Raises:
        Interrupted: the user stopped it.
    """
    parts = _place(folder)
    parts.mkdir(parents=True, exist_ok=True)
    places = [parts / f"{number:06d}.json" for number in range(-(-len(items) // batch_size))]
    try:
        for number, place in enumerate(places):
            if not place.exists():
                batch = items[number * batch_size : (number + 1) * batch_size]
                write_text_whole(place, json.dumps(make(batch, number), allow_nan=False))
    except KeyboardInterrupt as stop:
        raise Interrupted(
            f"stopped; the finished parts are saved. Go on with: posttrain resume {folder}"
        ) from stop
    return [json.loads(place.read_text(encoding="utf-8")) for place in places]


def remove_parts(folder: Path) -> None:
    """Take the parts away, once what they were for is written."""
    shutil.rmtree(_place(folder))


def _place(folder: Path) -> Path:
    return folder / "parts"
