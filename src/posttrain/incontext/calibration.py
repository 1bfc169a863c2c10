"""Corrections of the probabilities of labels: what a prompt favours whatever the question.

A calibration is a function under `@calibrations.register`, from log-probs [Q, C] of labels to
corrected ones. All three divide by an estimate of the prompt's own bias and normalise:

    q(y | x) = p(y | x) / b(y) / sum_y' p(y' | x) / b(y')

They differ in the texts that the bias is the mean prediction of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from posttrain.errors import ConfigError
from posttrain.incontext.features import words
from posttrain.incontext.label_scores import log_softmax
from posttrain.incontext.rows import Labelled
from posttrain.registry import calibrations

Numbers = NDArray[np.float64]
Blank = Callable[[Sequence[str]], Numbers]

BLANK_TEXTS = ("N/A", "[MASK]", "")


@calibrations.register
def contextual(logprobs: Numbers, blank: Blank, *, texts: Sequence[str] = BLANK_TEXTS) -> Numbers:
    """Contextual calibration: b is the mean prediction for texts without content. [Q, C].

        b(y) = mean over t of p(y | t)        (W = diag(b)^-1, arXiv 2102.09690)

    With b in place of the question itself every label has the probability 1 / C. The paper takes a
    softmax of W p; here W p is divided by its sum, as in the authors' code.

    texts: without content.
    """
    if not texts:
        raise ConfigError("contextual: texts is empty; give at least one, such as 'N/A'")
    return divided(logprobs, mean_prediction(blank(list(texts))))


@calibrations.register
def domain(
    logprobs: Numbers,
    blank: Blank,
    pool: Sequence[Labelled],
    draw: np.random.Generator,
    *,
    num_texts: int = 20,
) -> Numbers:
    """Domain-context calibration: b is the mean prediction for random words. [Q, C].

        b(y) = mean over t of p(y | t),  t = words of the pool's texts at random, of mean length

    (arXiv 2305.19148). It also removes what the words of the domain alone suggest.

    num_texts: random texts.
    """
    if num_texts < 1:
        raise ConfigError(f"domain: num_texts is {num_texts}; at least one is needed")
    texts = random_texts([row.text for row in pool], num_texts, draw)
    return divided(logprobs, mean_prediction(blank(texts)))


@calibrations.register
def batch(logprobs: Numbers) -> Numbers:
    """Batch calibration: b is the mean prediction for the questions themselves. [Q, C].

        b(y) = mean over x of p(y | x)        (arXiv 2309.17249)

    It needs no further pass and no labels. It draws predictions towards equal shares of the labels,
    so it is wrong where the questions' labels are not of equal shares.
    """
    return divided(logprobs, mean_prediction(logprobs[None]))


def mean_prediction(logprobs: Numbers) -> Numbers:
    """log of the mean probability over the texts. [Q, T, C] -> [Q, C]."""
    result: Numbers = np.logaddexp.reduce(logprobs, axis=1) - np.log(logprobs.shape[1])
    return result


def divided(logprobs: Numbers, bias: Numbers) -> Numbers:
    """log of p / b, normalised. [Q, C], and [Q, C] or [1, C] -> [Q, C].

    >>> p, b = np.log([[0.6, 0.4]]), np.log([[0.75, 0.25]])
    >>> np.exp(divided(p, b)).round(4).tolist()
    [[0.3333, 0.6667]]
    """
    return log_softmax(np.asarray(logprobs) - np.asarray(bias))


def random_texts(texts: Sequence[str], number: int, draw: np.random.Generator) -> list[str]:
    """Texts of words at random from all texts, as long as the mean of them."""
    bag = [word for text in texts for word in words(text)]
    if not bag:
        raise ConfigError("domain: the pool's texts hold no words; take another calibration")
    length = max(1, round(len(bag) / len(texts)))
    return [" ".join(bag[i] for i in draw.integers(len(bag), size=length)) for _ in range(number)]
