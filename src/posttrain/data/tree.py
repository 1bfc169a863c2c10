"""Sequences and the trees that they form: what begins alike is held once.

Rows of several kinds may stand side by side. A stream or value that a row does not carry has a
declared number there (`absent`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from posttrain.data.radix import Nodes, radix_tree
from posttrain.errors import DataError

_ABSENT: dict[str, float] = {
    "weights": 1.0,
    **dict.fromkeys(
        (
            "old_logprobs",
            "engine_logprobs",
            "ref_logprobs",
            "teacher_logprobs",
            "advantages",
            "returns",
            "old_values",
            "labels",
            "step",
            "entropy_weight",
            "reward_variance",
        ),
        float("nan"),
    ),
}


def absent(name: str) -> float:
    """The number that stands in the stream `name` at the targets of a row without it.

    1 for `weights`: a target without a weight counts fully. NaN for what a loss compares or
    multiplies with (log-probs, advantages, ...), where no number would be right: the objective
    refuses a loss that reads such a stream there. 0 for any other, such as `given` or a stream that
    marks a kind of row.

    >>> absent("weights"), absent("given")
    (1.0, 0.0)
    """
    return _ABSENT.get(name, 0.0)


def names_of(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    """The keys of several mappings, each once, in the order of their first appearance."""
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


@dataclass(slots=True)
class TokenSequence:
    """One training sequence: prompt and completion.

    ids: int64 [L], token ids. loss_mask: bool [L], True where a token counts as a target; never at
    index 0, which nothing predicts. streams: float32 [L] numbers per token (advantages, ...), read
    where loss_mask is True.
    values: numbers per sequence (reward, margin, ...). row: which data row or rollout it came from,
    for error messages. trace: sequences of a tree with the same number are branches of one trace:
    in ratios and averages they count as one sequence. None: a sequence of its own.
    context: int64 [C], what reference and teacher read in the place of all tokens before the first
    target, such as the prompt with a demonstration; None is those tokens themselves.
    """

    ids: np.ndarray
    loss_mask: np.ndarray
    streams: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    row: str = ""
    trace: int | None = None
    context: np.ndarray | None = None

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
        if self.context is not None:
            self.context = np.asarray(self.context, dtype=np.int64)
            if self.context.ndim != 1 or not len(self.context):
                raise DataError(
                    f"{where}: context has shape {self.context.shape}; it is at least one token id "
                    "that stands before the first target"
                )

    def in_context(self) -> TokenSequence:
        """The sequence as reference and teacher read it; the same targets in the same order.

        >>> row = TokenSequence([5, 6], [False, True], context=[7, 8, 9])
        >>> row.in_context().ids.tolist(), row.in_context().loss_mask.tolist()
        ([7, 8, 9, 6], [False, False, False, True])
        """
        if self.context is None:
            return TokenSequence(self.ids, self.loss_mask, row=self.row, trace=self.trace)
        first = int(self.loss_mask.argmax()) if self.loss_mask.any() else len(self.ids)
        ids = np.concatenate([self.context, self.ids[first:]])
        mask = np.concatenate([np.zeros(len(self.context), dtype=bool), self.loss_mask[first:]])
        return TokenSequence(ids, mask, row=self.row, trace=self.trace)


def marked(sequence: TokenSequence, name: str) -> TokenSequence:
    """A copy whose targets a loss can name: it has the stream `name`, 1 everywhere.

    >>> row = TokenSequence(np.array([5, 6]), np.array([False, True]))
    >>> marked(row, "texts").streams["texts"].tolist()
    [1.0, 1.0]
    """
    ones = np.ones(len(sequence.ids), dtype=np.float32)
    return replace(sequence, streams={**sequence.streams, name: ones})


@dataclass(slots=True)
class Tree:
    """Sequences that share what they have in common, as flat numpy arrays.

    Attributes:
        tokens, positions, ends: int64 [N]. positions: depth below the root.
        source, target, place, sequence: int64 [M], see the module `forest`.
        last: int64 [S], the flat index of each sequence's last token.
        trace: int64 [S], the trace of each sequence, numbered from 0 in order of first appearance;
            the branches of a trace have one number.
        streams: float32 [M] each. values: float32 [S] each. A sequence without a stream has
            `absent(name)` at its targets, one without a value has NaN.
        rows: S names. sequences: what the tree was built from.
    """

    tokens: np.ndarray
    positions: np.ndarray
    ends: np.ndarray
    source: np.ndarray
    target: np.ndarray
    place: np.ndarray
    sequence: np.ndarray
    last: np.ndarray
    trace: np.ndarray
    streams: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    rows: list[str]
    sequences: list[TokenSequence]
    _nodes: Nodes

    @classmethod
    def build(cls, sequences: Sequence[TokenSequence], *, min_shared: int | None = None) -> Tree:
        """Share prefixes: the longest one common to all, and below it those of at least
        `min_shared` tokens.

        Identical sequences share everything. A sequence may be a prefix of another.

        Args:
            min_shared: None is 16, or 1 where there are traces of several branches, which have long
                prefixes in common.

        Raises:
            DataError: no sequences.
        """
        if not sequences:
            raise DataError("a tree needs at least one sequence")
        if min_shared is None:
            min_shared = 16 if all(s.trace is None for s in sequences) else 1
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
            trace=_traces(sequences),
            streams={
                name: np.concatenate([_at(s, t, name) for s, t in zip(sequences, targets)])
                for name in names_of(s.streams for s in sequences)
            },
            values={
                name: np.array([s.values.get(name, np.nan) for s in sequences], dtype=np.float32)
                for name in names_of(s.values for s in sequences)
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

    @property
    def num_traces(self) -> int:
        """Sequences, the branches of a trace counted as one."""
        return int(self.trace.max()) + 1

    def stream(self, name: str) -> np.ndarray:
        """float32 [M], a stream at the targets; where the tree has none, what stands for it."""
        if name in self.streams:
            return self.streams[name]
        return np.full(self.num_targets, absent(name), dtype=np.float32)

    def value(self, name: str) -> np.ndarray:
        """float32 [S], a value of the sequences; NaN where the tree has none."""
        if name in self.values:
            return self.values[name]
        return np.full(self.num_sequences, np.nan, dtype=np.float32)

    @property
    def trunk_length(self) -> int:
        """Tokens of the beginning that all sequences share; 0 where there is one sequence, or no
        such beginning.
        """
        if self.num_sequences == 1 or int((self._nodes.parent < 0).sum()) != 1:
            return 0
        return int(self._nodes.high[0] - self._nodes.low[0])

    def split(self, max_tokens: int, *, kept: int = 0) -> list[Tree]:
        """Smaller trees that hold the same sequences, with trunks repeated.

        Sequences are taken in depth-first order and never cut, nor are the branches of a trace
        parted. A sequence joins the tree before it while that holds at most

            max(max_tokens, shared + min(shared, max_tokens))

        tokens, where `shared` is how many tokens of the sequence the tree holds already. So a
        prompt that is longer than half of `max_tokens` gets as much room above it as it is long,
        at most `max_tokens`, instead of being computed again for every completion. Where all
        trunks are at most `max_tokens / 2` long, no tree has more than `max_tokens` tokens, but for
        a longer sequence, which gets a tree of its own.

        Args:
            kept: tokens of the beginning that all sequences share, where it is computed once for
                all parts (`trunk_length`). They do not count.
        """
        if self.num_tokens - kept <= max_tokens:
            return [self]
        lengths = self._nodes.high - self._nodes.low
        parts: list[list[int]] = []
        nodes: set[int] = set()  # of the last part
        size = 0
        for members in self._members_of_traces():
            path = {n for i in members for n in self._nodes.ancestry(self._nodes.of_sequence[i])}
            whole = int(sum(lengths[n] for n in path)) - kept
            new = int(sum(lengths[n] for n in path if n not in nodes))
            shared = whole - new
            if not parts or size + new > max(max_tokens, shared + min(shared, max_tokens)):
                parts.append([])
                nodes, size, new = set(), 0, whole
            parts[-1] += members
            nodes.update(path)
            size += new
        return [self] if len(parts) == 1 else [self._subset(sorted(part)) for part in parts]

    def _members_of_traces(self) -> list[list[int]]:
        """The sequences of each trace, by the depth-first place of its first one."""
        members: dict[int, list[int]] = {}
        for index in np.argsort(self._nodes.of_sequence, kind="stable"):
            members.setdefault(int(self.trace[index]), []).append(int(index))
        return list(members.values())

    def _subset(self, indices: list[int]) -> Tree:
        """The tree of some of the sequences."""
        paths = [self._nodes.ancestry(int(self._nodes.of_sequence[i])) for i in indices]
        nodes = sorted({n for path in paths for n in path})
        number = {-1: -1} | {old: new for new, old in enumerate(nodes)}
        # A node's tokens were read from one of its sequences, which may not be among these.
        owner: dict[int, int] = {}
        for sequence, path in enumerate(paths):
            for n in path:
                owner.setdefault(n, sequence)
        smaller = Nodes(
            parent=np.array([number[int(self._nodes.parent[n])] for n in nodes]),
            low=self._nodes.low[nodes],
            high=self._nodes.high[nodes],
            owner=np.array([owner[n] for n in nodes]),
            of_sequence=np.array([number[int(self._nodes.of_sequence[i])] for i in indices]),
        )
        return Tree._lay_out([self.sequences[i] for i in indices], smaller)


def _at(sequence: TokenSequence, targets: np.ndarray, name: str) -> np.ndarray:
    """A stream of a sequence at its targets; where it has none, what stands for it."""
    if name in sequence.streams:
        return sequence.streams[name][targets]
    return np.full(len(targets), absent(name), dtype=np.float32)


def _traces(sequences: Sequence[TokenSequence]) -> np.ndarray:
    """int64 [S], the traces of sequences, numbered from 0 in order of first appearance."""
    keys = [(False, i) if s.trace is None else (True, s.trace) for i, s in enumerate(sequences)]
    number = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys], dtype=np.int64)
