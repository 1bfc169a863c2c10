"""Trees of thoughts."""

from __future__ import annotations

import pytest
from step_trees import END, PROMPT, TreeAsk, decode, digits, run, scores

from posttrain.errors import ConfigError
from posttrain.search.thoughts import VALUE_WORDS, scored_thoughts, tree_of_thoughts, worth

WIDE = digits({1: 0.4, 2: 0.3, 3: 0.3}, {1: 0.5, 2: 0.5}, {1: 1.0})


def test_words_are_numbers() -> None:
    assert worth("Likely... no, SURE.", VALUE_WORDS) == 20 and worth("surely", VALUE_WORDS) == 0
    assert worth("impossible", VALUE_WORDS) == 0.001 and worth("", VALUE_WORDS) == 0
    assert worth("ja", {"JA": 2.0}) == 2


@pytest.mark.parametrize("order", ["breadth", "depth"])
def test_the_most_promising_thoughts_go_on(order: str) -> None:
    score = scores(lambda c: sum(int(x) for x in c.text if x.isdigit()) / 10)
    ask = TreeAsk(WIDE, seed=2)
    s = run(
        scored_thoughts(PROMPT, ask, str, score, decode, order=order, num_thoughts=12, num_beams=2)
    )
    assert s.text == "3\n2\n1" and s.notes["num_backtracks"] == 0
    if order == "depth":
        assert len(s.candidates) == 1 and len(ask.calls) == 3
    else:
        assert [n for _, n, *_ in ask.calls] == [12] * 5


def test_depth_first_goes_back_from_a_dead_end() -> None:
    """The thought that looks best first has no good continuation."""
    score = scores(lambda c: {"3": 0.9, "2": 0.8, "1": 0.1}.get(c.text, 0.5 * (c.text[0] == "2")))
    ask = TreeAsk(WIDE, seed=2)
    s = run(
        scored_thoughts(
            PROMPT,
            ask,
            str,
            score,
            decode,
            order="depth",
            num_thoughts=12,
            least_value=0.3,
        )
    )
    assert s.text[0] == "2" and s.notes["num_backtracks"] == 1
    none = run(
        scored_thoughts(PROMPT, TreeAsk(WIDE), str, score, decode, order="depth", least_value=2.0)
    )
    assert none.notes["num_whole"] == 0 and none.candidates


def self_evaluated(**settings):
    """A search whose model calls thoughts that begin with 2 sure (token 7), others impossible."""
    asked = []

    def render(text):
        asked.append(text)
        return (6, int(text.split("so far:\n")[1].split("\n")[0] or 0))

    def others(context):
        return lambda path: {END: 1.0} if path else {7 if context[1] == 2 else 8: 1.0}

    ask = TreeAsk(WIDE, others=others, seed=2, budget=settings.pop("budget", 10**9))
    words = {"7": 20.0, "8": 0.001}
    s = run(
        tree_of_thoughts(
            PROMPT, ask, str, decode, "the problem", render, value_words=words, **settings
        )
    )
    return s, asked, ask


def test_the_model_values_its_own_thoughts() -> None:
    s, asked, ask = self_evaluated(num_thoughts=12)
    assert s.text[0] == "2" and s.candidates[s.index].score == 60.0  # three answers of 20
    assert "the problem" in asked[0] and "7, 8" in asked[0]
    assert len(asked) == len(set(asked)) == s.notes["num_evaluated"]  # equal texts once
    for limit in range(1, ask.budget.num_tokens + 1, 3):
        s, _, spent = self_evaluated(num_thoughts=12, budget=limit)
        assert spent.budget.num_tokens <= limit
    with pytest.raises(ConfigError, match="tree_of_thoughts.evaluation"):
        self_evaluated(evaluation="{thought}")
    with pytest.raises(ConfigError, match="value_words"):
        run(
            tree_of_thoughts(
                PROMPT, ask, str, decode, "p", lambda text: (6,), value_words=dict[str, float]()
            )
        )
