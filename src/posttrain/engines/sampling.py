"""From logits to tokens: pure functions on [B, V], one uniform number per row.

The random numbers come from a counter-based hash of (seed, sample index, step), so that a sample
does not depend on what else is in the batch, and no generator has to be kept per row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from posttrain.types import Sampling, TopTokens

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_BLOCK = 64  # tokens of the first stage of a draw


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection whose
    outputs look independent.
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def row_keys(seeds: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """A 64-bit key per row from its request's seed and its place among the request's samples."""
    with np.errstate(over="ignore"):
        return _mix(
            _mix(seeds.astype(np.uint64) + _GOLDEN)
            ^ _mix(indices.astype(np.uint64) * _GOLDEN + np.uint64(1))
        )


def uniforms(keys: np.ndarray, step: int | np.ndarray) -> np.ndarray:
    """One float64 in [0, 1) per row for the token at `step`, which may differ by row."""
    with np.errstate(over="ignore"):
        bits = _mix(keys + (np.asarray(step).astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


class SettingKinds(NamedTuple):
    """What settings of rows have in common, which tells what can be left out: all at temperature
    0, all at temperature 1 without truncation, any truncated.
    """

    greedy: bool = True
    plain: bool = True
    truncated: bool = False

    @classmethod
    def of(cls, rows: Sequence[Sampling]) -> SettingKinds:
        """Of the settings of each row."""
        truncated = any(r.top_p < 1 or r.top_k > 0 or r.min_p > 0 for r in rows)
        return cls(
            greedy=all(r.temperature == 0 for r in rows),
            plain=all(r.temperature == 1 for r in rows) and not truncated,
            truncated=truncated,
        )

    @classmethod
    def union(cls, kinds: Iterable[SettingKinds]) -> SettingKinds:
        """Of several groups of rows together."""
        distinct = set(kinds)
        return cls(
            greedy=all(k.greedy for k in distinct),
            plain=all(k.plain for k in distinct),
            truncated=any(k.truncated for k in distinct),
        )


@dataclass(slots=True)
class RowSettings:
    """Sampling settings of B rows as tensors [B]."""

    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    min_p: Tensor
    kinds: SettingKinds

    @classmethod
    def of(cls, rows: Sequence[Sampling], device: torch.device) -> RowSettings:
        """From the settings of each row."""

        def column(name: str, dtype: torch.dtype) -> Tensor:
            return torch.tensor([getattr(r, name) for r in rows], dtype=dtype, device=device)

        return cls(
            column("temperature", torch.float32),
            column("top_p", torch.float32),
            column("top_k", torch.int64),
            column("min_p", torch.float32),
            SettingKinds.of(rows),
        )

    def columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four tensors, in the order of the fields."""
        return self.temperature, self.top_p, self.top_k, self.min_p

    def select(self, keep: Tensor) -> RowSettings:
        """The settings of some rows."""
        temperature, top_p, top_k, min_p = (column[keep] for column in self.columns())
        return RowSettings(temperature, top_p, top_k, min_p, self.kinds)

    def joined(self, more: RowSettings) -> RowSettings:
        """These rows, then those of `more`."""
        pairs = zip(self.columns(), more.columns(), strict=True)
        temperature, top_p, top_k, min_p = (torch.cat(pair) for pair in pairs)
        kinds = SettingKinds.union([self.kinds, more.kinds])
        return RowSettings(temperature, top_p, top_k, min_p, kinds)


