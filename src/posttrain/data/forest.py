"""The token forest: a batch as one flat row in which every distinct token stands once.

A tree holds sequences that begin alike; a forest is trees side by side. Tokens lie in depth-first
order, and one number per token tells the whole attention structure:

    token k is visible to token q   iff   k <= q < ends[k]

What is learnt hangs on targets, aligned lists of length M: `source` (the flat index that predicts),
`target` (the token predicted), `place` (the flat index of that token itself), `sequence` (whose
target it is) and named streams of per-target numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from posttrain.data.radix import Nodes, radix_tree
from posttrain.errors import DataError


@dataclass(slots=True)
class TokenSequence:
    """One training sequence: prompt and completion.

    ids: int64 [L], token ids. loss_mask: bool [L], True where a token counts as a target; never at
    index 0, which nothing predicts. streams: float32 [L] numbers per token (advantages, ...), read
    where loss_mask is True.
    values: numbers per sequence (reward, margin, ...). row: which data row or rollout it came from,
    for error messages.
    """

    ids: np.ndarray
    loss_mask: np.ndarray
    streams: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    row: str = ""

    def __post_init__(self) -> None:
        self.ids = np.asarray(self.ids, dtype=np.int64)
        self.loss_mask = np.asarray(self.loss_mask, dtype=bool)
        self.streams = {
            name: np.asarray(stream, dtype=np.float32) for name, stream in self.streams.items()
        }
        length = len(self.ids)
        where = f"row {self.row!r}" if self.row else "a sequence"
        if self.ids.ndim != 1 or length == 0:
            raise DataError(
                f"{where}: token ids must be a non-empty list, got shape {self.ids.shape}"
            )
        for name, array in {"loss_mask": self.loss_mask, **self.streams}.items():
            if array.shape != self.ids.shape:
                raise DataError(
                    f"{where}: {name!r} has shape {array.shape}; one number per token means "
                    f"({length},)"
                )
        if self.loss_mask[0]:
            raise DataError(
                f"{where}: the first token counts as a target, but nothing predicts it; set "
                "loss_mask[0] = False"
            )


@dataclass(slots=True)
class Tree:
    """Sequences that share what they have in common, as flat numpy arrays.

    tokens, positions (depth), ends: int64 [N]. source, target, place, sequence: int64 [M]. streams:
    float32 [M] each.
    values: float32 [S] each. last: int64 [S], the flat index of each sequence's last token. rows: S
    names.
    sequences: what it was built from.
    """

    tokens: np.ndarray
    positions: np.ndarray
    ends: np.ndarray
    source: np.ndarray
    target: np.ndarray
    place: np.ndarray
    sequence: np.ndarray
    last: np.ndarray
    streams: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    rows: list[str]
    sequences: list[TokenSequence]
    _nodes: Nodes

    @classmethod
    def build(cls, sequences: Sequence[TokenSequence], *, min_shared: int = 16) -> Tree:
        """Share prefixes: the longest one common to all, and below it those of at least
        `min_shared` tokens.

        Identical sequences share everything. A sequence may be a prefix of another.

        Raises:
            DataError: no sequences, or a stream or value that some of them lack.
        """
        if not sequences:
            raise DataError("a tree needs at least one sequence")
        return cls._lay_out(
            list(sequences), radix_tree([s.ids for s in sequences], max(1, min_shared))
        )

    @classmethod
    def _lay_out(cls, sequences: list[TokenSequence], nodes: Nodes) -> Tree:
        lengths = nodes.high - nodes.low
        starts = np.cumsum(lengths) - lengths
        subtree_end = starts + lengths
        for node in range(len(lengths) - 1, 0, -1):
            parent = nodes.parent[node]
            if parent >= 0:
                subtree_end[parent] = max(subtree_end[parent], subtree_end[node])
        pieces = [sequences[o].ids[a:b] for o, a, b in zip(nodes.owner, nodes.low, nodes.high)]
        flat = [nodes.flat_indices(starts, int(node)) for node in nodes.of_sequence]
        targets = [np.flatnonzero(s.loss_mask) for s in sequences]
        return cls(
            tokens=np.concatenate(pieces),
            positions=np.arange(lengths.sum()) - np.repeat(starts - nodes.low, lengths),
            ends=np.repeat(subtree_end, lengths),
            source=np.concatenate([f[t - 1] for f, t in zip(flat, targets)]),
            target=np.concatenate([s.ids[t] for s, t in zip(sequences, targets)]),
            place=np.concatenate([f[t] for f, t in zip(flat, targets)]),
            sequence=np.repeat(np.arange(len(sequences)), [len(t) for t in targets]),
            last=np.array([f[-1] for f in flat], dtype=np.int64),
            streams={
                name: np.concatenate([s.streams[name][t] for s, t in zip(sequences, targets)])
                for name in _common_keys([(s.row, s.streams) for s in sequences], "stream")
            },
            values={
                name: np.array([s.values[name] for s in sequences], dtype=np.float32)
                for name in _common_keys([(s.row, s.values) for s in sequences], "value")
            },
            rows=[s.row for s in sequences],
            sequences=sequences,
            _nodes=nodes,
        )

    @property
    def num_tokens(self) -> int:
        """Distinct tokens."""
        return len(self.tokens)

    @property
    def num_targets(self) -> int:
        """Targets over all sequences."""
        return len(self.target)

    @property
    def num_sequences(self) -> int:
        """Sequences, those without targets included."""
        return len(self.rows)

    def split(self, max_tokens: int) -> list[Tree]:
        """Trees of at most `max_tokens` tokens that hold the same sequences, trunks repeated.

        Sequences are taken in depth-first order and never cut; one longer than `max_tokens` gets a
        tree of its own.
        """
        if self.num_tokens <= max_tokens:
            return [self]
        lengths = self._nodes.high - self._nodes.low
        parts: list[list[int]] = []
        taken: set[int] = set()
        size = 0
        for index in np.argsort(self._nodes.of_sequence, kind="stable"):
            path = self._nodes.ancestry(int(self._nodes.of_sequence[index]))
            cost = int(sum(lengths[n] for n in path if n not in taken))
            if not parts or size + cost > max_tokens:
                parts.append([])
                taken, size = set(), 0
                cost = int(sum(lengths[n] for n in path))
            parts[-1].append(int(index))
            taken.update(path)
            size += cost
        return [self._subset(sorted(part)) for part in parts]

    def _subset(self, indices: list[int]) -> Tree:
        kept = sorted(
            {n for i in indices for n in self._nodes.ancestry(int(self._nodes.of_sequence[i]))}
        )
        number = {old: new for new, old in enumerate(kept)}
        number[-1] = -1
        heir: dict[
            int, int
        ] = {}  # a kept node belongs to some kept sequence, which may have to lend its tokens
        for new_index, index in enumerate(indices):
            for n in self._nodes.ancestry(int(self._nodes.of_sequence[index])):
                heir.setdefault(n, new_index)
        nodes = Nodes(
            parent=np.array([number[int(self._nodes.parent[n])] for n in kept]),
            low=self._nodes.low[kept],
            high=self._nodes.high[kept],
            owner=np.array([heir[n] for n in kept]),
            of_sequence=np.array([number[int(self._nodes.of_sequence[i])] for i in indices]),
        )
        return Tree._lay_out([self.sequences[i] for i in indices], nodes)


def _common_keys(items: Sequence[tuple[str, Mapping[str, object]]], kind: str) -> list[str]:
    """The names that all items have; DataError where only some have one."""
    names = list(dict.fromkeys(name for _, mapping in items for name in mapping))
    for name in names:
        for row, mapping in items:
            if name not in mapping:
                raise DataError(
                    f"the {kind} {name!r} is missing from row {row!r} but present in others of "
                    "the batch; "
                    f"give it to every sequence or to none"
                )
    return names


@dataclass(slots=True, frozen=True)
class Unshared:
    """A forest as padded rows: ids, mask [B, L] (padding on the right); source, place [M] into
    the B * L positions.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    source: torch.Tensor
    place: torch.Tensor


