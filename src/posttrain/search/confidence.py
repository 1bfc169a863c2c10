"""How sure a model was of what it wrote: votes by it, and traces that end early for the lack of it.

    C_t = -1/k sum_{j in top k} log p_j          confidence of token t, nats
    group confidence: the mean of C_t over a window that slides by one token

The k likeliest tokens have small probabilities but for the first where the model is sure, so that
C_t is large there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Candidate, Ids, Selection
from posttrain.search.chunks import begun, continued, is_open
from posttrain.search.vote import vote

Source = Literal["top", "sampled"]
Measure = Literal["mean", "tail", "bottom", "min"]
Numbers = NDArray[np.float64]

BOTTOM_SHARE = 0.1
"""Of the groups of a trace, those that measure "bottom" reads: the least confident tenth."""


@searches.register
async def confidence_vote(
    prompt,
    ask,
    extract,
    *,
    num_samples: int = 8,
    measure: Literal["mean", "tail", "bottom", "min"] = "mean",
    window: int = 2048,
    top_fraction: float = 1.0,
    confidence: Literal["top", "sampled"] = "top",
    num_top_logprobs: int = 20,
) -> Selection:
    """A vote weighted by confidence, offline DeepConf (Fu et al., arXiv 2508.15260).

        argmax_a sum_{i in kept, answer_i = a} c_i;  c_i: the measure of trace i

    Traces below the (1 - top_fraction) quantile of c do not vote (note num_dropped). The paper has
    512 samples, a window of 2048 and keeps 0.1 or 0.9.

    num_samples: traces. measure: of a trace: mean over its tokens; tail, over its last window;
    bottom, over its least confident tenth of the groups; min, of its least confident group. window:
    tokens of a group; a shorter trace is one group. top_fraction: share of the traces that vote.
    confidence: top reads the log-probs of the num_top_logprobs likeliest tokens, as the paper does;
    sampled takes the probability of each sampled token in place of C_t, which every engine reports.
    num_top_logprobs: k.
    """
    _check(window, top_fraction)
    num_top = num_top_logprobs if confidence == "top" else 0
    candidates = await ask(prompt, num_samples, num_top_logprobs=num_top)
    numbers = [trace_confidence(c, measure, window, confidence) for c in candidates]
    bar = confidence_bar(candidates, numbers, top_fraction)
    weights = [number if number >= bar else -math.inf for number in numbers]
    scored = [c.scored(number) for c, number in zip(candidates, numbers, strict=True)]
    dropped = sum(number < bar for number in numbers)
    return vote(scored, weights, extract, num_dropped=float(dropped))


@searches.register
async def deepconf(
    prompt,
    ask,
    extract,
    decode,
    *,
    num_samples: int = 32,
    num_warmup: int = 8,
    top_fraction: float = 0.9,
    window: int = 2048,
    chunk_tokens: int = 64,
    confidence: Literal["top", "sampled"] = "top",
    num_top_logprobs: int = 20,
) -> Selection:
    """Online DeepConf (Fu et al., arXiv 2508.15260): traces that lose confidence are not finished.

        warm-up: whole traces; bar = quantile(least group confidence, 1 - top_fraction)
        then: a trace stops once the mean of its last full window is below the bar
        vote, weighted by the least group confidence; stopped traces do not vote

    Warm-up traces below the bar do not vote either. Notes: num_stopped; nothing_stopped is 1 where
    no trace was: then the search saved nothing, as where no trace is as long as the window. The
    paper has 256 samples, of which 16 warm up, a window of 2048, and keeps 0.9 ("high") or 0.1
    ("low").

    num_samples: traces, the warm-up's included. num_warmup: whole traces. top_fraction: share of
    the warm-up above the bar. window: tokens of a group. chunk_tokens: tokens between two looks at
    a trace; it may exceed its end by so many, which count as sampled. confidence,
    num_top_logprobs: as in `confidence_vote`.
    """
    _check(window, top_fraction)
    if num_warmup < 1 or chunk_tokens < 1:
        raise ConfigError(
            f"deepconf: num_warmup is {num_warmup} and chunk_tokens {chunk_tokens}; both must be "
            "at least 1"
        )
    num_top = num_top_logprobs if confidence == "top" else 0
    warmup = await ask(prompt, min(num_warmup, num_samples), num_top_logprobs=num_top)
    numbers = [trace_confidence(c, "min", window, confidence) for c in warmup]
    bar = confidence_bar(warmup, numbers, top_fraction)
    sampler = _Online(prompt, ask, decode, bar, window, chunk_tokens, confidence, num_top)
    traces, stopped = await sampler.traces(num_samples - len(warmup))
    candidates = [*warmup, *traces]
    numbers += [trace_confidence(c, "min", window, confidence) for c in traces]
    votes = [number >= bar for number in numbers[: len(warmup)]] + [not s for s in stopped]
    weights = [number if votes_ else -math.inf for number, votes_ in zip(numbers, votes)]
    scored = [c.scored(number) for c, number in zip(candidates, numbers, strict=True)]
    return vote(
        scored,
        weights,
        extract,
        num_stopped=float(sum(stopped)),
        nothing_stopped=float(bool(traces) and not any(stopped)),
        bar=bar if math.isfinite(bar) else 0.0,
    )


class _Online:
    """Traces that are looked at while they are sampled."""

    def __init__(
        self,
        prompt: Ids,
        ask,
        decode,
        bar: float,
        window: int,
        chunk_tokens: int,
        source: Source,
        num_top: int,
    ) -> None:
        self._prompt, self._decode, self._bar = prompt, decode, bar
        self._window, self._chunk, self._source = window, chunk_tokens, source
        self._num_top, self._ask = num_top, ask

    async def traces(self, number: int) -> tuple[list[Candidate], list[bool]]:
        """The traces, and which of them were stopped."""
        if number < 1:
            return [], []
        paths = await begun(
            self._prompt, self._ask, number, self._chunk, num_top_logprobs=self._num_top
        )
        stopped = [False] * number
        lengths = [0] * number
        while True:
            for place, path in enumerate(paths):
                stopped[place] = stopped[place] or self._falls_below(path, lengths[place])
            active = [
                place
                for place, path in enumerate(paths)
                if not stopped[place] and is_open(path, self._ask, lengths[place])
            ]
            if not active or self._ask.budget.is_spent:
                return paths, stopped
            lengths = [len(path.ids) for path in paths]
            grown = await continued(
                [paths[place] for place in active],
                self._prompt,
                self._ask,
                self._decode,
                self._chunk,
                num_top_logprobs=self._num_top,
            )
            for place, path in zip(active, grown, strict=True):
                paths[place] = path

    def _falls_below(self, path: Candidate, start: int) -> bool:
        """Whether the mean of a full window that ends behind token `start` is below the bar.

        Also of a trace that has ended: which traces stop does not depend on the chunks.
        """
        if len(path.ids) <= start or len(path.ids) < self._window:
            return False
        tokens = token_confidences(path, self._source)[max(start + 1 - self._window, 0) :]
        return bool((group_confidences(tokens, self._window) < self._bar).any())


def token_confidences(candidate: Candidate, source: Source) -> Numbers:
    """[T], the confidence of each token.

    Raises:
        ConfigError: the log-probs that it needs are missing.
    """
    size = len(candidate.ids)
    if source == "sampled":
        if len(candidate.logprobs) != size:
            raise ConfigError(
                "confidence: the engine reports no log-probs of the sampled tokens; take another "
                "engine, or a vote without confidences, such as majority_vote"
            )
        return np.exp(np.asarray(candidate.logprobs, dtype=np.float64))
    if len(candidate.top_logprobs) != size or not all(candidate.top_logprobs):
        raise ConfigError(
            "confidence: the engine reports no log-probs of the likeliest tokens, of which the "
            "confidence is made; take confidence: sampled, or an engine that reports them"
        )
    return np.array(
        [-math.fsum(lp for _, lp in place) / len(place) for place in candidate.top_logprobs],
        dtype=np.float64,
    )


def group_confidences(tokens: Numbers, window: int) -> Numbers:
    """Means over a window that slides by one token: [T - window + 1]; one mean of all of a
    shorter trace; empty without tokens.
    """
    if len(tokens) == 0:
        return tokens
    if len(tokens) <= window:
        return tokens.mean(keepdims=True)
    return np.lib.stride_tricks.sliding_window_view(tokens, window).mean(axis=1)


def trace_confidence(
    candidate: Candidate, measure: Measure, window: int, source: Source = "top"
) -> float:
    """The confidence of a trace; 0 of one without tokens. See `confidence_vote`."""
    tokens = token_confidences(candidate, source)
    if len(tokens) == 0:
        return 0.0
    if measure == "mean":
        return float(tokens.mean())
    if measure == "tail":
        return float(tokens[-window:].mean())
    groups = group_confidences(tokens, window)
    if measure == "min":
        return float(groups.min())
    number = max(1, int(BOTTOM_SHARE * len(groups)))
    return float(np.sort(groups)[:number].mean())


def confidence_bar(
    candidates: Sequence[Candidate], numbers: Sequence[float], top_fraction: float
) -> float:
    """The (1 - top_fraction) quantile of the confidences of traces with tokens; -inf keeps all."""
    written = [number for c, number in zip(candidates, numbers, strict=True) if c.ids]
    if top_fraction >= 1 or not written:
        return -math.inf
    return float(np.quantile(written, 1 - top_fraction))


def _check(window: int, top_fraction: float) -> None:
    if window < 1 or not 0 < top_fraction <= 1:
        raise ConfigError(
            f"window is {window} and top_fraction {top_fraction}; window must be at least 1, and "
            "top_fraction above 0 and at most 1"
        )
