"""Frozen Lake of Gymnasium as a text game: the game as a task and as an environment, random play.

    pip install gymnasium
    python recipes/agents/frozen_lake.py runs/agents/random_play.jsonl     # rows for a start

The player walks from the first square of a frozen lake to the last one, past four holes. It sees
its row and column and answers "left", "down", "right" or "up". The reward is 1 at the goal and 0 in
a hole. The shortest way has six steps. Models of random play arrive in about 1 % of the games.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import posttrain as pt
from posttrain.episodes.adapters.gymnasium import Gymnasium

ACTIONS = ("left", "down", "right", "up")
MAX_STEPS = 16
FIRST_TRAIN_SEED = 1_000_000


def action_of(text: str) -> int:
    """The game's action.

    Raises:
        ValueError: the text is none; the game then goes on with a message.
    """
    if text.strip() not in ACTIONS:
        raise ValueError("say left, down, right or up")
    return ACTIONS.index(text.strip())


def words(square: int) -> str:
    """What the player sees."""
    return f"row {square // 4} column {square % 4}"


@pt.environment
def frozen_lake() -> Gymnasium:
    """FrozenLake-v1 of Gymnasium, four by four squares, in words. Nobody slips."""
    import gymnasium

    return Gymnasium(
        lambda: gymnasium.make("FrozenLake-v1", is_slippery=False, max_episode_steps=MAX_STEPS),
        to_action=action_of,
        to_text=words,
    )


@pt.task
def walks(*, num_examples: int = 1000, split: str = "train") -> pt.Task:
    """Games, which all begin on the first square. Seeds of the splits train and test differ."""
    first = 0 if split == "test" else FIRST_TRAIN_SEED
    seeds = range(first, first + num_examples)
    return pt.Task(
        "walks",
        [pt.Example("", columns={"seed": seed}, id=f"walk-{seed}") for seed in seeds],
        lambda text, example: 0.0,
        lambda text: None,
        max_tokens=8,
        unscored="the game itself gives the reward",
    )


def random_walk(number: int) -> list[dict[str, str]]:
    """A game of random steps, as a conversation."""
    draw = random.Random(f"steps {number}")
    game = frozen_lake()
    messages = [{"role": "user", "content": game.reset(seed=number)}]
    done = False
    while not done:
        action = draw.choice(ACTIONS)
        step = game.step(action)
        done = step.done
        messages.append({"role": "assistant", "content": action})
        if not done:
            messages.append({"role": "user", "content": str(step.observation)})
    return messages


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"messages": random_walk(number)}) for number in range(600)]
    file.write_text("\n".join(rows) + "\n")
    print(f"{len(rows)} games in {file}")
