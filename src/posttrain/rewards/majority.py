"""The vote of a prompt's own completions as their reward: learning without any answer."""

from __future__ import annotations

from collections import Counter

from posttrain.errors import ConfigError
from posttrain.registry import rewards
from posttrain.types import plain_text


@rewards.register
def majority(completions, examples, task, *, min_share: float = 0.0) -> list[float | None]:
    """1 for a completion whose answer is the most frequent one of its prompt, else 0 (test-time
    reinforcement learning, TTRL, arXiv 2504.16084).

        r_i = [a_i = argmax_a sum_j [a_j = a]]

    No gold answer is read. Answers are what the task extracts; of equally frequent ones the first
    wins, and a completion without an answer gets 0. min_share: a prompt whose winner has a smaller
    share of its completions has no reward (None).
    """
    if task is None:
        raise ConfigError("rewards: majority asks a task what a completion answers; name one")
    if not 0 <= min_share <= 1:
        raise ConfigError(f"rewards: majority: min_share {min_share} is a share, from 0 to 1")
    texts = [c if isinstance(c, str) else str(c[-1]["content"]) for c in completions]
    answers = [task.extract(text) for text in texts]
    places: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        places.setdefault(example.id or plain_text(example.prompt), []).append(place)
    values: list[float | None] = [0.0] * len(texts)
    for some in places.values():
        votes = Counter(answers[i] for i in some if answers[i] is not None)
        winner, count = votes.most_common(1)[0] if votes else (None, 0)
        agreed = bool(votes) and count >= min_share * len(some)
        for i in some:
            is_winner = winner is not None and answers[i] == winner
            values[i] = (1.0 if is_winner else 0.0) if agreed or not votes else None
    return values
