"""Uncertainty of one model: rows whose prediction is least sure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain.registry import selectors
from posttrain.selectors.ranking import Places, entropy_of, highest


@selectors.register
def random(num_candidates: int, num: int, rng: Any) -> Places:
    """Rows drawn with equal probability: the baseline that is hard to beat."""
    return np.asarray(rng.permutation(num_candidates)[:num], dtype=np.int64)


@selectors.register
def least_confidence(probabilities: Any, num: int) -> Places:
    """u = 1 - max_c p_c (Lewis and Gale 1994, cmp-lg/9407020)."""
    return highest(1 - np.max(probabilities, axis=1), num)


@selectors.register
def margin(probabilities: Any, num: int) -> Places:
    """u = -(p_1 - p_2), the two largest probabilities (Scheffer et al. 2001)."""
    ordered = np.sort(np.asarray(probabilities, dtype=np.float64), axis=1)
    return highest(ordered[:, -2] - ordered[:, -1], num)


@selectors.register
def entropy(probabilities: Any, num: int) -> Places:
    """u = H(p) = -sum_c p_c log p_c, in nats (Shannon 1948; Settles 2009, section 3.1)."""
    return highest(entropy_of(probabilities), num)


@selectors.register
def token_entropy(token_entropies: Sequence[Any], num: int) -> Places:
    """u = max_t H(p_t): the least certain token of the model's own completion.

    A completion without a token has no entropy and is chosen last.
    """
    return highest([_over(values, np.max) for values in token_entropies], num)


@selectors.register
def sequence_entropy(token_entropies: Sequence[Any], num: int) -> Places:
    """u = 1/T sum_t H(p_t) over the tokens of the model's own completion (Settles and Craven
    2008, "total token entropy", here by length).
    """
    return highest([_over(values, np.mean) for values in token_entropies], num)


@selectors.register
def sequence_likelihood(completion_logprobs: Sequence[Any], num: int) -> Places:
    """u = -1/T sum_t log p(y_t | y_<t) of the model's own completion: its normalised sequence
    log-prob (Settles and Craven 2008, "least confidence" of a sequence).
    """
    return highest([-_over(values, np.mean) for values in completion_logprobs], num)


def _over(values: Any, reduce: Any) -> float:
    return float(reduce(np.asarray(values, dtype=np.float64))) if len(values) else float("nan")


@selectors.register
def semantic_entropy(answers: Sequence[Sequence[str]], num: int) -> Places:
    """u = -sum_k q_k log q_k over clusters of sampled answers of one meaning (arXiv 2302.09664).

    q_k is the share of samples in cluster k, the estimate that needs no log-probs (2302.09664,
    discrete form). Answers are of one meaning where they are equal but for case and white space:
    a task's extracted answers are.
    """
    return highest([entropy_of(_shares(samples)) for samples in answers], num)


@selectors.register
def disagreement(answers: Sequence[Sequence[str]], num: int) -> Places:
    """u = (number of different answers) / (number of samples): Active-Prompt (arXiv 2302.12246)."""
    return highest([len(_shares(samples)) / max(len(samples), 1) for samples in answers], num)


def _shares(samples: Sequence[str]) -> Any:
    """The share of each distinct answer."""
    words = [" ".join(str(answer).casefold().split()) for answer in samples]
    counts = np.unique(np.array(words, dtype=object).astype(str), return_counts=True)[1]
    return counts / max(len(words), 1)


@selectors.register
def learnability(grades: Any, num: int) -> Places:
    """u = p (1 - p), p the share of a prompt's samples that the task accepts: the variance of the
    reward, 0 where a policy gradient of groups is 0 (arXiv 2504.03380, 2502.12272).
    """
    p = np.nanmean(np.asarray(grades, dtype=np.float64), axis=1)
    return highest(p * (1 - p), num)
