"""A text game of TextArena: its games as a task, the game as an environment, and random play.

    pip install textarena
    python recipes/agents/guess_the_number.py runs/agents/random_play.jsonl     # rows for a start

The game thinks of a number from 1 to 20, and answers a guess such as "[7]" with "higher" or
"lower". Its reward is 1 for the number itself, else the nearness of the last guess. Rows of random
play teach the form of a guess and nothing else: 6 different guesses find the number in 30 % of the
games, halving what is left in all of them.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import posttrain as pt
from posttrain.episodes.adapters.gymnasium import TextArena

NUM_GUESSES = 6
FIRST_TEST_SEED = 1_000_000


@pt.environment
def guess_the_number() -> TextArena:
    """TextArena's GuessTheNumber-v0-raw (1 to 20) with 6 guesses."""
    import textarena

    return TextArena(lambda: textarena.make("GuessTheNumber-v0-raw", max_turns=NUM_GUESSES))


@pt.task
def guessing_games(*, num_examples: int = 1000, split: str = "train") -> pt.Task:
    """Seeds of games. Those of the splits train and test differ."""
    first = FIRST_TEST_SEED if split == "test" else 0
    examples = [
        pt.Example("", columns={"seed": seed}, id=f"game-{seed}")
        for seed in range(first, first + num_examples)
    ]
    return pt.Task(
        "guessing_games",
        examples,
        lambda text, example: 0.0,
        lambda text: None,
        max_tokens=8,
        unscored="the game itself gives the reward",
    )


def random_game(seed: int) -> list[dict[str, str]]:
    """A game of different guesses at random, as a conversation."""
    draw = random.Random(f"guesses {seed}")
    game = guess_the_number()
    messages = [{"role": "user", "content": game.reset(seed=-1 - seed)}]
    for guess in draw.sample(range(1, 21), NUM_GUESSES):
        action = f"[{guess}]"
        messages.append({"role": "assistant", "content": action})
        step = game.step(action)
        if step.done:
            break
        messages.append({"role": "user", "content": str(step.observation)})
    return messages


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"messages": random_game(seed)}) for seed in range(1000)]
    file.write_text("\n".join(rows) + "\n")
    print(f"{len(rows)} games in {file}")