@dataclass(slots=True)
class Forest:
    """Trees side by side, as tensors: one micro-batch.

    tokens, positions, ends: int64 [N]. source, target, place, sequence: int64 [M]. streams: float32
    [M] each.
    values: float32 [S] each. last, tree: int64 [S], the flat index of the last token and the tree
    of each sequence.
    rows: S names. Sequences are numbered 0..S-1 within the forest, and trees from 0.
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
    streams: dict[str, torch.Tensor]
    values: dict[str, torch.Tensor]
    rows: list[str]

    @classmethod
    def pack(cls, trees: Sequence[Tree]) -> Forest:
        """Put trees side by side.

        Raises:
            DataError: no trees, or a stream or value that some of them lack.
        """
        if not trees:
            raise DataError("a forest needs at least one tree")
        streams = _common_keys([(t.rows[0], t.streams) for t in trees], "stream")
        values = _common_keys([(t.rows[0], t.values) for t in trees], "value")
        offsets = np.cumsum([0, *(t.num_tokens for t in trees)])
        counts = np.cumsum([0, *(t.num_sequences for t in trees)])

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
            streams={name: joined(t.streams[name] for t in trees) for name in streams},
            values={name: joined(t.values[name] for t in trees) for name in values},
            rows=[row for t in trees for row in t.rows],
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
        )
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        for name in ("streams", "values"):
            moved[name] = {
                k: v.to(device, non_blocking=True) for k, v in getattr(self, name).items()
            }
        return replace(self, **moved)

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
        found = torch.zeros_like(self.tokens)
        for last, depth in zip(self.last.tolist(), self.positions[self.last].tolist()):
            part = found[: last + 1]
            part[self.ends[: last + 1] > last] = part[self.ends[: last + 1] > last].clamp(
                min=depth + 1
            )
        return found

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


@dataclass(slots=True)
class Batch:
    """All trees of one optimizer step, with the counts that averages are divided by.

    idle: trees that count in the averages but whose gradient is known to be zero (groups without
    advantage), so that no forward pass is spent on them. whole: what belongs together whatever the
    token budget: the sequences of a "tree" (the two of a preference pair), or all of the "batch" (a
    loss that compares every sequence with every other).
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
    def num_trees(self) -> int:
        """Trees over the whole batch: pairs or groups where those are kept whole."""
        return len(self.trees) + len(self.idle)

    def stream_total(self, name: str) -> float | None:
        """Sum of a stream over all targets; None where no tree has it."""
        totals = [
            float(t.streams[name].sum()) for t in (*self.trees, *self.idle) if name in t.streams
        ]
        return sum(totals) if totals else None

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

    def split(self, max_tokens: int | None = None) -> list[Forest]:
        """Micro-batches of at most `max_tokens` distinct tokens (None: one micro-batch).

        First-fit decreasing, deterministic. A tree above the budget is split by its leaves with the
        trunk repeated; a sequence above the budget is not cut but becomes a micro-batch of its own,
        as does a tree that is kept whole.
        """
        if max_tokens is None or self.whole == "batch":
            return [Forest.pack(self.trees)] if self.trees else []
        if max_tokens <= 0:
            raise DataError(f"max_tokens is {max_tokens}; a micro-batch needs a budget above 0")
        parts = (
            self.trees
            if self.whole == "tree"
            else [part for tree in self.trees for part in tree.split(max_tokens)]
        )
        bins: list[list[int]] = []
        room: list[int] = []
        for index in sorted(range(len(parts)), key=lambda i: (-parts[i].num_tokens, i)):
            size = parts[index].num_tokens
            place = next((b for b, free in enumerate(room) if size <= free), None)
            if place is None:
                place = len(bins)
                bins.append([])
                room.append(max_tokens)
            bins[place].append(index)
            room[place] -= size
        return [
            Forest.pack([parts[i] for i in sorted(members)]) for members in sorted(bins, key=min)
        ]
