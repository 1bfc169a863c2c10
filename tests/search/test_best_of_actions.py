"""The best next step by value."""

from __future__ import annotations

from step_trees import END, PROMPT, TreeAsk, decode, digits, run

from posttrain.search.best_of_actions import best_of_actions

WIDE = digits({1: 0.4, 2: 0.3, 3: 0.3}, {1: 0.5, 2: 0.5})


def test_each_step_is_the_best_of_several() -> None:
    states = []

    async def value(batch):
        states.extend(batch)
        return [float(sum(t for t in state[1:] if t != 9)) for state in batch]

    ask = TreeAsk(WIDE)
    s = run(best_of_actions(PROMPT, ask, str, value, decode, num_actions=12))
    assert s.text == "3\n2" and s.notes == {"num_steps": 2}
    assert [n for _, n, _, _ in ask.calls] == [12, 12] and len(s.candidates) == 12
    assert all(END not in state for state in states)  # no value behind an end
    assert [step.score for step in s.candidates[s.index].steps] == [3.0, 5.0]
