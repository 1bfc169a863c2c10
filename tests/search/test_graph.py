"""Graphs of thoughts."""

from __future__ import annotations

import pytest
from step_trees import END, PROMPT, TreeAsk, digits, run, scores

from posttrain.errors import ConfigError
from posttrain.search.graph import Operation, Thinking, graph_of_thoughts, levels, thoughts_of

FLAT = digits({1: 0.4, 2: 0.3, 3: 0.3})
VALUE = scores(lambda c: int(c.text or 0) / 10)


def thinking(ask):
    """Contexts (6, x): x is the sum of the thoughts' digits, which the answer repeats."""
    asked = []

    def render(problem):
        asked.append(problem)
        lines = problem.split("\n")
        digits_of = [int(line.split()[-1]) for line in lines if line[-1:].isdigit()]
        return (6, min(sum(digits_of), 8))

    return render, asked


def others(context):
    return lambda path: {END: 1.0} if path else {context[1]: 1.0}


def test_the_default_graph_combines_the_best() -> None:
    ask = TreeAsk(FLAT, others=others, seed=2)
    render, asked = thinking(ask)
    s = run(graph_of_thoughts(PROMPT, ask, str, VALUE, "problem", render, num_branches=8))
    assert len(asked) == 1 and "1. 3\n2. 3" in asked[0]
    assert s.text == "6" and s.notes == {"num_operations": 5, "num_aggregated": 2}
    assert len(s.candidates) == 10 and [n for _, n, *_ in ask.calls] == [8, 2]
    ask = TreeAsk(FLAT, others=others, seed=2)
    s = run(
        graph_of_thoughts(
            PROMPT,
            ask,
            str,
            VALUE,
            "problem",
            render,
            num_aggregates=1,
            improve_rounds=2,
            improvement="x\n{thoughts}\n2",
        )
    )
    scores_of = [c.score or 0.0 for c in s.candidates]
    assert len(s.candidates) == 4 + 1 + 2 and scores_of[-1] == 0.8 == max(scores_of)


def test_one_branch_is_one_sample() -> None:
    for seed in range(20):
        ask, plain = TreeAsk(FLAT, seed=seed), TreeAsk(FLAT, seed=seed)
        s = run(graph_of_thoughts(PROMPT, ask, str, VALUE, "p", str, num_branches=1))
        assert s.text == run(plain(PROMPT))[0].text and ask.calls == plain.calls


def test_budgets() -> None:
    for limit in range(1, 14):
        ask = TreeAsk(FLAT, others=others, budget=limit)
        render, _ = thinking(ask)
        s = run(graph_of_thoughts(PROMPT, ask, str, VALUE, "p", render, improve_rounds=1))
        assert ask.budget.num_tokens <= limit and s.candidates


def test_operations_of_any_graph() -> None:
    ask = TreeAsk(FLAT, others=others)
    render, _ = thinking(ask)
    graph = [
        Operation("both", "aggregate", ("a", "b")),
        Operation("a", "generate"),
        Operation("b", "generate", number=2),
        Operation("better", "improve", ("b",), 3),
    ]
    order = levels(graph)
    assert [[o.name for o in level] for level in order] == [["a", "b"], ["both", "better"]]
    results = run(thoughts_of(graph, Thinking(PROMPT, ask, VALUE, "p", render)))
    assert {k: len(v) for k, v in results.items()} == {"a": 1, "b": 2, "both": 1, "better": 6}


@pytest.mark.parametrize(
    ("graph", "match"),
    [
        ([Operation("a", "generate"), Operation("a", "generate")], "two operations"),
        ([Operation("a", "score", ("b",))], "'b'"),
        ([Operation("a", "score", ("b",)), Operation("b", "score", ("a",))], "cycle"),
        ([Operation("a", "score")], "inputs"),
        ([Operation("a", "generate", ("a",))], "inputs"),
        ([Operation("a", "generate", number=0)], "number"),
    ],
)
def test_graphs_that_cannot_run(graph, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        levels(graph)


def test_prompts_are_checked() -> None:
    ask = TreeAsk(FLAT, others=others)
    with pytest.raises(ConfigError, match="aggregation"):
        run(graph_of_thoughts(PROMPT, ask, str, VALUE, "p", str, aggregation="{thought}"))
