"""Per-target outputs of a model for many sequences, without a gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.models.forest_model import evaluating
from posttrain.models.language_model import LanguageModel
from posttrain.models.program import whole_weights
from posttrain.world import World

_ALONE = World.alone()

Numbers = dict[str, np.ndarray]
"""What a model says of the targets of a sequence, by name."""


def scored(
    model: LanguageModel,
    groups: Sequence[Sequence[TokenSequence]],
    names: Collection[str],
    *,
    max_tokens: int,
    temperature: float = 1.0,
    world: World = _ALONE,
) -> Iterator[tuple[TokenSequence, Numbers]]:
    """Each sequence with what the model says of its targets; sequences of a group share their
    prefix.

    Args:
        names: of what `LanguageModel.forward` gives per target, such as logprobs and ref_logprobs;
        a stream that the
            sequences carry is given back as it is. max_tokens: distinct tokens of a forward pass.
        temperature: what logits are divided by.
        world: the processes that share the groups among them; each gets the numbers of all.
    Yields:
        (sequence, {name: float32 [number of its targets]}), in no particular order. Dropout is off,
        in a critic too.
    """
    if world.size == 1:
        yield from _scored(model, groups, names, max_tokens, temperature)
        return

    def numbers_of(share: list[Sequence[TokenSequence]]) -> list[list[Numbers]]:
        results = {id(s): n for s, n in _scored(model, share, names, max_tokens, temperature)}
        return [[results[id(s)] for s in group] for group in share]

    with whole_weights(model):
        shares = world.spread(groups, numbers_of)
    for group, numbers in zip(groups, shares, strict=True):
        yield from zip(group, numbers, strict=True)


def _scored(
    model: LanguageModel,
    groups: Sequence[Sequence[TokenSequence]],
    names: Collection[str],
    max_tokens: int,
    temperature: float,
) -> Iterator[tuple[TokenSequence, Numbers]]:
    """As `scored`, in this process."""
    origin: dict[int, TokenSequence] = {}  # of copies that carry no more than is needed here

    def bare(sequence: TokenSequence) -> TokenSequence:
        streams = {name: sequence.streams[name] for name in names if name in sequence.streams}
        copy = replace(sequence, streams=streams, values={})
        origin[id(copy)] = sequence
        return copy

    parts = [
        part for group in groups for part in Tree.build([bare(s) for s in group]).split(max_tokens)
    ]
    start = 0
    while start < len(parts):
        stop, size = start + 1, parts[start].num_tokens
        while stop < len(parts) and size + parts[stop].num_tokens <= max_tokens:
            size += parts[stop].num_tokens
            stop += 1
        forest = Forest.pack(parts[start:stop]).to(model.device)
        critic = contextlib.nullcontext() if model.critic is None else evaluating(model.critic.hf)
        with torch.no_grad(), evaluating(model.hf), critic:
            outputs = {
                **forest.streams,
                **model.forward(forest, frozenset(names), temperature=temperature),
            }
        numbers = {name: outputs[name].float().cpu().numpy() for name in names}
        ends = 0
        for sequence in (s for part in parts[start:stop] for s in part.sequences):
            begin, ends = ends, ends + int(sequence.loss_mask.sum())
            yield (
                origin[id(sequence)],
                {name: values[begin:ends] for name, values in numbers.items()},
            )
        start = stop
