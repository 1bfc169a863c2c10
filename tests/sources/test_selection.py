"""What self-training keeps, and the rounds of it, with an engine that says what it is told to."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from posttrain.errors import ConfigError
from posttrain.sources.selection import Rule, filter_metrics
from posttrain.types import Example, Sample, Trace, TraceGroup


def group(*marks: tuple[str, float | None]) -> TraceGroup:
    traces = [
        Trace.of_sample((1,), Sample([ord(c) for c in text], [], [], "stop"), text, reward=reward)
        for text, reward in marks
    ]
    return TraceGroup(Example("q", answer="a", id="q"), (1, 2), traces)


def texts(kept: Sequence[Sequence[Trace]]) -> list[list[str]]:
    return [[r.text for r in row] for row in kept]


ONE = group(("a", 1.0), ("b", 0.0), ("a", 1.0), ("", 1.0), ("c", None), ("d", 1.0))
TWO = group(("x", 0.2), ("y", 0.7), ("z", 0.7))
AGAIN = group(("a", 1.0), ("b", 1.0), ("a", 1.0))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule(), [["a", "d"], []]),
        (Rule(distinct=False), [["a", "a", "d"], []]),
        (Rule(min_reward=0.5), [["a", "d"], ["y", "z"]]),
        (Rule(min_reward=None, max_per_prompt=1), [["a"], ["y"]]),  # best of n; ties to the first
        (Rule(min_reward=0.1, max_per_prompt=2), [["a", "d"], ["y", "z"]]),
        (
            Rule(min_reward=None, top_fraction=0.5),
            [["a", "d"], ["y"]],
        ),  # 3 of 6: one of the two that tie
        (Rule(min_reward=None, top_fraction=0.01), [["a"], []]),
    ],
)
def test_what_is_kept(rule: Rule, expected: list[list[str]]) -> None:
    assert texts(rule.keep([ONE, TWO])) == expected


def test_equal_completions_stand_where_the_first_was_sampled() -> None:
    assert texts(Rule(max_per_prompt=1).keep([AGAIN])) == [["a"]]


def test_metrics_are_shares_of_what_was_sampled() -> None:
    kept = Rule().keep([ONE, TWO])
    told = filter_metrics([ONE, TWO], kept, Rule())
    assert told["filter/pass_rate"] == pytest.approx(4 / 9) and told[
        "filter/distinct"
    ] == pytest.approx(8 / 9)
    assert (told["filter/num_kept"], told["filter/kept"], told["filter/prompts_kept"]) == (
        2,
        pytest.approx(2 / 9),
        0.5,
    )


@pytest.mark.parametrize(
    ("rule", "num", "message"),
    [
        (Rule(top_fraction=0.0), 4, "top_fraction: 0.0"),
        (Rule(max_per_prompt=0), 4, "max_per_prompt: 0"),
        (Rule(), 0, "num_generations: 0"),
        (Rule(min_reward=None), 4, "nothing is filtered"),
        (
            Rule(min_reward=None, max_per_prompt=4),
            4,
            "max_per_prompt 4 is no bound for num_generations 4",
        ),
        (
            Rule(min_reward=None, max_per_prompt=1),
            1,
            "nothing is filtered",
        ),  # a group of one has no best
    ],
)
def test_rules_that_cannot_work(rule: Rule, num: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rule.check(num)
