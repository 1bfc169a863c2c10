"""Prompts that begin in the middle of old completions: restart and explore."""

from __future__ import annotations

import json
import random
from typing import Any

from posttrain.data.rows import Row, rows_of
from posttrain.errors import ConfigError, DataError, shown
from posttrain.files import write_text_whole
from posttrain.methods.objects import Rows, data_of
from posttrain.methods.sample import SAMPLES
from posttrain.models.spec import ModelSpec
from posttrain.registry import methods
from posttrain.terminal import write
from posttrain.training.plan import Job, Place, PreparedJob


@methods.register
def restarts(
    data: Rows,
    *,
    marker: str = "",
    step_separator: str = "\n",
    max_per_prompt: int = 2,
    fresh_share: float = 0.5,
    min_reward: float = 1.0,
) -> Job:
    """Prompts for reinforcement learning that begin at intermediate steps of old completions, right
    or wrong (restart and explore, Satori, arXiv 2502.02508): samples.jsonl for task jsonl.

    A prompt is that of a row, with its completion up to the end of a drawn step that is not the
    last, and the marker behind it. Of each prompt at most max_per_prompt completions are taken,
    right and wrong ones in turn. A row has prompt, answer, id and origin_reward, the reward of the
    completion that it begins with, which reward `reflection` reads.

    Args:
        data: rows of prompt, completion, reward and answer, as method sample writes them.
        marker: text behind the steps that are given, such as "Wait." and a line break: it asks the
            policy to look back.
        step_separator: text between steps.
        max_per_prompt: restarts of a prompt.
        fresh_share: number of prompts from the beginning, as a share of the prompts of the data;
            their origin_reward is null.
        min_reward: the least reward of a completion that counts as right.
    """
    settings = dict(locals())
    if not step_separator or max_per_prompt < 1 or not 0 <= fresh_share <= 1:
        raise ConfigError(
            f"restarts: step_separator {step_separator!r} must not be empty, max_per_prompt "
            f"{max_per_prompt} be at least 1, and fresh_share {fresh_share} from 0 to 1"
        )
    rows = data_of(data)

    def prepare(spec: ModelSpec | None, seed: int) -> PreparedJob:
        groups = _groups(rows_of(rows))

        def run(place: Place) -> list[Row]:
            draw = random.Random(f"restarts {seed}")
            made = _restarted(groups, draw, step_separator, marker, max_per_prompt, min_reward)
            if not made:
                raise DataError(
                    f"restarts: none of the completions of {len(groups)} prompts has two steps "
                    f"between which {step_separator!r} stands"
                )
            fresh = draw.sample(list(groups), round(fresh_share * len(groups)))
            made += [_row(groups[name][0], "", None) for name in fresh]
            draw.shuffle(made)
            for number, row in enumerate(made):
                row["id"] = f"{row['id']}-{number}"
            place.open()
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made)
            write_text_whole(place.path / SAMPLES, text)
            counts = f"{len(made) - len(fresh)} restarts, {len(fresh)} fresh"
            write(place.console, f"{len(made)} prompts{place.written(SAMPLES)}: {counts}")
            return made

        return PreparedJob(
            facts=[("prompts", f"{len(groups)}"), ("restarts", f"{max_per_prompt} of each")],
            run=run,
        )

    return Job(method="restarts", settings=settings, prepare=prepare, leaves=SAMPLES)


def _groups(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows by their prompt.

    Raises:
        DataError: a row is not text, or lacks a column.
    """
    groups: dict[str, list[Row]] = {}
    for number, row in enumerate(rows):
        texts = [row.get(c) for c in ("prompt", "completion")]
        is_number = isinstance(row.get("reward"), int | float)
        if not (all(isinstance(text, str) for text in texts) and is_number and "answer" in row):
            raise DataError(
                f"restarts: row {number} is {shown(row)}; it must have prompt and completion as "
                "text, reward and answer, as method sample writes them of text prompts"
            )
        groups.setdefault(str(row["prompt"]), []).append(row)
    return groups


def _restarted(
    groups: dict[str, list[Row]],
    draw: random.Random,
    separator: str,
    marker: str,
    most: int,
    min_reward: float,
) -> list[Row]:
    made = []
    for rows in groups.values():
        cuttable = [row for row in rows if len(_ends(row, separator))]
        right = [row for row in cuttable if row["reward"] >= min_reward]
        wrong = [row for row in cuttable if row["reward"] < min_reward]
        draw.shuffle(right)
        draw.shuffle(wrong)
        # Wrong ones first: they are what there is to be learnt from.
        turns = [row for pair in zip(wrong, right, strict=False) for row in pair]
        rest = [row for row in [*wrong, *right] if not any(row is other for other in turns)]
        for row in [*turns, *rest][:most]:
            begun = row["completion"][: draw.choice(_ends(row, separator))]
            made.append(_row(row, f"{begun}{marker}", row["reward"]))
    return made


def _ends(row: Row, separator: str) -> list[int]:
    """The places behind the steps of a completion, without the last step."""
    text = str(row["completion"]).rstrip()
    places = []
    start = text.find(separator)
    while start >= 0:
        places.append(start + len(separator))
        start = text.find(separator, start + len(separator))
    return [place for place in places if text[:place].strip() and text[place:].strip()]


def _row(row: Row, begun: str, origin_reward: Any) -> Row:
    return {
        "prompt": f"{row['prompt']}{begun}",
        "answer": row["answer"],
        "id": row.get("id", "row"),
        "origin_reward": origin_reward,
    }
