"""Training sequences, and counts of the rows that were cut, split, dropped or left out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from posttrain.data.forest import TokenSequence
from posttrain.data.formats import RowFormat
from posttrain.data.store import SequenceStore, record
from posttrain.errors import DataError

Truncation = Literal["auto", "split", "drop", "keep_start", "keep_end", "error"]

_SHOWN_REASONS = 5  # rows that a message names, and why
_REASON_LENGTH = 120  # characters


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a sequence may be, and how much of the data may be lost.

    Attributes:
        max_length: tokens per sequence.
        truncation: what happens to a longer row. "split" makes several sequences of it, which
            loses nothing and which only plain text allows. "keep_start" and "keep_end" cut it,
            "drop" leaves it out, "error" refuses it. "auto" splits plain text and keeps the start
            of everything else.
        max_masked: largest share of rows without a trained token.
        max_cut: largest share of rows that are cut or dropped, and of tokens lost that way.
        context: tokens that the model allows; None if unknown.
        max_unusable: largest share of rows that are skipped because they cannot be read.
    """

    max_length: int = 1024
    truncation: Truncation = "auto"
    max_masked: float = 0.1
    max_cut: float = 0.1
    context: int | None = None
    max_unusable: float = 0.1

    def ways_out(self) -> str:
        """How to make room for longer rows; max_length cannot exceed the model's context."""
        if self.context is None:
            return "Raise data.max_length"
        if self.max_length < self.context:
            return f"Raise data.max_length (the model's context is {self.context} tokens)"
        return f"Take a model with a context of more than {self.context} tokens, shorten the rows"


