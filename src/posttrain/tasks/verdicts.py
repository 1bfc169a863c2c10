"""Labelled completions as problems of a judge: is this answer right?"""

from __future__ import annotations

from typing import Any

from posttrain.config import DataConfig
from posttrain.data.rows import rows_of
from posttrain.errors import ConfigError, DataError, shown
from posttrain.registry import tasks
from posttrain.rewards.judge_questions import INSTRUCTION, as_prompt, as_reply, reasoned_question
from posttrain.rewards.reasoned_judge import verdict_of
from posttrain.types import Example, Task


@tasks.register
def verdicts(
    *,
    path: str,
    split: str = "train",
    min_reward: float = 1.0,
    balanced: bool = True,
    num_examples: int | None = None,
    instruction: str | None = None,
    max_tokens: int = 256,
) -> Task:
    """Rows of prompt, completion and reward as questions to a judge that reasons: what a generative
    reward model is trained on by reinforcement (arXiv 2408.15240; 2502.14768).

    The prompt is the question that reward `reasoned_judge` asks. The score is 1 where the verdict
    of the reply ("Verdict: yes" or "Verdict: no") agrees with the label of the row, else 0.

    Args:
        path: a file, a folder or the id of a hub data set, such as what method sample writes.
        split: of a hub data set; in a folder, the files whose names contain it.
        min_reward: the least reward of a completion that is labelled right.
        balanced: leave out rows of the commoner label beyond the number of the other.
        num_examples: largest number of rows.
        instruction: what stands before the question; that of the reward where left out.
        max_tokens: tokens per reply, where the sampling does not say.
    """
    rows = rows_of(DataConfig(path, split=split))
    labelled = [(row, _reward(row, number) >= min_reward) for number, row in enumerate(rows)]
    if balanced:
        share = min(sum(label is side for _, label in labelled) for side in (True, False))
        if not share:
            raise DataError(
                f"verdicts: all {len(rows)} rows of {path} have the same label at min_reward "
                f"{min_reward:g}; change it, or set balanced: false"
            )
        labelled = _balanced(labelled, share)
    if num_examples is not None and num_examples < 1:
        raise ConfigError(f"verdicts: num_examples {num_examples} must be at least 1")
    examples = [
        _example(row, is_right, number, instruction or INSTRUCTION)
        for number, (row, is_right) in enumerate(labelled[:num_examples])
    ]
    return Task("verdicts", examples, _score, verdict_of, max_tokens=max_tokens)


def _balanced(
    labelled: list[tuple[dict[str, Any], bool]], share: int
) -> list[tuple[dict[str, Any], bool]]:
    """As many rows of one label as of the other, in turns."""
    sides = [[row for row in labelled if row[1] is side][:share] for side in (True, False)]
    return [row for pair in zip(*sides, strict=True) for row in pair]


def _reward(row: dict[str, Any], number: int) -> float:
    prompt, completion, reward = (row.get(c) for c in ("prompt", "completion", "reward"))
    is_number = isinstance(reward, int | float)
    if not (isinstance(prompt, str | list) and isinstance(completion, str | list) and is_number):
        raise DataError(
            f"verdicts: row {number} is {shown(row)}; it must have prompt, completion and reward, "
            "as method sample writes them"
        )
    assert isinstance(reward, int | float)
    return float(reward)


def _example(row: dict[str, Any], is_right: bool, number: int, instruction: str) -> Example:
    chat = not isinstance(row["prompt"], str)
    question = reasoned_question(row["prompt"], row["completion"], instruction)
    answer = "yes" if is_right else "no"
    name = f"{row.get('id', 'row')}-{number}"
    return Example(as_prompt(question, chat=chat), None, as_reply(answer, chat=True), id=name)


def _score(text: str, example: Example) -> float:
    return float(verdict_of(text) == example.answer)
