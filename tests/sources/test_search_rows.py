"""Rows to train on from searches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import posttrain as pt
from posttrain.data.forest import TokenSequence, Tree
from posttrain.errors import ConfigError
from posttrain.search.base import Candidate, Selection, select
from posttrain.sources.search_rows import KINDS, search_group, search_rows
from posttrain.sources.trace_sequences import trace_sequences
from posttrain.tasks.arithmetic import arithmetic
from posttrain.types import Example

EXAMPLE = Example("p", answer="3", id="e")


def candidate(text: str, ended: bool = True, score: float | None = None, at: float = -1.0) -> Any:
    ids = tuple(map(ord, text))
    return Candidate(
        ids, text, at * len(ids), ended, logprobs=(at,) * len(ids), context_ids=(1, 2), score=score
    )


def chosen(*candidates: Candidate, index: int = 0) -> Selection:
    return select(list(candidates), index, str)


GROUP = chosen(
    candidate("a\nb\n3", score=0.9, at=-2.0),
    candidate("a\nb\n4", score=0.2),
    candidate("a\nc\n3", score=0.5),
    candidate("x\n9", score=0.1),
    candidate("a\nb", ended=False, score=0.7),
    candidate("x\n9", score=0.1),
)


def right(text: str, example: Example) -> float:
    return float(text.endswith(example.answer))


def rows(kind: Any, **settings: Any) -> list[dict[str, Any]]:
    return search_rows([EXAMPLE], [GROUP], kind, **settings)


def test_completions_are_the_choice_or_all_that_pass() -> None:
    assert rows("completions") == [{"prompt": "p", "completion": "a\nb\n3"}]
    passed = [row["completion"] for row in rows("completions", grade=right)]
    assert passed == ["a\nc\n3", "a\nb\n3"]  # the likelier first
    assert len(rows("completions", grade=right, max_per_prompt=1)) == 1


def test_a_choice_that_was_cut_gives_no_row() -> None:
    cut = chosen(candidate("a\nb", ended=False), candidate("3"))
    assert search_rows([EXAMPLE], [cut]) == []
    assert search_rows([EXAMPLE], [cut], grade=right) == [{"prompt": "p", "completion": "3"}]


def test_tokens_that_were_put_there_are_no_actions() -> None:
    forced = candidate("a3", score=1.0)
    forced.given = (True, False)
    (trace,) = search_group(EXAMPLE, chosen(forced)).traces
    (sequence,) = trace_sequences(trace)
    assert sequence.loss_mask.tolist() == [False, False, False, True]
    with pytest.raises(ConfigError, match="search_group"):
        search_rows([EXAMPLE], [chosen(forced)], "rewards")
    assert search_rows([EXAMPLE], [chosen(forced)]) == [{"prompt": "p", "completion": "a3"}]


def test_preferences_share_the_longest_beginning_first() -> None:
    pairs = [(r["chosen"], r["rejected"], r["margin"]) for r in rows("preferences", grade=right)]
    assert pairs[0] == ("a\nb\n3", "a\nb\n4", 1.0) and len(pairs) == 4
    by_score = rows("preferences")
    assert by_score[0]["margin"] == pytest.approx(0.7) and len(by_score) == 6


def test_rewards_are_of_distinct_whole_candidates() -> None:
    assert [(r["completion"], r["reward"]) for r in rows("rewards", grade=right)] == [
        ("a\nb\n3", 1.0),
        ("a\nb\n4", 0.0),
        ("a\nc\n3", 1.0),
        ("x\n9", 0.0),
    ]


def test_labels_of_steps_are_values_of_the_tree() -> None:
    made = rows("steps", grade=right)
    assert made[0] == {"prompt": "p", "completions": ["a", "b", "3"], "labels": [2 / 3, 0.5, 1.0]}
    assert made[1]["labels"] == [2 / 3, 0.5, 0.0] and made[3]["labels"] == [0.0, 0.0]


def test_what_gives_no_rows() -> None:
    abstained = chosen(candidate("3"))
    abstained.abstained = True
    assert search_rows([EXAMPLE, EXAMPLE], [object(), abstained]) == []
    with pytest.raises(ConfigError, match="kind"):
        rows("pairs")
    with pytest.raises(ConfigError, match="2 examples and 1"):
        search_rows([EXAMPLE, EXAMPLE], [GROUP])
    with pytest.raises(ConfigError, match="no score"):
        search_rows([EXAMPLE], [chosen(candidate("3"))], "preferences")


def test_a_search_is_one_tree() -> None:
    group = search_group(EXAMPLE, GROUP)
    assert group.prompt_ids == (1, 2) and len(group.traces) == 5
    sequences = [
        TokenSequence(
            np.array(trace.turns[0].ids),
            np.arange(len(trace.turns[0].ids)) >= 2,
            row=str(number),
        )
        for number, trace in enumerate(group.traces)
    ]
    tree = Tree.build(sequences, min_shared=1)
    prefixes = {tuple(s.ids[:end]) for s in sequences for end in range(1, len(s.ids) + 1)}
    assert tree.num_tokens == len(prefixes)
    two = chosen(candidate("3"), Candidate((1,), "x", -1.0, True, context_ids=(9,)))
    with pytest.raises(ConfigError, match="2 contexts"):
        search_group(EXAMPLE, two)
    bare = chosen(Candidate((1,), "x", -1.0, True, context_ids=(9,)))
    with pytest.raises(ConfigError, match="no log-probs"):
        search_group(EXAMPLE, bare)


def test_rounds_of_search_and_training_are_a_loop() -> None:
    """Every kind of row trains; the search's own choices are imitated in rounds."""
    task = arithmetic(num_steps=2, num_examples=8)
    model = pt.load("embedded")
    for _ in range(2):
        selections = pt.run_search(model, task, pt.strategy.majority_vote(num_samples=4))
        rows = pt.search_rows(task.examples, selections, "completions", grade=task.score)
        result = pt.fit(model, pt.sft(rows, batch_size=4), steps=1)
    assert np.isfinite(result.metrics["loss"])
    made = {
        kind: pt.search_rows(task.examples, selections, kind, grade=task.score) for kind in KINDS
    }
    assert all(made.values())
    assert np.isfinite(pt.fit(model, pt.dpo(made["preferences"]), steps=1).metrics["loss"])
