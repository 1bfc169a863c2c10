"""Disagreement of a committee: adapters, seeds, or the passes of one model under dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from posttrain.registry import selectors
from posttrain.selectors.ranking import TINY, Numbers, Places, entropy_of, highest


@selectors.register
def bald(committee: Any, num: int) -> Places:
    """u = H(E_k p_k) - E_k H(p_k): mutual information of label and weights (arXiv 1112.5745;
    with dropout, arXiv 1703.02910). 0 where all members agree, however unsure they are.
    """
    members = np.asarray(committee, dtype=np.float64)
    return highest(entropy_of(members.mean(0)) - entropy_of(members).mean(0), num)


@selectors.register
def vote_entropy(committee: Any, num: int) -> Places:
    """u = -sum_c V_c/K log V_c/K, V_c members that predict class c: query by committee (Dagan and
    Engelson 1995).
    """
    members = np.asarray(committee, dtype=np.float64)
    votes = np.eye(members.shape[2])[members.argmax(2)]  # [K, P, C]
    return highest(entropy_of(votes.mean(0)), num)


@selectors.register
def committee_kl(committee: Any, num: int) -> Places:
    """u = 1/K sum_k KL(p_k || E_k p_k): query by committee (McCallum and Nigam 1998)."""
    return highest(_divergence(np.asarray(committee, dtype=np.float64)), num)


def _divergence(members: Numbers) -> Numbers:
    mean = members.mean(0)
    ratio = np.log(np.maximum(members, TINY)) - np.log(np.maximum(mean, TINY))
    values: Numbers = (members * ratio).sum(-1).mean(0)
    return values


@selectors.register
def reward_variance(ensemble_rewards: Any, num: int) -> Places:
    """u = mean over completions of Var_e r_e(x, y), the variance over an ensemble of reward models
    (the disagreement of arXiv 2310.02743; Gleave and Irving 2022, arXiv 2203.07472).
    """
    rewards = np.asarray(ensemble_rewards, dtype=np.float64)  # [P, G, E]
    return highest(rewards.var(axis=2).mean(axis=1), num)
