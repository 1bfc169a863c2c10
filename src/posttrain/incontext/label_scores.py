"""Log-likelihoods of labels, all labels of all questions in token forests.

A question's prompt is a trunk and its labels are the leaves. Demonstrations that several questions
begin with are a deeper trunk, below which the questions branch. Each distinct token is computed
once, and so is the distribution behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.errors import ConfigError
from posttrain.models.forest_model import evaluating
from posttrain.models.language_model import LanguageModel

Numbers = NDArray[np.float64]
Normalization = Literal["sum", "token", "byte"]

_BLOCK_BYTES = 64 << 20
_MIN_SHARED = 4  # tokens: below it, a branch costs more than it saves


def label_logprobs(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    *,
    max_tokens: int = 16384,
) -> Numbers:
    """log p(label | prompt), summed over the label's tokens, nats. float64 [prompts, labels].

        log p(y | x) = sum_t log p(y_t | x, y_<t)

    Args:
        prompts: token ids of each question with its demonstrations, at least one each.
        labels: token ids of each label, the same for all questions.
        max_tokens: distinct tokens of a forward pass.
    """
    results = np.empty((len(prompts), len(labels)))
    for places in _passes(model, prompts, labels, max_tokens):
        sequences = [_sequence(prompts[p], label) for p in places for label in labels]
        sums = _sums(model, sequences).reshape(len(places), len(labels))
        results[places] = sums
    return results


def normalized(
    logprobs: ArrayLike,
    *,
    normalization: Normalization = "sum",
    num_tokens: Sequence[int] = (),
    num_bytes: Sequence[int] = (),
    prior: ArrayLike | None = None,
) -> Numbers:
    """Scores of labels, and from them log-probabilities that sum to 1. [Q, C] -> [Q, C].

        score(y) = (log p(y | x) - log p(y)) / length(y)
        log p(y | x, one of the labels) = score(y) - log sum_y' exp score(y')

    >>> normalized([[-1.0, -4.0]], normalization="token", num_tokens=[1, 4]).round(4).tolist()
    [[-0.6931, -0.6931]]

    Args:
        normalization: length is 1 ("sum"), the label's tokens ("token"), or its bytes ("byte",
            which does not depend on the tokenizer; Gao, lm-evaluation-harness).
        num_tokens, num_bytes: of each label.
        prior: log p(y) of each label without a question, which is removed (PMI, Holtzman et al.,
            arXiv 2104.08315). None removes nothing.
    """
    scores = np.asarray(logprobs, dtype=np.float64)
    if prior is not None:
        scores = scores - np.asarray(prior, dtype=np.float64)
    lengths = {"sum": None, "token": num_tokens, "byte": num_bytes}
    if normalization not in lengths:
        raise ConfigError(
            f"normalization: {normalization!r} is not known; choose one of {', '.join(lengths)}"
        )
    if (chosen := lengths[normalization]) is not None:
        scores = scores / np.asarray(chosen, dtype=np.float64)
    return log_softmax(scores)


def log_softmax(scores: ArrayLike) -> Numbers:
    """log softmax over the last axis."""
    x = np.asarray(scores, dtype=np.float64)
    shifted = x - x.max(axis=-1, keepdims=True)
    result: Numbers = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _sequence(prompt: Sequence[int], label: Sequence[int]) -> TokenSequence:
    ids = np.array([*prompt, *label])
    return TokenSequence(ids, np.arange(len(ids)) >= len(prompt))


def _passes(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    max_tokens: int,
) -> Iterator[list[int]]:
    """Places of the prompts of each forward pass; prompts that begin alike stand together."""
    leaves = sum(map(len, labels))
    order = sorted(range(len(prompts)), key=lambda place: tuple(prompts[place]))
    places: list[int] = []
    size = 0
    for place in order:
        length = len(prompts[place])
        if model.shares_trunks:
            shared = _common(prompts[places[-1]], prompts[place]) if places else 0
            new = length - shared + leaves
        else:  # padded rows, one per label
            new = length * len(labels) + leaves
        if places and size + new > max_tokens:
            yield places
            places, size, new = [], 0, length + leaves
        places.append(place)
        size += new
    if places:
        yield places


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens that two sequences begin with alike."""
    length = min(len(a), len(b))
    differ = np.flatnonzero(np.asarray(a[:length]) != np.asarray(b[:length]))
    return int(differ[0]) if len(differ) else length


def _sums(model: LanguageModel, sequences: list[TokenSequence]) -> Numbers:
    """Summed log-probs of the targets of each sequence."""
    forest = Forest.pack([Tree.build(sequences, min_shared=_MIN_SHARED)]).to(model.device)
    with torch.no_grad(), evaluating(model.hf):
        source, place = forest.source, torch.arange(len(forest.source), device=model.device)
        if model.shares_trunks:
            # First tokens of the labels are predicted by one place: its distribution counts once.
            source, place = forest.source.unique(return_inverse=True)
        hidden = model.rows_at(replace(forest, source=source), sources=True)
        logprobs = _targets(model, hidden, place, forest.target)
    sums = torch.zeros(len(sequences), dtype=torch.float64)
    sums.index_add_(0, forest.sequence.cpu(), logprobs.double().cpu())
    result: Numbers = sums.numpy()
    return result


def _targets(
    model: LanguageModel, hidden: torch.Tensor, place: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """Log-probs [M] of targets, each predicted by one of U rows. hidden [U, D], place [M]."""
    head = model.head.widened()
    rows = max(1, _BLOCK_BYTES // (4 * head.weight.shape[0]))
    results = hidden.new_zeros(len(target), dtype=torch.promote_types(hidden.dtype, torch.float32))
    for start in range(0, len(hidden), rows):
        logits = head.logits(hidden[start : start + rows])
        inside = ((place >= start) & (place < start + rows)).nonzero()[:, 0]
        local = place[inside] - start
        chosen = logits[local, target[inside]] - logits.logsumexp(dim=-1)[local]
        results[inside] = chosen.to(results.dtype)
    return results
