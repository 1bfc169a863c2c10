"""rStar."""

from __future__ import annotations

from collections import Counter

import pytest
from step_trees import END, PROMPT, TreeAsk, decode, digits, run

from posttrain.errors import ConfigError
from posttrain.search.rstar import rstar

TREE = digits({1: 0.6, 2: 0.4}, {1: 0.7, 2: 0.3})


def encode(text):
    return {"S": (6,), "R": (7,)}[text]


def last(text: str) -> str | None:
    return text.split("\n")[-1] or None


def cued(path):
    """A line is a digit, or a cue (6, 7) and a digit; after two lines it ends."""
    line: tuple[int, ...] = ()
    lines = 0
    for token in path:
        line = () if token == 9 else (*line, token)
        lines += token == 9
    if line and line[-1] < 6:
        return {END: 1.0} if lines else {9: 1.0}
    return {1: 0.7, 2: 0.3}


def test_actions_make_a_tree_whose_answers_vote() -> None:
    ask = TreeAsk(cued, seed=1)
    cues = {"sub_question": "S", "rephrased": "R"}
    s = run(rstar(PROMPT, ask, last, decode, encode, consistency_checks=0, num_rollouts=12, **cues))
    assert s.answer in ("1", "2", "61", "62") and s.notes["num_rollouts"] <= 12
    contexts = {context[1:] for context, *_ in ask.calls}
    assert (6,) in contexts and (7,) in contexts  # cues stand in the context of their steps
    assert [context for context, *_ in ask.calls].count((5, 7)) == 1  # at the root alone
    best = s.candidates[s.index]
    assert best.score == max(c.score for c in s.candidates)
    assert all(len(c.ids) <= 40 for c in s.candidates)
    for c in s.candidates:  # the cues alone were put there
        assert [i for i, given in zip(c.ids, c.given, strict=False) if given] == [
            i for i in c.ids if i in (6, 7)
        ]


def test_an_inconsistent_answer_loses() -> None:
    """Paths that begin with 1 end in 1 or 2 at random; those with 2 always end in 3."""

    def policy(path):
        if not path:
            return {1: 0.5, 2: 0.5}
        if len(path) % 2:
            return {END: 1.0} if len(path) == 3 else {9: 1.0}
        return {1: 0.5, 2: 0.5} if path[0] == 1 else {3: 1.0}

    chosen: dict[int, Counter[str | None]] = {0: Counter(), 8: Counter()}
    for seed in range(40):
        for checks, counter in chosen.items():
            ask = TreeAsk(policy, seed=seed)
            s = run(
                rstar(
                    PROMPT,
                    ask,
                    last,
                    decode,
                    encode,
                    sub_question="",
                    rephrased="",
                    consistency_checks=checks,
                    least_share=0.3,
                    num_rollouts=4,
                )
            )
            counter[s.answer] += 1
    assert chosen[8]["3"] > chosen[0]["3"]


def test_one_rollout_is_one_sample_in_law() -> None:
    texts: Counter[str] = Counter()
    for seed in range(500):
        settings = {"sub_question": "", "rephrased": "", "num_rollouts": 1, "consistency_checks": 0}
        texts[
            run(rstar(PROMPT, TreeAsk(TREE, seed=seed), last, decode, encode, **settings)).text
        ] += 1
    expected = {"1\n1": 0.42, "1\n2": 0.18, "2\n1": 0.28, "2\n2": 0.12}
    assert sum(abs(texts[t] / 500 - p) for t, p in expected.items()) / 2 < 0.06


def test_budgets_and_settings() -> None:
    for limit in range(1, 60, 2):
        ask = TreeAsk(TREE, budget=limit)
        s = run(
            rstar(PROMPT, ask, lambda text: None, decode, encode, sub_question="", rephrased="")
        )
        assert ask.budget.num_tokens <= limit and s.candidates and s.answer is None
    first, second = (
        run(rstar(PROMPT, TreeAsk(cued), last, decode, encode, sub_question="S", rephrased="R"))
        for _ in range(2)
    )
    assert [c.ids for c in first.candidates] == [c.ids for c in second.candidates]
    with pytest.raises(ConfigError, match="most_share"):
        run(rstar(PROMPT, TreeAsk(TREE), last, decode, encode, most_share=0.1))
