"""In which order demonstrations stand before a question.

An order is a function under `@orders.register`. It returns a permutation of the places of the
shots; the last stands next to the question. An order that does not ask for `text` is made once for
all questions with the same shots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice, permutations
from math import factorial

import numpy as np
from numpy.typing import NDArray

from posttrain.errors import ConfigError
from posttrain.incontext.rows import Labelled
from posttrain.registry import orders

Numbers = NDArray[np.float64]
Vectors = Callable[[Sequence[str], str], Numbers]
Predict = Callable[[Sequence[Sequence[int]], Sequence[str]], Numbers]
Probes = Callable[[int], Sequence[str]]
Written = Callable[[Sequence[Sequence[int]], int], Sequence[str]]


@orders.register
def as_selected(shots: Sequence[Labelled]) -> list[int]:
    """As the selection gave them."""
    return list(range(len(shots)))


@orders.register
def shuffled(shots: Sequence[Labelled], draw: np.random.Generator) -> list[int]:
    """At random."""
    return draw.permutation(len(shots)).tolist()


@orders.register
def similarity(
    shots: Sequence[Labelled], text: str, vectors: Vectors, *, features: str = "words"
) -> list[int]:
    """The most similar to the question last (arXiv 2101.06804).

    features: "words", "embeddings" or "hidden".
    """
    similar = vectors([s.text for s in shots], features) @ vectors([text], features)[0]
    return np.argsort(similar, kind="stable").tolist()


@orders.register
def global_entropy(
    shots: Sequence[Labelled],
    predict: Predict,
    probes: Probes,
    written: Written,
    draw: np.random.Generator,
    *,
    num_orders: int = 24,
    num_probes: int = 32,
    generated: bool = False,
) -> list[int]:
    """The order whose predictions are spread over the labels best (GlobalE, arXiv 2104.08786).

        p_v = share of probes with the prediction v        GlobalE = - sum_v p_v log p_v

    The largest wins. Probes are texts of the pool that are not among the shots, whose labels are
    not read, or, as in the paper, what the model writes itself.

    num_orders: orders that are tried, at random where there are more.
    num_probes: texts that each of them predicts.
    generated: let the model write the probes below the orders.
    """
    tried = tried_orders(len(shots), num_orders, draw)
    texts = written(tried, num_probes) if generated else probes(num_probes)
    probabilities = predict(tried, texts)
    return list(tried[int(global_entropies(probabilities).argmax())])


@orders.register
def local_entropy(
    shots: Sequence[Labelled],
    predict: Predict,
    probes: Probes,
    written: Written,
    draw: np.random.Generator,
    *,
    num_orders: int = 24,
    num_probes: int = 32,
    generated: bool = False,
) -> list[int]:
    """The order whose single predictions are the least confident (LocalE, arXiv 2104.08786).

        LocalE = mean over probes of - sum_v p(v | probe) log p(v | probe)

    The largest wins: a prompt that is sure of everything is badly calibrated. Probes are as in
    `global_entropy`.

    num_orders: orders that are tried, at random where there are more.
    num_probes: texts that each of them predicts.
    generated: let the model write the probes below the orders.
    """
    tried = tried_orders(len(shots), num_orders, draw)
    texts = written(tried, num_probes) if generated else probes(num_probes)
    probabilities = predict(tried, texts)
    return list(tried[int(local_entropies(probabilities).argmax())])


@orders.register
def mdl(
    shots: Sequence[Labelled],
    text: str,
    predict: Predict,
    draw: np.random.Generator,
    *,
    num_orders: int = 12,
) -> list[int]:
    """The order under which the question's own label has the shortest code (arXiv 2212.10375).

        L = E_{y ~ p(. | x, order)} [- log p(y | x, order)]

    The smallest wins: the entropy of the prediction for this question. Each question tries its own
    orders.

    num_orders: orders that are tried, at random where there are more.
    """
    tried = tried_orders(len(shots), num_orders, draw)
    return list(tried[int(local_entropies(predict(tried, [text])).argmin())])


def global_entropies(probabilities: Numbers) -> Numbers:
    """Entropy of the predicted labels of each order, nats. [orders, texts, labels] -> [orders]."""
    labels = probabilities.shape[-1]
    predicted = probabilities.argmax(axis=-1)
    shares = np.stack([np.bincount(row, minlength=labels) for row in predicted])
    return entropy(shares / probabilities.shape[1])


def local_entropies(probabilities: Numbers) -> Numbers:
    """Mean entropy of the predictions of each order, nats. [orders, texts, labels] -> [orders]."""
    result: Numbers = entropy(probabilities).mean(axis=1)
    return result


def entropy(probabilities: Numbers) -> Numbers:
    """- sum p log p over the last axis, nats; 0 log 0 is 0."""
    logs = np.log(np.where(probabilities > 0, probabilities, 1.0))
    result: Numbers = -(probabilities * logs).sum(axis=-1)
    return result


def tried_orders(size: int, number: int, draw: np.random.Generator) -> list[tuple[int, ...]]:
    """Orders of `size` shots: all of them where there are at most `number`, else different ones at
    random, the given one first.

    Raises:
        ConfigError: number is below 1.
    """
    if number < 1:
        raise ConfigError(f"num_orders is {number}; at least one order is tried")
    if size < 10 and factorial(size) <= number:
        return list(islice(permutations(range(size)), number))
    found = {tuple(range(size)): None}
    while len(found) < number:
        found[tuple(draw.permutation(size).tolist())] = None
    return list(found)
