"""From traces to training sequences: one per branch of an episode.

A turn whose context begins with the context and the completion of the turn before continues its
sequence. Any other starts a branch: a template that rewrites history (drops old thoughts) gives the
turn another context. So each turn is trained in the context in which it was sampled, and a tree
computes what branches share once.

Numbers per token of a trace are arrays [T] over its sampled tokens, turn after turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from posttrain.data.forest import TokenSequence
from posttrain.types import Trace, Turn


def branches(trace: Trace) -> list[list[Turn]]:
    """The turns of each branch, in order."""
    chains: list[list[Turn]] = []
    before: tuple[int, ...] | None = None
    for turn in trace.turns:
        if before is not None and turn.context_ids[: len(before)] == before:
            chains[-1].append(turn)
        else:
            chains.append([turn])
        before = turn.ids
    return chains


def trace_sequences(
    trace: Trace, row: str = "", *, number: int = 0, every_turn: bool = False
) -> list[TokenSequence]:
    """The training sequences of a trace: one per branch, the sampled ids as they are, never
    re-tokenised text.

    The targets are the sampled ids of the trained turns, each in one branch. A branch in which
    nothing was sampled is left out.

    Args:
        row: a name for messages. number: of the trace in its tree, where it has several branches.
        every_turn: make targets of turns that are not trained too, and of ids that were not
            sampled, to measure log-probs there.
    """
    sequences = []
    several = len(trace.turns) > 1
    for turns in branches(trace):
        ids = np.array(turns[-1].ids, dtype=np.int64)
        mask = np.zeros(len(ids), dtype=bool)
        for turn in turns:
            start = len(turn.context_ids)
            counts = True if every_turn else np.array(turn.loss_mask, dtype=bool)
            mask[start : start + len(turn.sample.ids)] = counts
        if any(turn.sample.ids for turn in turns):
            sequences.append(TokenSequence(ids, mask, row=row, trace=number if several else None))
    return sequences


def turn_numbers(trace: Trace) -> np.ndarray:
    """int64 [T], the turn of each sampled token."""
    lengths = _lengths(trace)
    return np.repeat(np.arange(len(lengths)), lengths)


def trained_tokens(trace: Trace) -> np.ndarray:
    """bool [T], whether losses count each token: its turn is trained, and it was sampled."""
    return np.array([counts for turn in trace.turns for counts in turn.loss_mask], dtype=bool)


def set_streams(sequences: Sequence[TokenSequence], numbers: Mapping[str, np.ndarray]) -> None:
    """Give the branches of a trace numbers per sampled token as streams, 0 at other tokens.

    Args:
        sequences: of `trace_sequences(..., every_turn=True)`. numbers: arrays [T] by name.
    """
    start = 0
    for sequence in sequences:
        places = np.flatnonzero(sequence.loss_mask)
        stop = start + len(places)
        for name, values in numbers.items():
            stream = np.zeros(len(sequence.ids), dtype=np.float32)
            stream[places] = values[start:stop]
            sequence.streams[name] = stream
        start = stop


def _lengths(trace: Trace) -> np.ndarray:
    return np.array([len(turn.sample.ids) for turn in trace.turns], dtype=np.int64)
