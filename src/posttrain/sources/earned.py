"""What a trace earns at each sampled token and with each turn, and in which state a turn is taken.

The rewards of a trace add up to the numbers here, wherever in the trace they fall.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from posttrain.advantages import shape
from posttrain.types import Trace

ENVIRONMENT = "environment"
"""The reward that an environment gives, in parts where its turns have rewards."""


def token_rewards(
    trace: Trace,
    reward: float,
    weights: Mapping[str, float],
    token_text: Callable[[int], str],
) -> np.ndarray:
    """Rewards [T] where they are earned, NaN elsewhere: of steps at the tokens that end them, of
    turns at their last tokens, and the rest at the last token of all.

    Args:
        reward: of the whole trace; NaN: there is none, and every token gets NaN.
        weights: of each reward function. token_text: token id -> its text.
    """
    out = np.full(trace.num_sampled, math.nan)
    if not len(out) or math.isnan(reward):
        return out
    parts: dict[str, np.ndarray] = {}
    if trace.step_rewards:
        texts = [token_text(i) for turn in trace.turns for i in turn.sample.ids]
        for name, numbers in trace.step_rewards.items():
            parts[name] = shape.step_rewards(texts, numbers) * weights[name]
    if ENVIRONMENT in weights and any(turn.reward is not None for turn in trace.turns):
        parts[ENVIRONMENT] = _environment(trace) * weights[ENVIRONMENT]
    if parts:
        for numbers_at in parts.values():
            nothing = np.isnan(numbers_at)
            out = np.where(nothing, out, np.nan_to_num(out) + np.nan_to_num(numbers_at))
        others = [(weights[n], v) for n, v in trace.rewards.items() if n not in parts]
        rest = [w * v for w, v in others if v is not None]
        if not rest:
            return out
        reward = sum(rest)
    out[-1] = np.nan_to_num(out[-1]) + reward
    return out


def _environment(trace: Trace) -> np.ndarray:
    """The environment's reward [T]: those of turns at their last tokens, and at the last of all
    what its reward of the whole episode has beyond their sum.
    """
    out = np.full(trace.num_sampled, math.nan)
    stop = total = 0.0
    for turn in trace.turns:
        stop += len(turn.sample.ids)
        if turn.reward is None:
            continue
        # What a turn without tokens earns belongs to the turn before.
        place = max(int(stop) - 1, 0)
        out[place] = np.nan_to_num(out[place]) + turn.reward
        total += turn.reward
    whole = trace.rewards.get(ENVIRONMENT)
    if whole is not None and whole != total:
        out[-1] = np.nan_to_num(out[-1]) + (whole - total)
    return out


def turn_rewards(trace: Trace, earned: np.ndarray) -> np.ndarray:
    """Rewards [K] of turns: the sums of what their tokens [T] earn. NaN for a trace that earns
    nothing anywhere.
    """
    lengths = [len(turn.sample.ids) for turn in trace.turns]
    if np.isnan(earned).all():
        return np.full(len(lengths), math.nan)
    number = np.repeat(np.arange(len(lengths)), lengths)
    return np.bincount(number, weights=np.nan_to_num(earned), minlength=len(lengths))


def states(traces: Sequence[Trace]) -> list[np.ndarray]:
    """int64 [K] each: what a turn answers, as a number; equal within a prompt where all that was
    said since the turn before is equal. A first turn answers the prompt.
    """
    number: dict[object, int] = {}
    rows = []
    for trace in traces:
        keys: list[object] = [_said(trace, k) for k in range(len(trace.turns))]
        rows.append([number.setdefault(key, len(number)) for key in keys])
    return [np.array(row, dtype=np.int64) for row in rows]


def _said(trace: Trace, k: int) -> object:
    turn = trace.turns[k]
    if k == 0 or not turn.messages:
        return turn.context_ids
    return json.dumps(turn.messages, sort_keys=True, default=str)


def contexts(traces: Sequence[Trace]) -> list[np.ndarray]:
    """int64 [K] each: the context of a turn, as a number; equal where all tokens before are."""
    number: dict[object, int] = {}
    rows = [[number.setdefault(t.context_ids, len(number)) for t in x.turns] for x in traces]
    return [np.array(row, dtype=np.int64) for row in rows]
