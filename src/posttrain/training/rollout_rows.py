"""The completions of a round as a file: what was sampled, rewarded and selected, as JSON lines.

Each line is one of rollouts.jsonl with the token ids and the places of the selected completions.
A round that goes on reads them and need not sample again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.files import write_text_whole
from posttrain.training.hooks import group_as_json
from posttrain.types import Example, Sample, Trace, TraceGroup


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """The completions of one prompt.

    Attributes:
        step: the step, from 0, for which they were sampled.
        group: the prompt and its completions.
        selected: the places of the selected ones, in the order in which they are trained on.
        hinted: whether the prompt held the answer.
    """

    step: int
    group: TraceGroup
    selected: tuple[int, ...] = ()
    hinted: bool = False

    @property
    def chosen(self) -> list[Trace]:
        """The selected completions."""
        return [self.group.traces[i] for i in self.selected]


def write_rows(path: Path, rows: Iterable[RolloutRow]) -> None:
    """Write a file of rows, whole or not at all."""
    lines = (json.dumps(_as_json(row), allow_nan=False) for row in rows)
    write_text_whole(path, "".join(f"{line}\n" for line in lines))


def read_rows(path: Path) -> list[RolloutRow]:
    """The rows of a file; none where there is no file."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [_row(json.loads(line)) for line in lines if line]


def _as_json(row: RolloutRow) -> dict[str, Any]:
    values = {**group_as_json(row.step, row.group), "prompt_ids": list(row.group.prompt_ids)}
    pairs = zip(values["completions"], row.group.traces, strict=True)
    values["completions"] = [{**one, "ids": list(r.sample.ids)} for one, r in pairs]
    return {**values, "selected": list(row.selected), "hinted": row.hinted}


def _row(values: dict[str, Any]) -> RolloutRow:
    """A row of a line. Its example has what is reported of one: prompt, answer, id."""
    example = Example(values["prompt"], answer=values["answer"], id=values["id"])
    prompt_ids = tuple(values["prompt_ids"])
    traces = [_trace(prompt_ids, one) for one in values["completions"]]
    group = TraceGroup(example, prompt_ids, traces)
    return RolloutRow(values["step"], group, tuple(values["selected"]), values["hinted"])


def _trace(prompt_ids: tuple[int, ...], values: dict[str, Any]) -> Trace:
    """A completion. The sampler's log-probs are not kept."""
    ids = values["ids"]
    sample = Sample(ids, [0.0] * len(ids), [0.0] * len(ids), values["finish_reason"])
    trace = Trace.of_sample(
        prompt_ids,
        sample,
        values["text"],
        rewards=values["rewards"],
        reward=values["reward"],
        advantage=values["advantage"] or 0.0,
    )
    trace.error = values["error"]
    return trace
