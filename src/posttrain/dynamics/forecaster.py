"""Forecasts of series by a language model: the distributions of all next values in one pass.

At the comma before a value, the softmax over number tokens alone is the distribution of the value.
A context of T values thus gives T distributions: entry i is of value i + 2 (counted from 1), and
the last one of the future (Benechehab et al., arXiv 2410.11711, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.data.number_text import Integers, NumberFormat, Scale, finite_series
from posttrain.dynamics.grid import GridDistribution
from posttrain.dynamics.hierarchy import Digits, HierarchyPDF, digits_of
from posttrain.dynamics.number_tokens import NumberTokens
from posttrain.errors import ConfigError, DataError
from posttrain.models.forest_model import evaluating
from posttrain.models.language_model import LanguageModel

Numbers = NDArray[np.float64]
How = Literal["mean", "mode", "sample"]


@dataclass(slots=True)
class Cost:
    """What forecasts have cost.

    Attributes:
        passes: forward passes over a context; a continuation takes one per step, whose paths share
            it. tokens: distinct tokens of all passes, those that refine bins included.
    """

    passes: int = 0
    tokens: int = 0


class Forecaster:
    """A language model that forecasts series.

    Args:
        model: any causal language model whose tokenizer has a token per digit or per integer.
        digits: of a number; None is what the tokenizer suggests.
        low, high: where minimum and maximum of a context lie in [0, 10).
        min_mass: of tokenizers of digits: a coarse bin of at least this mass is refined, others
            stay uniform. 0 refines all (10 or 110 further tokens per value), above 1 only the
            path of the observed value.
        temperature: distributions are raised to the power 1 / temperature.
        max_tokens: distinct tokens of a forward pass.

    Raises:
        ModelError: the tokenizer has no such tokens.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        digits: int | None = None,
        low: float = 1.5,
        high: float = 8.5,
        min_mass: float = 0.02,
        temperature: float = 1.0,
        max_tokens: int = 16384,
    ) -> None:
        if temperature <= 0 or min_mass < 0 or max_tokens < 1:
            raise ConfigError(
                f"temperature is {temperature:g}, min_mass {min_mass:g}, max_tokens {max_tokens}; "
                "temperature must be above 0, min_mass at least 0, max_tokens at least 1"
            )
        self.model = model
        self.tokens = NumberTokens.of(model.tokenizer, digits)
        self.format = NumberFormat(self.tokens.digits, low, high)
        self.min_mass = min_mass
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.cost = Cost()

    def forecast(
        self, series: Sequence[ArrayLike], *, scales: Sequence[Scale] | None = None
    ) -> list[GridDistribution]:
        """The distributions of all next values of several series.

        Args:
            series: of [T] each. scales: that they are written with; None: of each series.

        Returns:
            per series T distributions; entry i is of value i + 1 (from 0) given values 0 to i.

        Raises:
            DataError: a series that is empty, not finite, or longer than the model's context.
        """
        scales = self.scales(series) if scales is None else scales
        contexts = [self.format.integers(s, c) for s, c in zip(series, scales, strict=True)]
        masses = self._masses(contexts, [np.arange(1, len(c) + 1) for c in contexts])
        return [self._on_grid(m, c) for m, c in zip(masses, scales, strict=True)]

    def continued(
        self,
        series: Sequence[ArrayLike],
        steps: int,
        *,
        how: How = "mean",
        num_paths: int = 1,
        seed: int = 0,
    ) -> list[Numbers]:
        """Series continued step by step, each on its own forecasts. The scales do not change.

        Args:
            steps: values to add. how: what is appended. num_paths: with "sample", continuations
                per series, whose common context is computed once.
            seed: of the samples.

        Returns:
            per series [num_paths, steps].
        """
        if steps < 1 or num_paths < 1 or (how != "sample" and num_paths != 1):
            raise ConfigError(
                f"steps is {steps}, num_paths {num_paths} with {how!r}; both must be at least 1, "
                "and several paths need 'sample'"
            )
        scales = self.scales(series)
        owners = [i for i in range(len(series)) for _ in range(num_paths)]
        starts = [self.format.integers(s, c) for s, c in zip(series, scales, strict=True)]
        paths = [starts[i] for i in owners]
        draw = np.random.default_rng(seed)
        added = np.empty((len(paths), steps))
        for step in range(steps):
            ends = [np.array([len(path)]) for path in paths]
            masses = self._masses(paths, ends, groups=owners)
            for row, (mass, owner) in enumerate(zip(masses, owners, strict=True)):
                law = self._on_grid(mass, scales[owner])
                value = law.sample(1, draw)[0] if how == "sample" else getattr(law, how)
                added[row, step] = value[0]
                written = self.format.integers(value, scales[owner])
                paths[row] = np.concatenate([paths[row], written])
        return list(added.reshape(len(series), num_paths, steps))

    def scales(self, series: Sequence[ArrayLike]) -> list[Scale]:
        """The scales of series, each from its own minimum and maximum."""
        if not series:
            raise DataError("there is no series to forecast; give at least one")
        return [self.format.scale(s) for s in map(finite_series, series)]

    @property
    def max_values(self) -> int | None:
        """Values of the longest context, None where the model has no limit."""
        limit = self.model.context_length
        tokens = self.tokens.per_number
        begin = self.tokens.begin is not None
        return None if limit is None else (limit - begin - tokens) // (tokens + 1)

    def _on_grid(self, mass: Numbers, scale: Scale) -> GridDistribution:
        law = GridDistribution(mass, scale.origin, scale.width)
        return law if self.temperature == 1 else law.tempered(self.temperature)

    # -- passes

    def _masses(
        self,
        contexts: Sequence[Integers],
        places: Sequence[NDArray[np.int64]],
        *,
        groups: Sequence[int] | None = None,
    ) -> list[Numbers]:
        """P(value at place | the values before it) per context: [number of places, B].

        groups: contexts of one number share their beginnings.
        """
        self._check_length(max(map(len, contexts)))
        keys = list(range(len(contexts))) if groups is None else list(groups)
        chains = [self._chain(c, p) for c, p in zip(contexts, places, strict=True)]
        self.cost.passes += len(set(keys))
        rows = self._restricted(chains, keys)
        if not self.tokens.per_digit:
            return rows
        laws = [self._observed(c, p, r) for c, p, r in zip(contexts, places, rows, strict=True)]
        for _ in range(self.tokens.digits - 1):
            self._refine(contexts, places, laws, keys)
        return [np.stack([law.mass() for law in some]) for some in laws]

    def _check_length(self, length: int) -> None:
        limit = self.max_values
        if limit is not None and length > limit:
            raise DataError(
                f"a series of {length} values has more tokens than the model's context of "
                f"{self.model.context_length}; give at most the last {limit} values"
            )

    def _chain(self, context: Integers, places: NDArray[np.int64]) -> TokenSequence:
        """A context and a stand-in for the value after it; targets are the values at `places`."""
        rows = self.tokens.encode(np.append(context, 0))
        mask = np.zeros_like(rows, dtype=bool)
        mask[places, : self.tokens.per_number] = True
        ids = rows.reshape(-1)[: len(context) * rows.shape[1] + 1]
        return self._begun(ids, mask.reshape(-1)[: len(ids)])

    def _begun(self, ids: NDArray[np.int64], mask: NDArray[np.bool_]) -> TokenSequence:
        if self.tokens.begin is not None:
            ids, mask = np.append(self.tokens.begin, ids), np.append(False, mask)
        return TokenSequence(ids, mask)

    def _observed(
        self, context: Integers, places: NDArray[np.int64], rows: Numbers
    ) -> list[HierarchyPDF]:
        """Hierarchies of the values at places, refined along the values that were observed."""
        digits, laws, row = self.tokens.digits, [], 0
        for place in places:
            law = HierarchyPDF(digits, rows[row])
            row += 1
            if place < len(context):
                path = digits_of(int(context[place]), digits)
                for depth in range(1, digits):
                    law.refine(path[:depth], rows[row])
                    row += 1
            laws.append(law)
        return laws

    def _refine(
        self,
        contexts: Sequence[Integers],
        places: Sequence[NDArray[np.int64]],
        laws: Sequence[Sequence[HierarchyPDF]],
        keys: Sequence[int],
    ) -> None:
        """Refine once each bin that has the mass, in branches below the contexts."""
        branches: list[TokenSequence] = []
        owners: list[tuple[HierarchyPDF, Digits]] = []
        groups: list[int] = []
        for context, some, hierarchy, key in zip(contexts, places, laws, keys, strict=True):
            rows = self.tokens.encode(context)
            for place, law in zip(some, hierarchy, strict=True):
                for prefix in law.open_bins(self.min_mass):
                    ids = np.concatenate(
                        [
                            rows[:place].reshape(-1),
                            self.tokens.ids[list(prefix)],
                            self.tokens.ids[:1],
                        ]
                    )
                    mask = np.zeros(len(ids), dtype=bool)
                    mask[-1] = True
                    branches.append(self._begun(ids, mask))
                    owners.append((law, prefix))
                    groups.append(key)
        if not branches:
            return
        for (law, prefix), row in zip(owners, self._restricted(branches, groups), strict=True):
            law.refine(prefix, row[0])

    def _restricted(
        self, sequences: Sequence[TokenSequence], groups: Sequence[int]
    ) -> list[Numbers]:
        """Softmax over number tokens alone at the targets of each sequence: [targets, tokens]."""
        number = {id(s): i for i, s in enumerate(sequences)}
        results: list[Numbers] = [np.empty(0)] * len(sequences)
        ids = torch.from_numpy(self.tokens.ids).to(self.model.device)
        for parts in self._parts(sequences, groups):
            forest = Forest.pack(parts)
            self.cost.tokens += forest.num_tokens
            with torch.no_grad(), evaluating(self.model.hf):
                hidden, head = self.model.predictions(forest)
                bias = None if head.bias is None else head.bias[ids]
                logits = replace(head, weight=head.weight[ids], bias=bias).logits(hidden)
                rows = torch.softmax(logits.double(), -1).cpu().numpy()
            start = 0
            for sequence in (s for part in parts for s in part.sequences):
                stop = start + int(sequence.loss_mask.sum())
                results[number[id(sequence)]] = rows[start:stop]
                start = stop
        return results

    def _parts(
        self, sequences: Sequence[TokenSequence], groups: Sequence[int]
    ) -> Iterator[list[Tree]]:
        """Trees of sequences of one group each, packed to passes of about `max_tokens`."""
        members: dict[int, list[TokenSequence]] = {}
        for sequence, group in zip(sequences, groups, strict=True):
            members.setdefault(group, []).append(sequence)
        pack: list[Tree] = []
        size = 0
        for some in members.values():
            for part in Tree.build(some).split(self.max_tokens):
                if pack and size + part.num_tokens > self.max_tokens:
                    yield pack
                    pack, size = [], 0
                pack.append(part)
                size += part.num_tokens
        yield pack
