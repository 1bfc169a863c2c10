"""The targets that a term of an objective is averaged on, and what belongs to them.

A batch may hold rows of several kinds: rollouts beside texts to imitate, preference pairs beside
both. A term names its targets by `on`:

    all         every target
    sampled     targets that the model sampled itself: those whose stream `given` is 0 or absent
    NAME        targets whose stream NAME is not 0 (and not NaN), such as `given`

The loss function is called with these targets alone. So a ratio of a sequence, a sum of log-probs
or a comparison never reads numbers of another kind of row, and a stream that those rows do not
carry cannot make the loss NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posttrain.data.forest import Batch, Forest, Tree
from posttrain.losses.reduce import Totals


@dataclass(frozen=True, slots=True)
class Selection:
    """Targets of a micro-batch, with their sequences and trees numbered from 0.

    Attributes:
        index: int64 [m], places among the M targets of the micro-batch; None means all of them.
        num_targets: M, of the micro-batch.
        target, sequence: int64 [m]. group: int64 [S], the tree of each sequence. The branches of a
            trace are one sequence here.
        streams: [m] each. values: [S] each. outputs: what the model computed, [m] each; its
            "vocabulary" is the distributions at these targets.
    """

    index: Tensor | None
    num_targets: int
    target: Tensor
    sequence: Tensor
    num_sequences: int
    group: Tensor
    streams: Mapping[str, Tensor]
    values: Mapping[str, Tensor]
    outputs: Mapping[str, Any]

    @property
    def is_empty(self) -> bool:
        """Whether nothing of the micro-batch was selected."""
        return self.index is not None and self.num_sequences == 0

    def total(self, numbers: Tensor) -> Tensor:
        """Sum of numbers [m].

        They are put back among the M targets first, so that the order of summation, and with it
        the rounding, is that of the whole micro-batch.
        """
        if self.index is None:
            return numbers.sum()
        return numbers.new_zeros(self.num_targets).index_put((self.index,), numbers).sum()

    def holds_only(self, num_roles: int) -> bool:
        """Whether every tree has this many sequences, so that each can be one of each role."""
        counts = torch.bincount(self.group)
        return bool((counts == num_roles).all())


def everything(micro: Forest, outputs: Mapping[str, Any]) -> Selection:
    """All targets of a micro-batch, and all its sequences."""
    sequence, tree, values = _by_trace(micro)
    return Selection(
        None,
        micro.num_targets,
        micro.target,
        sequence,
        len(tree),
        tree,
        micro.streams,
        values,
        outputs,
    )


def _by_trace(micro: Forest) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
    """The sequence of each target [M], the tree of each sequence [S] and the values of each, where
    the branches of a trace are one sequence: its first branch stands for it.
    """
    if micro.num_traces == micro.num_sequences:
        return micro.sequence, micro.tree, micro.values
    first_branches = np.unique(micro.trace.cpu().numpy(), return_index=True)[1]
    first = torch.from_numpy(first_branches).to(micro.trace.device)
    values = {name: value[first] for name, value in micro.values.items()}
    return micro.trace[micro.sequence], micro.tree[first], values


def select(on: str, micro: Forest, outputs: Mapping[str, Any], *, trees: bool) -> Selection:
    """The targets that `on` names.

    Args:
        trees: keep all sequences of a tree that has such a target (a pair, a group); otherwise the
            sequences that have one themselves.
    """
    mask = _mask(on, micro.streams, torch.ones_like(micro.target, dtype=torch.bool))
    index = mask.nonzero()[:, 0]
    sequence, tree, values = _by_trace(micro)
    members = torch.zeros_like(tree, dtype=torch.bool)
    members[sequence[index]] = True
    if trees and len(tree):
        with_target = torch.zeros(int(tree[-1]) + 1, dtype=torch.bool, device=index.device)
        with_target[tree[members]] = True
        members = with_target[tree]
    number = members.cumsum(0) - 1
    return Selection(
        index,
        micro.num_targets,
        micro.target[index],
        number[sequence[index]],
        int(members.sum()),
        torch.unique_consecutive(tree[members], return_inverse=True)[1],
        {name: stream[index] for name, stream in micro.streams.items()},
        {name: value[members] for name, value in values.items()},
        {name: _at(output, index) for name, output in outputs.items()},
    )


def counts(on: str, batch: Batch) -> Totals:
    """Sum of weights, sequences and trees of the targets of a batch that `on` names."""
    tokens, sequences, groups = 0.0, 0, 0
    for tree in (*batch.trees, *batch.idle):
        mask = selected(on, tree)
        weights = tree.streams.get("weights")
        tokens += float(mask.sum() if weights is None else weights[mask].sum())
        sequences += len(np.unique(tree.trace[tree.sequence[mask]]))
        groups += bool(mask.any())
    return Totals(tokens=tokens, sequences=sequences, groups=groups)


def selected(on: str, tree: Tree) -> np.ndarray:
    """bool [M], the targets of a tree that `on` names."""
    return np.asarray(_mask(on, tree.streams, np.ones(tree.num_targets, dtype=bool)))


def is_split(on: str, batch: Batch) -> bool:
    """Whether `on` may leave out targets of a batch."""
    if on == "all":
        return False
    trees = (*batch.trees, *batch.idle)
    return on != "sampled" or any("given" in tree.streams for tree in trees)


def _mask(on: str, streams: Mapping[str, Any], ones: Any) -> Any:
    """The rule of this module, for tensors and for arrays."""
    if on == "all":
        return ones
    if on == "sampled":
        return streams["given"] == 0 if "given" in streams else ones
    return abs(streams[on]) > 0 if on in streams else ~ones


def _at(output: Any, index: Tensor) -> Any:
    """What a model computed, at some of the targets."""
    return output[index] if isinstance(output, Tensor) else output.at(index)
