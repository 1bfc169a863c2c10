"""Selectors that ask a language model, with scripted answers."""

from __future__ import annotations

import numpy as np

from posttrain.selectors import asked

TEXTS = [f"row {i}" for i in range(8)]


def test_ask_llm_orders_by_the_probability_of_yes() -> None:
    def yes(questions: list[str]) -> list[float]:
        assert len(questions) == 8 and "row 3" in questions[3]
        return [0.1, 0.9, 0.2, 0.95, 0.0, 0.0, 0.0, 0.0]

    assert asked.ask_llm(TEXTS, yes, 2).tolist() == [3, 1]


def test_a_text_with_braces_stays_as_it_is() -> None:
    seen: list[str] = []

    def yes(questions: list[str]) -> list[float]:
        seen.extend(questions)
        return [1.0]

    asked.ask_llm(["{text} {x}"], yes, 1)
    assert "{text} {x}" in seen[0]


def test_select_llm_takes_the_named_row_of_each_group() -> None:
    points = np.array([[0.0], [0.1], [10.0], [10.1]])
    chosen = asked.select_llm(
        TEXTS[:4], points, lambda q: ["2"] * len(q), 2, np.random.default_rng(0)
    ).tolist()
    groups = [{0, 1}, {2, 3}]
    assert sorted(place // 2 for place in chosen) == [0, 1]
    silent = asked.select_llm(
        TEXTS[:4], points, lambda q: ["none"] * len(q), 2, np.random.default_rng(0)
    ).tolist()
    assert all({a, b} in groups for a, b in zip(sorted(chosen), sorted(silent), strict=True))


def test_active_llm_fills_what_an_answer_leaves_open() -> None:
    questions: list[str] = []

    def ask(asked_now: list[str]) -> list[str]:
        questions.extend(asked_now)
        return ["4 and 4, and 99"] * len(asked_now)

    rng = np.random.default_rng(0)
    chosen = asked.active_llm(TEXTS, ask, 4, rng, list_size=4).tolist()
    order = np.random.default_rng(0).permutation(8).tolist()
    assert len(set(chosen)) == 4 and len(questions) == 2
    assert chosen[0] == order[3] and chosen[2] == order[7]


def test_active_prune_asks_about_rows_of_middle_perplexity_alone() -> None:
    seen: list[str] = []

    def yes(questions: list[str]) -> list[float]:
        seen.extend(questions)
        return [float("row 3" in q) for q in questions]

    perplexities = [1, 2, 3, 4, 5, 6, 7, 1000]
    chosen = asked.active_prune(TEXTS, perplexities, yes, 2, perplexity_share=0.5)
    assert len(seen) == 4 and not any("row 7" in q or "row 0" in q for q in seen)
    assert chosen[0] == 3 and len(chosen) == 2