def choose(logits: Tensor, settings: RowSettings, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One token per row.

    Args:
        logits: float32 [B, V], in any order of memory. draws: float64 [B], uniform in [0, 1).
    Returns:
        tokens int64 [B]; their log-probs [B] under the distribution sampled from; and under
        softmax(logits).
    """
    if settings.kinds.truncated and not settings.kinds.greedy:
        return _choose_truncated(logits.contiguous(), settings, draws)
    greedy = settings.temperature == 0
    largest = logits.amax(dim=-1, keepdim=True)
    raw_total, unit = None, torch.ones((), device=logits.device)
    if (
        settings.kinds.greedy or settings.kinds.plain
    ):  # one pass of exponentials serves the draw and both log-probs
        # Where tokens lie side by side softmax is three times as fast; all is then relative to the
        # likeliest token's weight.
        weights = logits.softmax(dim=-1) if logits.stride(1) == 1 else (logits - largest).exp_()
        unit = weights.amax(dim=-1)
    else:
        weights = logits - largest
        raw_total = weights.exp().sum(dim=-1)
        weights.div_(torch.where(greedy, 1.0, settings.temperature)[:, None]).exp_()
    cumulative = _cumulative(weights)
    tokens = logits.argmax(dim=-1) if settings.kinds.greedy else _invert(weights, cumulative, draws)
    if raw_total is not None:
        tokens = torch.where(greedy, logits.argmax(dim=-1), tokens)
    below = (logits.gather(1, tokens[:, None]) - largest)[:, 0]
    total = (cumulative[:, -1] / unit).log().to(logits.dtype)
    if raw_total is None:
        return tokens, below - total, below - total
    raw = below - raw_total.log()
    return tokens, torch.where(greedy, raw, below / settings.temperature - total), raw


def _choose_truncated(
    logits: Tensor, settings: RowSettings, draws: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    raw = torch.log_softmax(logits, dim=-1)
    greedy = settings.temperature == 0
    scaled = logits / torch.where(greedy, 1.0, settings.temperature)[:, None]
    scaled = truncate(scaled, settings.top_k, settings.top_p, settings.min_p)
    sampled_from = torch.log_softmax(scaled, dim=-1)
    weights = sampled_from.exp()
    tokens = torch.where(
        greedy, logits.argmax(dim=-1), _invert(weights, _cumulative(weights), draws)
    )
    raw_chosen = raw.gather(1, tokens[:, None])[:, 0]
    chosen = sampled_from.gather(1, tokens[:, None])[:, 0]
    return tokens, torch.where(greedy, raw_chosen, chosen), raw_chosen


def top_logprobs(logits: Tensor, count: int) -> list[TopTokens]:
    """For each row of logits float32 [B, V], the `count` likeliest ids with their log-probs under
    softmax(logits), best first; equal ones by id.
    """
    values, ids = torch.log_softmax(logits, dim=-1).topk(count, dim=-1)
    rows = zip(ids.tolist(), values.tolist(), strict=True)
    return [tuple(sorted(zip(*row, strict=True), key=lambda x: (-x[1], x[0]))) for row in rows]


def _cumulative(weights: Tensor) -> Tensor:
    """Running sums of weights [B, V] over blocks of 64 tokens, float64 [B, ceil(V / 64)]."""
    vocab = weights.shape[1]
    whole = weights[:, : vocab // _BLOCK * _BLOCK]
    if weights.stride(1) == 1:
        sums = whole.unflatten(1, (vocab // _BLOCK, _BLOCK)).sum(-1)
    else:
        # The rows of a token lie side by side: sums over the middle of [blocks, 64, B] are 10 to
        # 30 times as fast.
        sums = whole.t().unflatten(0, (vocab // _BLOCK, _BLOCK)).sum(1).t().contiguous()
    rest = weights[:, whole.shape[1] :]
    sums = torch.cat([sums, rest.sum(-1, keepdim=True)], -1) if rest.shape[1] else sums
    return sums.cumsum(-1, dtype=torch.float64)


def _invert(weights: Tensor, cumulative: Tensor, draws: Tensor) -> Tensor:
    """The token at which the cumulative weight passes the draw's share of all: the inverse
    distribution function.

    In two stages, by blocks of 64 tokens (`cumulative`) and then within one, so that few numbers
    are summed in float64.
    """
    vocab = weights.shape[1]
    level = draws[:, None] * cumulative[:, -1:]
    block = _passed(cumulative, level)
    places = block * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    # Beyond the last token there is no weight.
    within = (
        weights.gather(1, places.clamp_max(vocab - 1))
        .masked_fill_(places >= vocab, 0.0)
        .cumsum(-1, dtype=torch.float64)
    )
    before = torch.where(block > 0, cumulative.gather(1, (block - 1).clamp_min(0)), 0.0)
    tokens = block * _BLOCK + _passed(within, level - before)
    return tokens[:, 0].clamp_max(
        vocab - 1
    )  # not a number anywhere: a valid id, with NaN as its log-prob


def _passed(cumulative: Tensor, level: Tensor) -> Tensor:
    """Where a running sum [B, n] passes a level [B, 1], [B, 1].

    The level is kept below the sum of all (and what rounding leaves of it, at 0 and above), so that
    it is passed at an entry that has weight.
    """
    total = cumulative[:, -1:]
    level = torch.minimum(level, torch.nextafter(total, torch.zeros_like(total))).clamp_min_(0.0)
    return torch.searchsorted(cumulative, level.contiguous(), right=True).clamp_max_(
        cumulative.shape[1] - 1
    )


def truncate(logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Logits [B, V] with everything outside the truncation at -inf: top-k, then top-p, then min-p,
    as is usual.

    top-k keeps the k largest. top-p keeps the smallest set of most likely tokens whose probability
    reaches p (Holtzman et al., arXiv 1904.09751). min-p keeps tokens with at least min_p times the
    largest probability (arXiv 2407.01082). Each works on what the one before left, renormalised;
    the most likely token always stays.
    """
    vocab = logits.shape[1]
    rows = torch.nonzero((top_k > 0) & (top_k < vocab))[:, 0]
    if len(rows):
        largest = logits[rows].topk(int(top_k[rows].max()), dim=-1).values
        floor = largest.gather(1, top_k[rows][:, None] - 1)
        logits = logits.index_copy(
            0, rows, logits[rows].masked_fill(logits[rows] < floor, -torch.inf)
        )
    rows = torch.nonzero(top_p < 1)[:, 0]
    if len(rows):
        ordered, order = logits[rows].sort(dim=-1, descending=True)
        probs = ordered.softmax(dim=-1, dtype=torch.float64)
        before = probs.cumsum(dim=-1) - probs
        # A tolerance keeps sums such as 0.5 + 0.3 from missing p = 0.8 by rounding.
        dropped = before >= top_p[rows][:, None].double() - 1e-7
        dropped[:, 0] = False
        mask = torch.zeros_like(dropped).scatter(1, order, dropped)
        logits = logits.index_copy(0, rows, logits[rows].masked_fill(mask, -torch.inf))
    rows = torch.nonzero(min_p > 0)[:, 0]
    if len(rows):
        part = logits[rows]
        floor = part.amax(dim=-1, keepdim=True) + min_p[rows].log()[:, None] - 1e-6
        logits = logits.index_copy(0, rows, part.masked_fill(part < floor, -torch.inf))
    return logits
