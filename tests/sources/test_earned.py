"""Where a trace's rewards are earned, and which turns are taken in one state."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.config import Component, CreditConfig
from posttrain.sources.credit import Creditor
from posttrain.sources.earned import contexts, states, token_rewards, turn_rewards
from posttrain.types import Example, Sample, Trace, TraceGroup, Turn

NAN = math.nan


def turn(context: tuple[int, ...], *ids: int, said: str = "", reward: float | None = None) -> Turn:
    sample = Sample(list(ids), [0.0] * len(ids), [0.0] * len(ids), "stop")
    messages = [{"role": "user", "content": said}] if said else []
    return Turn(context, sample, "", messages, reward=reward)


def earned(trace: Trace, reward: float, **weights: float) -> np.ndarray:
    return token_rewards(trace, reward, weights, str)


def test_an_outcome_is_earned_at_the_end() -> None:
    trace = Trace([turn((1,), 2, 3), turn((1, 2, 3, 9), 4)], rewards={"task": 2.0})
    found = earned(trace, 2.0, task=1.0)
    np.testing.assert_array_equal(found, [NAN, NAN, 2.0])
    np.testing.assert_array_equal(turn_rewards(trace, found), [0.0, 2.0])
    assert np.isnan(turn_rewards(trace, earned(trace, NAN, task=1.0))).all()


def test_the_environment_pays_turn_by_turn() -> None:
    """Turns earn 1, nothing and 0.5, the whole episode 2: the rest, 0.5, falls at the end, as does
    an outcome beside it.
    """
    turns = [turn((1,), 2, 3, reward=1.0), turn((1, 9), 4), turn((1, 9, 4), 5, 6, reward=0.5)]
    trace = Trace(turns, rewards={"environment": 2.0, "format": 3.0})
    found = earned(trace, 2.0 * 2 + 3.0, environment=2.0, format=1.0)
    np.testing.assert_array_equal(found, [NAN, 2.0, NAN, NAN, 1.0 + 1.0 + 3.0])
    np.testing.assert_array_equal(turn_rewards(trace, found), [2.0, 0.0, 5.0])
    trace.rewards = {"format": 3.0}
    assert np.nansum(earned(trace, 3.0, format=1.0)) == 3.0


def test_a_turn_without_tokens_pays_the_turn_before() -> None:
    trace = Trace([turn((1,), 2), turn((1, 2), reward=4.0)], rewards={"environment": 4.0})
    np.testing.assert_array_equal(earned(trace, 4.0, environment=1.0), [4.0])


def test_states_are_what_was_said_and_contexts_all_of_it() -> None:
    prompt = (1, 2)
    one = Trace([turn(prompt, 3), turn((*prompt, 3, 8), 4, said="room A")])
    two = Trace([turn(prompt, 5), turn((*prompt, 5, 8), 4, said="room A")])
    three = Trace([turn(prompt, 3), turn((*prompt, 3, 9), 4, said="room B"), turn((7,), 1)])
    assert [row.tolist() for row in states([one, two, three])] == [[0, 1], [0, 1], [0, 2, 3]]
    assert [row.tolist() for row in contexts([one, two, three])] == [[0, 1], [0, 2], [0, 3, 4]]


def groups() -> list[TraceGroup]:
    long = [turn((1,), 2, 3, reward=0.0), turn((1, 9), 4, said="A", reward=1.0)]
    short = [turn((1,), 5, reward=0.5)]
    made = [Trace(long, {"environment": 1.0}, 1.0), Trace(short, {"environment": 0.5}, 0.5)]
    lone = [Trace([turn((6,), 7)], {"environment": 0.25}, 0.25)]
    return [TraceGroup(Example("a"), (1,), made), TraceGroup(Example("b"), (6,), lone)]


def credit(advantage: str, *asked: str, **settings: float) -> Creditor:
    return Creditor(
        Component(advantage, settings),
        CreditConfig(),
        asked=asked,
        reward_weights={"environment": 1.0},
        token_text=str,
    )


@pytest.mark.parametrize("advantage", ["turn_returns", "gigpo", "group_mean", "reward_to_go"])
def test_estimators_take_ragged_groups(advantage: str) -> None:
    made = groups()
    counted = [[np.ones(t.num_sampled, dtype=bool) for t in g.traces] for g in made]
    streams = credit(advantage).credit(made, {}, None, counted)
    sizes = [[len(a) for a in row] for row in streams["advantages"]]
    assert sizes == [[3, 1], [1]]
    assert made[0].traces[0].advantage > 0


def test_gae_crosses_turns_and_skips_their_context() -> None:
    """Values 0.2, 0.4 in the first turn and 0.6 in the second: the last token of the first turn
    leads to the state before the second turn's token.
    """
    made = groups()[:1]
    values = [[np.array([0.2, 0.4, 0.6]), np.array([0.1])]]
    counted = [[np.ones(3, dtype=bool), np.ones(1, dtype=bool)]]
    streams = credit("gae", "returns", lam=0.0).credit(made, {"values": values}, None, counted)
    np.testing.assert_allclose(streams["advantages"][0][0], [0.2, 0.2, 0.4])
    streams = credit("turn_gae", "returns", lam=0.0).credit(made, {"values": values}, None, counted)
    np.testing.assert_allclose(streams["advantages"][0][0], [0.4, 0.4, 0.4])
    np.testing.assert_allclose(streams["returns"][0][0], [0.6, 0.6, 1.0])


def test_a_critic_learns_its_own_value_where_there_is_no_reward() -> None:
    made = groups()[:1]
    made[0].traces[1].reward = None
    values = [[np.array([0.2, 0.4, 0.6]), np.array([0.1])]]
    counted = [[np.ones(3, dtype=bool), np.ones(1, dtype=bool)]]
    streams = credit("turn_gae", "returns").credit(made, {"values": values}, None, counted)
    assert streams["advantages"][0][1] == 0 and streams["returns"][0][1] == pytest.approx(0.1)
