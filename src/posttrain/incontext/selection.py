"""Which rows of a pool are shown before a question.

A selection is a function under `@selections.register`. It returns places in the pool: k of them
[num_shots] for all questions, which then share one prefix, or k for each [questions, num_shots],
the best first. Any function of these inputs selects, such as one for active learning:

    def least_confident(pool, num_shots): return indices
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from posttrain.errors import ConfigError, DataError
from posttrain.incontext.bm25 import BM25
from posttrain.incontext.rows import Labelled
from posttrain.registry import selections

Places = NDArray[np.int64]
Numbers = NDArray[np.float64]
Vectors = Callable[[Sequence[str], str], Numbers]


@selections.register
def random(
    pool: Sequence[Labelled],
    num_shots: int,
    draw: np.random.Generator,
    *,
    balanced: bool = True,
) -> Places:
    """The same random rows for all questions. [num_shots].

    balanced: take the labels in turn, in a random order, so that their numbers differ by 1 at most.
    """
    order = draw.permutation(len(pool))
    if not balanced:
        return order[:num_shots]
    seen: dict[str, int] = {}
    turns = np.empty(len(pool), dtype=np.int64)  # how often the row's label came before
    for place in order:
        label = pool[place].label
        turns[place] = seen.get(label, 0)
        seen[label] = seen.get(label, 0) + 1
    chosen = order[np.argsort(turns[order], kind="stable")][:num_shots]
    return draw.permutation(chosen)


@selections.register
def nearest(
    pool: Sequence[Labelled],
    queries: Sequence[str],
    num_shots: int,
    vectors: Vectors,
    *,
    features: str = "words",
) -> Places:
    """The rows most similar to each question by cosine (KATE, arXiv 2101.06804). [Q, num_shots].

    features: "words" (TF-IDF), "embeddings" (static sentence embeddings, which need an extra), or
        "hidden" (the mean of the model's own last hidden states).
    """
    similar = vectors(queries, features) @ vectors([row.text for row in pool], features).T
    return np.argsort(-similar, axis=1, kind="stable")[:, :num_shots]


@selections.register
def bm25(
    pool: Sequence[Labelled],
    queries: Sequence[str],
    num_shots: int,
    *,
    k1: float = 1.5,
    b: float = 0.75,
) -> Places:
    """The rows with the highest BM25 to each question (arXiv 2112.08633). [Q, num_shots].

    k1: how soon further occurrences of a word count less.
    b: how much long rows are discounted, from 0 to 1.
    """
    index = BM25([row.text for row in pool], k1=k1, b=b)
    scores = np.stack([index.scores(query) for query in queries])
    return np.argsort(-scores, axis=1, kind="stable")[:, :num_shots]


@selections.register
def k_center(
    pool: Sequence[Labelled],
    num_shots: int,
    draw: np.random.Generator,
    vectors: Vectors,
    *,
    features: str = "words",
) -> Places:
    """Rows that cover the pool: greedy k-centre (Gonzalez 1985; arXiv 1708.00489). [num_shots].

        next = argmax_i min_{j chosen} |x_i - x_j|

    The first is random. The largest distance of a row from the chosen ones is at most twice the
    least possible one.

    features: see `nearest`.
    """
    x = vectors([row.text for row in pool], features)
    chosen = [int(draw.integers(len(pool)))]
    distance = np.full(len(pool), np.inf)
    while len(chosen) < num_shots:
        distance = np.minimum(distance, np.linalg.norm(x - x[chosen[-1]], axis=1))
        distance[chosen] = -1.0
        chosen.append(int(distance.argmax()))
    return np.array(chosen)


@selections.register
def dpp(
    pool: Sequence[Labelled],
    queries: Sequence[str],
    num_shots: int,
    vectors: Vectors,
    *,
    features: str = "words",
    relevance: float = 0.0,
    num_candidates: int = 100,
) -> Places:
    """Diverse rows by a determinantal point process, the greedy MAP (arXiv 1709.05135).

        L_ij = r_i r_j (x_i . x_j + 1) / 2        r_i = exp(relevance x_i . q)
        next = argmax_i log det L_{chosen + i}

    Without relevance the same rows are chosen for all questions [num_shots]; with it, each question
    chooses among its nearest rows [Q, num_shots] (CEIL, arXiv 2302.05698).

    features: see `nearest`.
    relevance: weight of the similarity to the question.
    num_candidates: nearest rows to choose among, with relevance.
    """
    if relevance < 0 or num_candidates < 1:
        raise ConfigError(
            f"dpp: relevance is {relevance} and num_candidates {num_candidates}; relevance >= 0, "
            "and at least one candidate"
        )
    x = vectors([row.text for row in pool], features)
    if relevance == 0:
        return np.array(greedy_map((x @ x.T + 1) / 2, num_shots))
    rows = []
    for q in vectors(queries, features):
        near = np.argsort(-(x @ q), kind="stable")[: max(num_candidates, num_shots)]
        weight = np.exp(relevance * (x[near] @ q))
        kernel = (x[near] @ x[near].T + 1) / 2 * np.outer(weight, weight)
        rows.append(near[greedy_map(kernel, num_shots)])
    return np.stack(rows)


def greedy_map(kernel: Numbers, number: int) -> list[int]:
    """The greedy subset of the largest log-determinant, by incremental Cholesky factors.

    Each step adds argmax_i d_i^2, where d_i^2 is what log det grows by, as exp (Chen et al., arXiv
    1709.05135, algorithm 1). Rows that add nothing (duplicates) come last, in order. O(N number^2).

    Args:
        kernel: positive semi-definite [N, N].
    """
    gain = kernel.diagonal().astype(np.float64)
    factors = np.zeros((number, len(kernel)))
    left = np.ones(len(kernel), dtype=bool)
    chosen: list[int] = []
    for step in range(number):
        best = int(np.where(left, gain, -np.inf).argmax())
        chosen.append(best)
        left[best] = False
        if gain[best] <= 1e-12:
            continue
        row = (kernel[best] - factors[:step, best] @ factors[:step]) / np.sqrt(gain[best])
        factors[step] = row
        gain = np.maximum(gain - row**2, 0.0)
    return chosen


def places_of(selected: object, num_queries: int, num_pool: int, num_shots: int) -> Places:
    """What a selection returned, as places of the pool for each question. [Q, num_shots].

    Raises:
        DataError: another shape, a place outside the pool, or a row twice before one question.
    """
    places = np.asarray(selected)
    if places.shape == (num_shots,):
        places = np.broadcast_to(places, (num_queries, num_shots))
    wrong = ""
    if places.shape != (num_queries, num_shots):
        wrong = f"has the shape {places.shape}"
    elif places.size and not np.issubdtype(places.dtype, np.integer):
        wrong = f"holds {places.dtype} and no whole numbers"
    elif places.size and (places.min() < 0 or places.max() >= num_pool):
        wrong = f"holds places from {places.min()} to {places.max()}"
    elif any(len(set(row)) < num_shots for row in places.tolist()):
        wrong = "shows a question the same row twice"
    if wrong:
        raise DataError(
            f"the selection {wrong}; it must return {num_shots} different places of the pool's "
            f"{num_pool} rows, or as many for each of the {num_queries} questions"
        )
    return places.astype(np.int64)
