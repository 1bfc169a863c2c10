"""Query by committee, on numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.selectors import committee as c
from posttrain.selectors.ranking import entropy_of

# Two members: on row 0 they agree and are unsure, on row 1 they disagree and are sure.
MEMBERS = np.array([[[0.5, 0.5], [1.0, 0.0], [0.9, 0.1]], [[0.5, 0.5], [0.0, 1.0], [0.8, 0.2]]])


def test_bald_is_0_where_the_members_agree() -> None:
    gain = entropy_of(MEMBERS.mean(0)) - entropy_of(MEMBERS).mean(0)
    assert gain[:2] == pytest.approx([0, np.log(2)], abs=1e-9)
    assert c.bald(MEMBERS, 3).tolist() == [1, 2, 0]


def test_mean_divergence_from_the_consensus_is_the_mutual_information() -> None:
    gain = entropy_of(MEMBERS.mean(0)) - entropy_of(MEMBERS).mean(0)
    assert c._divergence(MEMBERS) == pytest.approx(gain, abs=1e-9)
    assert c.committee_kl(MEMBERS, 3).tolist() == [1, 2, 0]


def test_votes() -> None:
    votes = np.array([[[0.6, 0.4], [0.6, 0.4]], [[0.4, 0.6], [0.9, 0.1]], [[0.7, 0.3], [0.8, 0.2]]])
    # Row 0: votes 2 to 1, row 1: 3 to 0.
    assert c.vote_entropy(votes, 2).tolist() == [0, 1]


def test_variance_of_an_ensemble_of_rewards() -> None:
    rewards = np.array([[[1.0, 1.0], [2.0, 2.0]], [[0.0, 2.0], [0.0, 0.0]]])
    assert c.reward_variance(rewards, 2).tolist() == [1, 0]
