"""Any procedural data set of the library reasoning-gym."""

from __future__ import annotations

from typing import Any

from posttrain.errors import ConfigError, MissingDependency, nearest
from posttrain.registry import tasks
from posttrain.rewards.exact import canonical, extract_answer
from posttrain.types import Example, Task

_INSTRUCTION = "\nGive the final answer as <answer>...</answer>."


@tasks.register
def reasoning_gym(
    *,
    dataset: str,
    num_examples: int = 500,
    seed: int = 0,
    settings: dict[str, Any] = {},
    partial: bool = False,
    max_tokens: int = 256,
) -> Task:
    """A data set of reasoning-gym by name, with its own verifier (arXiv 2505.24760).

    settings go to the generator. Answers stand in <answer></answer>. The library gives part credit to texts that merely
    hold the right answer; unless partial, only a full score counts, so that it cannot be farmed.
    """
    try:
        import reasoning_gym as gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise MissingDependency("reasoning-gym", "gym") from error
    if dataset not in DATASETS:
        raise ConfigError(f"reasoning_gym: unknown dataset {dataset!r}: {nearest(dataset, DATASETS)}")
    try:
        made = gym.create_dataset(dataset, seed=seed, size=num_examples, **settings)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"reasoning_gym: {dataset} refuses its settings {settings}: {error}") from error
    entries = [made[i] for i in range(num_examples)]
    examples = [
        Example(
            entry["question"] + _INSTRUCTION,
            f"<answer>{entry['answer']}</answer>" if entry["answer"] is not None else None,
            entry["answer"],
            {"entry": i},
            id=f"{dataset}-{seed}-{i}",
        )
        for i, entry in enumerate(entries)
    ]

    def score(completion: str, example: Example) -> float:
        answer = extract_answer(completion, "tag")
        if not answer:
            return 0.0
        try:
            value = float(made.score_answer(answer, entries[example.columns["entry"]]))
        except Exception:  # the library's scorers raise on some malformed answers, which are simply wrong
            return 0.0
        return value if partial else float(value >= 1.0)

    def extract(completion: str) -> str | None:
        return canonical(extract_answer(completion, "tag"))

    return Task(f"reasoning_gym/{dataset}", examples, score, extract, max_tokens=max_tokens)