@dataclass(slots=True)
class Encoded:
    """Sequences and what became of the rows.

    Attributes:
        sequences: a list, or a `SequenceStore` where they may exceed memory.
        form: format of the rows.
        num_rows: rows that were read, or documents of plain text.
        truncated: rows that were cut.
        dropped: rows that were left out as too long.
        masked: names of rows left out because no token was left to train on or, of groups, nothing
            to compare.
        groups: sequences that are compared with each other, such as the two of a pair.
        roles: of the sequences of each group, such as ("chosen", "rejected").
        split: rows that became several sequences.
        num_tokens: of all rows before cutting, BOS and EOS included. A prompt counts once per
            completion.
        tokens_cut: tokens lost by rows that were cut.
        tokens_dropped: tokens lost by rows that were dropped.
        text: whether the rows are documents of plain text.
        num_unusable: rows that were skipped because a column is missing, empty or of the wrong
            type.
        reasons: why the first of these were skipped.
    """

    sequences: Sequence[TokenSequence]
    form: RowFormat
    num_rows: int = 0
    truncated: int = 0
    dropped: int = 0
    masked: list[str] = field(default_factory=list)
    groups: list[list[TokenSequence]] = field(default_factory=list)
    roles: tuple[str, ...] = ()
    split: int = 0
    num_tokens: int = 0
    tokens_cut: int = 0
    tokens_dropped: int = 0
    text: bool = False
    num_unusable: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, sequence: TokenSequence) -> None:
        """Add a sequence to train on."""
        assert isinstance(self.sequences, list | SequenceStore)
        self.sequences.append(sequence)

    def add_group(self, members: list[TokenSequence]) -> None:
        """Add sequences that are compared with each other."""
        self.groups.append(members)
        for member in members:
            self.add(member)

    def skip(self, error: DataError) -> None:
        """Count a row that cannot be used. error: names the row and what is wrong with it."""
        self.num_unusable += 1
        if len(self.reasons) < _SHOWN_REASONS:
            self.reasons.append(shortened(str(error)))

    def fitted(
        self, row: str, sequences: list[TokenSequence], limits: Limits, *, text: bool = False
    ) -> list[TokenSequence]:
        """A row's sequences within max_length; counts what they lose. Empty if the row is dropped.

        Args:
            row: name of the row, for messages. text: the row is plain text, which may be split.
        Raises:
            DataError: the row is too long and truncation is "error", or is "split" and the row is
                not plain text.
        """
        lengths = [len(s.ids) for s in sequences]
        self.num_tokens += sum(lengths)
        if max(lengths) <= limits.max_length:
            return sequences
        truncation = limits.truncation
        if truncation == "auto":
            truncation = "split" if text else "keep_start"
        if truncation == "error":
            raise DataError(
                f"row {row} has {max(lengths)} tokens, data.max_length is {limits.max_length} and "
                f"data.truncation is error. {limits.ways_out()}, or set another data.truncation"
            )
        if truncation == "split":
            if not text:
                raise DataError(
                    f"row {row} has {max(lengths)} tokens and data.truncation is split, which is "
                    "for plain text: parts of a conversation or a pair are no examples. Use "
                    "keep_start, keep_end or drop"
                )
            self.split += 1
            return [part for s in sequences for part in split(s, limits.max_length)]
        if truncation == "drop":
            self.dropped += 1
            self.tokens_dropped += sum(lengths)
            return []
        self.truncated += 1
        self.tokens_cut += sum(max(length - limits.max_length, 0) for length in lengths)
        return [cut(s, limits.max_length, truncation) for s in sequences]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence."""
        if isinstance(self.sequences, SequenceStore):
            return self.sequences.lengths
        return np.array([len(s.ids) for s in self.sequences])

    @property
    def num_trained(self) -> int:
        """Tokens that count, over all sequences."""
        if isinstance(self.sequences, SequenceStore):
            return self.sequences.num_trained
        return int(sum(s.loss_mask.sum() for s in self.sequences))

    @property
    def lost_share(self) -> float:
        """Share of the rows that were cut or dropped, or of their tokens: the larger one."""
        rows = (self.truncated + self.dropped) / max(self.num_rows, 1)
        return max(rows, (self.tokens_cut + self.tokens_dropped) / max(self.num_tokens, 1))

    def refuse_losses(
        self, limits: Limits, nothing_left: str = "have no token left to train on"
    ) -> None:
        """Refuse data of which more was lost than `limits` allow; one error names all that is.

        Args:
            nothing_left: why a row is in `masked`, for the message.
        Raises:
            DataError: names the share, the bound and the ways out.
        """
        if not self.sequences:
            raise DataError(self._nothing_text(limits, nothing_left))
        problems = []
        unusable = self.num_unusable / max(self.num_rows, 1)
        if unusable > limits.max_unusable:
            problems.append(
                f"{self._unusable_text()}, more than data.max_unusable={limits.max_unusable:g} "
                f"allows. Fix these rows, or set data.max_unusable={rounded_up(unusable)} to skip "
                "them"
            )
        masked = len(self.masked) / max(self.num_rows, 1)
        if masked > limits.max_masked:
            problems.append(self._masked_text(limits, nothing_left, masked))
        if self.lost_share > limits.max_cut:
            problems.append(
                f"rows longer than data.max_length={limits.max_length} tokens: "
                f"{'; '.join(self._too_long())}. That is {self.lost_share:.1%} of the rows or of "
                f"their tokens, more than data.max_cut={limits.max_cut:g} allows. "
                f"{limits.ways_out()}, choose by data.truncation which rows or ends are lost "
                "(drop, keep_start, keep_end), or accept it with "
                f"data.max_cut={rounded_up(self.lost_share)}"
            )
        if problems:
            raise DataError(". ".join(problems))

    def _nothing_text(self, limits: Limits, nothing_left: str) -> str:
        """Why there is no sequence."""
        parts = []
        if self.num_unusable:
            parts.append(self._unusable_text())
        if self.masked:
            parts.append(f"{len(self.masked)} {nothing_left} (first: {self._first_masked()})")
        parts += self._too_long()
        too_long = self.truncated or self.dropped
        fix = limits.ways_out() if too_long else "Fix these rows"
        bound = f" (data.max_length is {limits.max_length})" if too_long else ""
        return (
            f"no row is left to train on: of {self.num_rows} rows "
            f"{'; '.join(parts) or 'none has a token'}{bound}. {fix}, or take other data"
        )

    def _masked_text(self, limits: Limits, nothing_left: str, share: float) -> str:
        """Why too many rows have nothing to learn."""
        lost = ""  # a problem of its own where it exceeds max_cut
        if self.lost_share <= limits.max_cut:
            cut_text = "; ".join(self._too_long()) or "no row was cut"
            lost = f"; {cut_text} (data.max_length is {limits.max_length})"
        room = f", {_lower(limits.ways_out())}" if self.truncated else ""
        return (
            f"{len(self.masked)} of {self.num_rows} rows {nothing_left} (first: "
            f"{self._first_masked()}), more than data.max_masked={limits.max_masked:g} allows"
            f"{lost}. Fix these rows{room}, or set data.max_masked={rounded_up(share)}"
        )

    def _first_masked(self) -> str:
        return ", ".join(self.masked[:_SHOWN_REASONS])

    def _unusable_text(self) -> str:
        """How many rows cannot be used, and why the first of them."""
        more = "; ..." if self.num_unusable > len(self.reasons) else ""
        return (
            f"{self.num_unusable:,} of {self.num_rows:,} rows cannot be used "
            f"({'; '.join(self.reasons)}{more})"
        )

    def lost_text(self) -> str:
        """What was skipped, cut, dropped and left out, in words; "" where nothing was."""
        parts = self._too_long()
        if self.num_unusable:
            parts.append(f"{self._unusable_text()} and are skipped")
        if self.masked:
            parts.append(
                f"{len(self.masked):,} of {self.num_rows:,} rows left out with nothing to learn"
            )
        return "; ".join(parts)

    def _too_long(self) -> list[str]:
        """What longer rows lost, in words."""
        of_tokens = f"of {self.num_tokens:,} tokens"
        parts = []
        if self.truncated:
            share = self.tokens_cut / max(self.num_tokens, 1)
            parts.append(
                f"{self.truncated:,} of {self.num_rows:,} rows cut, losing {self.tokens_cut:,} "
                f"{of_tokens} ({share:.1%})"
            )
        if self.dropped:
            share = self.tokens_dropped / max(self.num_tokens, 1)
            parts.append(
                f"{self.dropped:,} of {self.num_rows:,} rows dropped as too long, with "
                f"{self.tokens_dropped:,} {of_tokens} ({share:.1%})"
            )
        return parts

    def lost_metrics(self, prefix: str) -> dict[str, float]:
        """What was lost, as metrics under `prefix`; empty where nothing was."""
        if not (self.truncated or self.dropped or self.masked or self.num_unusable):
            return {}
        counts = {
            "rows": self.num_rows,
            "rows_cut": self.truncated,
            "rows_dropped": self.dropped,
            "rows_masked": len(self.masked),
            "tokens": self.num_tokens,
            "tokens_cut": self.tokens_cut,
            "tokens_dropped": self.tokens_dropped,
        }
        if self.num_unusable:
            counts["rows_unusable"] = self.num_unusable
        return {f"{prefix}/{name}": float(value) for name, value in counts.items()}

    def fingerprint(self) -> str:
        """A digest of all that is trained: ids, masks, streams, values and names, in order."""
        if isinstance(self.sequences, SequenceStore):
            return self.sequences.fingerprint()
        digest = hashlib.blake2b(digest_size=16)
        for sequence in self.sequences:
            digest.update(record(sequence))
        return digest.hexdigest()


def cut(sequence: TokenSequence, max_length: int, truncation: Truncation) -> TokenSequence:
    """At most max_length tokens of a sequence, from its start or (keep_end) its end."""
    part = slice(-max_length, None) if truncation == "keep_end" else slice(None, max_length)
    return _part(sequence, part, sequence.row)


def split(sequence: TokenSequence, max_length: int) -> list[TokenSequence]:
    """A sequence of L tokens as parts of at most max_length tokens.

    Each part begins with the last token of the one before, as context. A part of n tokens has
    n - 1 targets, and every target 1, ..., L - 1 of the sequence is in exactly one part. The first
    target of a later part sees one token, the last sees max_length - 1.
    """
    starts = range(0, max(len(sequence.ids) - 1, 1), max_length - 1)
    return [
        _part(
            sequence,
            slice(start, start + max_length),
            sequence.row if not k else f"{sequence.row} part {k + 1}",
        )
        for k, start in enumerate(starts)
    ]


def _part(sequence: TokenSequence, part: slice, row: str) -> TokenSequence:
    mask = sequence.loss_mask[part].copy()
    mask[0] = False
    streams = {name: stream[part] for name, stream in sequence.streams.items()}
    return TokenSequence(sequence.ids[part], mask, streams, sequence.values, row)


def rounded_up(share: float) -> float:
    """A share rounded up to two digits, at most 1."""
    return min(math.ceil(share * 100) / 100, 1.0)


def shortened(text: str) -> str:
    """A reason of at most 120 characters, in one line."""
    text = " ".join(text.split())
    return text if len(text) <= _REASON_LENGTH else f"{text[: _REASON_LENGTH - 1]}…"


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


def trained_ends(sequences: Sequence[TokenSequence], token: int | None) -> int:
    """How many sequences end in a certain trained token, such as EOS."""
    if isinstance(sequences, SequenceStore):
        return int((sequences.last_trained == token).sum()) if token is not None else 0
    return sum(int(s.ids[s.loss_mask][-1]) == token for s in sequences)
