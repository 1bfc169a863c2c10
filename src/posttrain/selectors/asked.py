"""A language model chooses: it is asked which rows are worth a label."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain.registry import selectors
from posttrain.selectors.diversity import nearest_centre, seeded
from posttrain.selectors.ranking import Places, highest

QUALITY = (
    "###\n{text}\n###\n\nDoes the previous text, between ###, contain informative signal for "
    "training a language model? Answer yes or no.\nAnswer:"
)
RANK = (
    "Below are {count} unlabelled examples.\n\n{listed}\n\nWhich one would teach a model most if "
    "it were labelled? Answer with its number.\nAnswer:"
)
CHOICE = (
    "Below are {count} unlabelled examples.\n\n{listed}\n\nChoose the {num} that should be "
    "labelled: those whose label is hardest to guess, and that differ from each other. Answer with "
    "their numbers.\nAnswer:"
)


@selectors.register
def ask_llm(
    texts: Sequence[str], yes_probability: Any, num: int, *, prompt: str = QUALITY
) -> Places:
    """u = P("yes" | is this text informative?): Ask-LLM (arXiv 2402.09668, section 3.1).

    prompt: the question, with {text} where the row stands.
    """
    return highest(yes_probability([_filled(prompt, text=text) for text in texts]), num)


@selectors.register
def select_llm(
    texts: Sequence[str], embeddings: Any, ask: Any, num: int, rng: Any, *, prompt: str = RANK
) -> Places:
    """The row of each of `num` groups that the model names: SelectLLM (arXiv 2401.16553).

    Groups are the nearest rows of centres that k-means++ draws, so that they differ; within each
    the model is asked for the most instructive row. A group whose answer names no row gives the
    one nearest to its centre. The paper forms its groups by one of three rules; this is the
    diverse one in kind.

    prompt: the question, with {count} and {listed}.
    """
    points = np.asarray(embeddings, dtype=np.float64)
    seeds = seeded(points, min(num, len(points)), rng)
    nearest = nearest_centre(points, points[seeds])
    groups = [_group(nearest, place, seed) for place, seed in enumerate(seeds)]
    asked = [
        _filled(prompt, count=len(group), listed=_listed([texts[i] for i in group]))
        for group in groups
    ]
    chosen = []
    for group, answer in zip(groups, ask(asked), strict=True):
        named = _numbers(answer, len(group))
        chosen.append(group[named[0] if named else 0])
    return np.array(chosen, dtype=np.int64)


def _group(nearest: Any, place: int, seed: int) -> list[int]:
    """The rows of a centre, itself first."""
    return [seed, *(int(i) for i in np.flatnonzero(nearest == place) if i != seed)]


@selectors.register
def active_llm(
    texts: Sequence[str],
    ask: Any,
    num: int,
    rng: Any,
    *,
    list_size: int = 20,
    prompt: str = CHOICE,
) -> Places:
    """Rows that the model picks from lists: ActiveLLM (arXiv 2405.10808).

    The model sees unlabelled rows alone and is asked for uncertain and different ones, so that it
    serves a cold start. Lists of `list_size` rows are drawn at random and give their share of the
    rows each. What an answer leaves open is filled at random from its list.

    list_size: rows that one question shows.
    prompt: the question, with {count}, {num} and {listed}.
    """
    order = [int(i) for i in rng.permutation(len(texts))]
    num = min(num, len(order))
    lists = [order[start : start + list_size] for start in range(0, len(order), list_size)]
    lists = lists[: max(1, num)]
    shares = _shares([len(rows) for rows in lists], num)
    asked = [
        _filled(prompt, count=len(rows), num=share, listed=_listed([texts[i] for i in rows]))
        for rows, share in zip(lists, shares, strict=True)
    ]
    chosen: list[int] = []
    for rows, share, answer in zip(lists, shares, ask(asked), strict=True):
        named = [rows[i] for i in _numbers(answer, len(rows))]
        rest = [row for row in rows if row not in named]
        chosen += [*named, *rest][:share]
    return np.array(chosen, dtype=np.int64)


def _shares(sizes: Sequence[int], num: int) -> list[int]:
    """How many rows each list gives, as even as its size allows, `num` in all or all there are."""
    shares = [0] * len(sizes)
    left = min(num, sum(sizes))
    while left:
        for place, size in enumerate(sizes):
            if left and shares[place] < size:
                shares[place] += 1
                left -= 1
    return shares


@selectors.register
def active_prune(
    texts: Sequence[str],
    perplexities: Any,
    yes_probability: Any,
    num: int,
    *,
    perplexity_share: float = 0.5,
    prompt: str = QUALITY,
) -> Places:
    """Prune a pool in two steps: the rows of middle perplexity, then those that the model calls
    informative (ActivePrune).

    It is meant as `prune=` of `pt.active`, before any selector. Rows are ordered by their distance
    in rank from the median perplexity; `perplexity_share` of them, and at least `num`, are asked
    about. From the survey's description (arXiv 2502.11767, section 3.2); the paper reweighs
    perplexity and asks a quantised model.

    perplexity_share: of the pool that the model is asked about.
    prompt: the question, with {text} where the row stands.
    """
    ranks = np.argsort(np.argsort(np.asarray(perplexities, dtype=np.float64), kind="stable"))
    middle = (len(texts) - 1) / 2
    count = max(num, round(perplexity_share * len(texts)))
    typical = highest(-np.abs(ranks - middle), count)
    quality = yes_probability([_filled(prompt, text=texts[i]) for i in typical])
    return typical[highest(quality, num)]


def _filled(prompt: str, **values: Any) -> str:
    """The question with its values; braces of the rows' own text stay."""
    for name, value in values.items():
        prompt = prompt.replace("{" + name + "}", str(value))
    return prompt


def _listed(texts: Sequence[str]) -> str:
    return "\n".join(f"{number}. {' '.join(t.split())}" for number, t in enumerate(texts, 1))


def _numbers(answer: str, count: int) -> list[int]:
    """Distinct places that an answer names, from 0."""
    named = [int(digits) - 1 for digits in re.findall(r"\d+", answer)]
    return list(dict.fromkeys(place for place in named if 0 <= place < count))
