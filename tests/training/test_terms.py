"""Terms of an objective: names, averages, and the rows that they are for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from posttrain.config import Component
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.errors import ConfigError, DataError
from posttrain.training.terms import check_marks, check_rows, labelled, term_of


def term(name: str, **changes: Any) -> Any:
    return term_of(Component(name, **changes), "token_mean")


def test_what_a_component_leaves_open() -> None:
    plain = term("nll")
    assert (plain.per, plain.weight, plain.aggregation, plain.on) == (
        "token",
        1.0,
        "token_mean",
        "sampled",
    )
    assert plain.inputs == ("logprobs",)
    assert term("given_nll").on == "given"
    assert term("nll", on="texts", aggregation="sequence_mean", weight=0.5).on == "texts"
    assert term("nll", aggregation="sequence_sum").aggregation == "sequence_sum"


def test_losses_of_pairs_and_groups_need_whole_trees() -> None:
    assert term("dpo").by_trees and term("mrt").by_trees
    assert not term("nll").by_trees


def test_a_pair_has_no_average_over_tokens() -> None:
    with pytest.raises(ConfigError, match="'dpo'.*aggregation"):
        term("dpo", aggregation="token_mean")


def test_settings_that_cannot_be_are_refused_without_numbers() -> None:
    with pytest.raises(ConfigError, match="'robust_dpo'.*label_smoothing"):
        term("robust_dpo", settings={"label_smoothing": 0.5})
    with pytest.raises(ConfigError, match="'no_such'"):
        term("no_such")


def test_two_terms_of_one_loss_have_two_labels() -> None:
    terms = labelled([term("nll", on="a"), term("nll", on="b"), term("kl")])
    assert [t.label for t in terms] == ["nll/a", "nll/b", "kl"]


def test_every_name_is_a_mark_and_every_mark_is_learnt() -> None:
    check_marks([term("nll", on="texts"), term("reinforce")], ["texts"])
    check_marks([term("nll", on="all")], ["given"])
    with pytest.raises(ConfigError, match="'text'.*'texts'"):
        check_marks([term("nll", on="text")], ["texts"])
    with pytest.raises(ConfigError, match="'given'"):
        check_marks([term("reinforce")], ["given"])
    check_marks([term("reinforce")], ["texts"])  # rows of another mark may be sampled


def tree(*streams: str, rows: int = 1) -> Tree:
    return Tree.build(
        [
            TokenSequence(
                np.array([1, 2 + i]),
                np.array([False, True]),
                {name: np.ones(2) for name in streams},
                row=f"row {'+'.join(streams)}",
            )
            for i in range(rows)
        ]
    )


def test_rows_that_lack_what_a_term_reads_are_named() -> None:
    batch = Batch([tree("ref_logprobs"), tree("texts")])
    with pytest.raises(DataError, match="'kl'.*row texts.*ref_logprobs"):
        check_rows([term("kl")], batch, 0)
    marked = Batch([tree("ref_logprobs", "rollouts"), tree("texts")])
    check_rows([term("kl", on="rollouts")], marked, 0)


def test_rows_that_are_no_pair_are_named() -> None:
    pairs = Batch([tree("pairs", rows=2), tree("texts")])
    with pytest.raises(DataError, match="'dpo'.*row texts"):
        check_rows([term("dpo")], pairs, 2)
    check_rows([term("dpo", on="pairs")], pairs, 2)


def test_what_no_row_has_is_left_to_the_loss() -> None:
    check_rows([term("kl")], Batch([tree("texts")]), 0)
