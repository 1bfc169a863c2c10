"""The token forest: a batch as one flat row in which every distinct token stands once.

A tree holds sequences that begin alike; a forest is trees side by side. Tokens lie in depth-first
order, and one number per token tells the whole attention structure:

    token k is visible to token q   iff   k <= q < ends[k]

What is learnt hangs on targets, aligned lists of length M: `source` (the flat index that predicts),
`target` (the token predicted), `place` (the flat index of that token itself), `sequence` (whose
target it is) and named streams of per-target numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from posttrain.data.tree import TokenSequence as TokenSequence
from posttrain.data.tree import Tree as Tree
from posttrain.data.tree import names_of
from posttrain.errors import DataError


@dataclass(slots=True, frozen=True)
class Unshared:
    """A forest as padded rows: ids, mask [B, L] (padding on the right); source, place [M] into
    the B * L positions.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    source: torch.Tensor
    place: torch.Tensor


@dataclass(slots=True, frozen=True)
class TrunkShare:
    """The first tokens of a micro-batch, which it shares with others.

    Attributes:
        key: names the trunk; of equal keys the first `count` tokens are the same. count: tokens.
        is_last: whether the micro-batch is the last of those that share the trunk.
    """

    key: object
    count: int
    is_last: bool


@dataclass(slots=True)
class Forest:
    """Trees side by side, as tensors: one micro-batch.

    Attributes:
        tokens, positions, ends: int64 [N]. source, target, place, sequence: int64 [M].
        last, tree: int64 [S], the flat index of each sequence's last token, and its tree.
        trace: int64 [S], the trace that each sequence is a branch of (itself, where it is no
            branch), numbered from 0 within the forest. num_traces: how many there are.
        streams: float32 [M] each. values: float32 [S] each. Those of any of the trees; the others
            have `absent(name)` at their targets, and NaN for a value.
        rows: S names. Sequences are numbered 0..S-1 within the forest, and trees from 0.
        trunk: the beginning that the micro-batch shares with others, or None.
        beside: the same targets as reference and teacher read them, where a sequence has another
            context for these; else None.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    ends: torch.Tensor
    source: torch.Tensor
    target: torch.Tensor
    place: torch.Tensor
    sequence: torch.Tensor
    last: torch.Tensor
    tree: torch.Tensor
    trace: torch.Tensor
    num_traces: int
    streams: dict[str, torch.Tensor]
    values: dict[str, torch.Tensor]
    rows: list[str]
    trunk: TrunkShare | None = None
    beside: Forest | None = None

    @classmethod
    def pack(cls, trees: Sequence[Tree]) -> Forest:
        """Put trees side by side.

        Raises:
            DataError: no trees.
        """
        if not trees:
            raise DataError("a forest needs at least one tree")
        streams = names_of(t.streams for t in trees)
        values = names_of(t.values for t in trees)
        offsets = np.cumsum([0, *(t.num_tokens for t in trees)])
        counts = np.cumsum([0, *(t.num_sequences for t in trees)])
        traces = np.cumsum([0, *(t.num_traces for t in trees)])

        def joined(arrays: Iterable[np.ndarray]) -> torch.Tensor:
            return torch.from_numpy(np.concatenate(list(arrays)))

        return cls(
            tokens=joined(t.tokens for t in trees),
            positions=joined(t.positions for t in trees),
            ends=joined(t.ends + o for t, o in zip(trees, offsets)),
            source=joined(t.source + o for t, o in zip(trees, offsets)),
            target=joined(t.target for t in trees),
            place=joined(t.place + o for t, o in zip(trees, offsets)),
            sequence=joined(t.sequence + c for t, c in zip(trees, counts)),
            last=joined(t.last + o for t, o in zip(trees, offsets)),
            tree=torch.repeat_interleave(torch.tensor([t.num_sequences for t in trees])),
            trace=joined(t.trace + o for t, o in zip(trees, traces)),
            num_traces=int(traces[-1]),
            streams={name: joined(t.stream(name) for t in trees) for name in streams},
            values={name: joined(t.value(name) for t in trees) for name in values},
            rows=[row for t in trees for row in t.rows],
            beside=_beside(trees),
        )

    @property
    def num_tokens(self) -> int:
        """N, distinct tokens."""
        return len(self.tokens)

    @property
    def num_targets(self) -> int:
        """M, targets over all sequences."""
        return len(self.target)

    @property
    def num_sequences(self) -> int:
        """S, sequences, those without targets included."""
        return len(self.rows)

    def to(self, device: torch.device | str) -> Forest:
        """The same forest on `device`."""
        names = (
            "tokens",
            "positions",
            "ends",
            "source",
            "target",
            "place",
            "sequence",
            "last",
            "tree",
            "trace",
        )
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        for name in ("streams", "values"):
            moved[name] = {
                k: v.to(device, non_blocking=True) for k, v in getattr(self, name).items()
            }
        beside = None if self.beside is None else self.beside.to(device)
        return replace(self, **moved, beside=beside)

    def below(self, count: int) -> Forest:
        """The same forest below `count` further tokens (of id 0) that every token sees."""
        ids, places = (
            torch.zeros_like(self.tokens[:1]).expand(count),
            torch.arange(count, device=self.tokens.device),
        )
        return replace(
            self,
            tokens=torch.cat([ids, self.tokens]),
            positions=torch.cat([places, self.positions + count]),
            ends=torch.cat([ids + count + self.num_tokens, self.ends + count]),
            source=self.source + count,
            place=self.place + count,
            last=self.last + count,
        )

    def lengths(self) -> torch.Tensor:
        """int64 [N], tokens of the longest sequence that each token belongs to."""
        lengths = torch.zeros_like(self.tokens)
        for last, depth in zip(self.last.tolist(), self.positions[self.last].tolist()):
            path = self.ends[: last + 1] > last
            lengths[: last + 1][path] = lengths[: last + 1][path].clamp(min=depth + 1)
        return lengths

    def unshared(self) -> Unshared:
        """One padded row per sequence. Padding repeats a row's last token: no id means padding,
        the mask does.
        """
        ends, last = self.ends.cpu(), self.last.cpu()
        paths = [torch.nonzero(ends[: int(leaf) + 1] > leaf)[:, 0] for leaf in last]
        length = max(len(path) for path in paths)
        index = torch.stack(
            [torch.cat([path, path[-1:].expand(length - len(path))]) for path in paths]
        )
        sizes = torch.tensor([len(path) for path in paths])
        mask = torch.arange(length)[None, :] < sizes[:, None]
        device = self.tokens.device
        row = self.sequence * length
        source, place = row + self.positions[self.source], row + self.positions[self.place]
        return Unshared(self.tokens[index.to(device)], mask.to(device), source, place)


def _beside(trees: Sequence[Tree]) -> Forest | None:
    """The trees with each sequence's context for reference and teacher; None where none has one."""
    if all(s.context is None for t in trees for s in t.sequences):
        return None
    return Forest.pack([Tree.build([s.in_context() for s in t.sequences]) for t in trees])


@dataclass(slots=True)
class Batch:
    """All trees of one optimizer step, with the counts that averages are divided by.

    Attributes:
        trees: what is trained on.
        idle: trees that count in the averages but whose gradient is known to be zero (groups
            without advantage), so that no training pass is spent on them.
        whole: what belongs together whatever the token budget: the sequences of a "tree" (the two
            of a preference pair), or all of the "batch" (a loss that compares every sequence with
            every other).
    """

    trees: list[Tree]
    idle: list[Tree] = field(default_factory=list)
    whole: Literal["tree", "batch"] | None = None

    @property
    def num_targets(self) -> int:
        """Targets over the whole batch."""
        return sum(t.num_targets for t in (*self.trees, *self.idle))

    @property
    def num_sequences(self) -> int:
        """Sequences over the whole batch."""
        return sum(t.num_sequences for t in (*self.trees, *self.idle))

    @property
    def num_traces(self) -> int:
        """Sequences over the whole batch, the branches of a trace counted as one."""
        return sum(t.num_traces for t in (*self.trees, *self.idle))

    @property
    def num_trees(self) -> int:
        """Trees over the whole batch: pairs or groups where those are kept whole."""
        return len(self.trees) + len(self.idle)

    def stream_total(self, name: str) -> float | None:
        """Sum of a stream over all targets; None where no tree has it."""
        trees = (*self.trees, *self.idle)
        if not any(name in t.streams for t in trees):
            return None
        return sum(float(t.stream(name).sum()) for t in trees)

    @property
    def num_tokens(self) -> int:
        """Distinct tokens after sharing, over the whole batch."""
        return sum(t.num_tokens for t in (*self.trees, *self.idle))

    @property
    def num_unshared_tokens(self) -> int:
        """Sum of the sequences' lengths, over the whole batch."""
        return sum(len(s.ids) for t in (*self.trees, *self.idle) for s in t.sequences)

    @property
    def rows(self) -> list[str]:
        """Names of all sequences."""
        return [row for t in self.trees for row in t.rows]

    def split(self, max_tokens: int | None = None, *, share_trunks: bool = False) -> list[Forest]:
        """Micro-batches of about `max_tokens` distinct tokens (None: one micro-batch).

        First-fit decreasing, deterministic. A micro-batch holds more than `max_tokens` tokens in
        three cases only, and is then one tree, or a part of one:

        - A sequence is longer; sequences are never cut.
        - A trunk is longer than half of `max_tokens`. It stays with as many completions as have
          room above it (`Tree.split`): at most trunk + min(trunk, max_tokens) tokens.
        - A tree, or the batch, is kept `whole`.

        Args:
            share_trunks: a tree whose trunk is longer than an eighth of `max_tokens` becomes
                micro-batches one after the other that name the trunk (`Forest.trunk`), so that a
                model computes it once for all. They hold the trunk and as many completions as
                `max_tokens` leaves room for, or a sixteenth of the trunk if that is more, or one.
                Whoever computes with them calls `model.backward(loss, micro)` after each.
        """
        if max_tokens is None or self.whole == "batch":
            return [Forest.pack(self.trees)] if self.trees else []
        if max_tokens <= 0:
            raise DataError(f"max_tokens is {max_tokens}; a micro-batch needs a budget above 0")
        parts: list[Tree] = []
        shares: dict[int, TrunkShare] = {}
        for tree in self.trees:
            if self.whole is not None:
                parts.append(tree)
                continue
            count = tree.trunk_length if share_trunks and tree.num_tokens > max_tokens else 0
            if count <= max_tokens // 8:
                parts += tree.split(max_tokens)
                continue
            some = tree.split(max(max_tokens - count, count // 16), kept=count)
            for number, part in enumerate(some, 1):
                if len(some) > 1:
                    shares[len(parts)] = TrunkShare(tree, count, is_last=number == len(some))
                parts.append(part)
        return [
            replace(Forest.pack([parts[i] for i in members]), trunk=shares.get(members[0]))
            for members in _bins([t.num_tokens for t in parts], max_tokens, alone=shares.keys())
        ]

    def share(self, rank: int, size: int) -> Batch:
        """What one of several processes computes of the batch; the shares hold every tree once.

        A process with `share` still divides by the counts of the whole batch, so that its loss is
        a part of the batch's. Trees go to the process that has the fewest tokens so far, the
        longest first. A tree that is longer than an equal share is split (`Tree.split`), unless
        trees are kept whole. A batch that is kept whole is computed by the first process.

        Args:
            rank: of the process, from 0. size: number of processes.
        """
        if size == 1:
            return self
        if self.whole == "batch":
            return self if rank == 0 else Batch([], whole=self.whole)
        equal = max(1, -(-self.num_tokens // size))
        load = [0] * size
        trees, idle = (
            self._assigned(self._parts(some, equal), load)[rank] for some in (self.trees, self.idle)
        )
        return Batch(trees, idle, whole=self.whole)

    def _parts(self, trees: list[Tree], max_tokens: int) -> list[Tree]:
        """Trees of about `max_tokens`, where they need not stay whole."""
        if self.whole is not None:
            return trees
        return [part for tree in trees for part in tree.split(max_tokens)]

    @staticmethod
    def _assigned(trees: list[Tree], load: list[int]) -> list[list[Tree]]:
        """The trees of each process, in order. load: tokens of each; it grows."""
        members: list[list[int]] = [[] for _ in load]
        for index in sorted(range(len(trees)), key=lambda i: (-trees[i].num_tokens, i)):
            least = load.index(min(load))
            members[least].append(index)
            load[least] += trees[index].num_tokens
        return [[trees[i] for i in sorted(some)] for some in members]


def _bins(sizes: Sequence[int], room: int, *, alone: Collection[int]) -> list[list[int]]:
    """Places of sizes, put together where they sum up to at most `room`: first-fit decreasing, but
    for those that stay alone; ordered by their first place.
    """
    bins: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        size = sizes[index]
        place = next((b for b, left in enumerate(free) if size <= left), None)
        if place is None or index in alone:
            place = len(bins)
            bins.append([])
            free.append(0 if index in alone else room)
        bins[place].append(index)
        free[place] -= size
    return [sorted(members) for members in sorted(bins, key=min)]
