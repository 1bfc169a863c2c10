"""Keys and values of prompts: what a prefix tree holds is reused, the rest is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.engines.prefix_tree import Part, PrefixTree, part_of
from posttrain.models.language_model import LanguageModel
from posttrain.models.prefixed_attention import Block, KeyValues

Prompt = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prefilled:
    """A prompt that was computed.

    parts: keys and values of stretches, from its beginning on, [Hkv, n, D] per layer; those of
    virtual tokens come first. hidden: the last hidden state, [D]. num_computed: tokens that were
    computed for it; those that it shares with an earlier prompt of a pass count there.
    """

    parts: list[KeyValues]
    hidden: Tensor
    num_computed: int

    def kv(self, start: int = 0, stop: int | None = None) -> KeyValues:
        """Keys and values of the places from start to stop, per layer [Hkv, stop - start, D]."""
        sizes = [part[0][0].shape[1] for part in self.parts]
        stop = sum(sizes) if stop is None else stop
        cut, first = [], 0
        for part, size in zip(self.parts, sizes, strict=True):
            a, b = max(start - first, 0), min(stop - first, size)
            if a < b:
                cut.append(part_of(part, a, b))
            first += size
        if len(cut) == 1:
            return cut[0]
        return [
            (torch.cat([k for k, _ in layer], 1), torch.cat([v for _, v in layer], 1))
            for layer in zip(*cut, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class _Group:
    """Prompts that continue the same path of the tree. tree: of what follows it. start: its
    first token in the forest.
    """

    prompts: list[Prompt]
    path: list[Part]
    tree: Tree
    start: int

    @property
    def depth(self) -> int:
        """Tokens of the path."""
        return sum(part.num_tokens for part in self.path)


class Prefill:
    """Computes prompts.

    At least the last token of each prompt is computed, as its hidden state is asked for.

    Args:
        max_tokens: computed in one pass.
    """

    def __init__(
        self,
        model: LanguageModel,
        tree: PrefixTree,
        *,
        max_tokens: int,
    ) -> None:
        self.model = model
        self.tree = tree
        self._max_tokens = max_tokens

    @property
    def num_virtual(self) -> int:
        """Keys and values that stand before every prompt."""
        return self.model.num_virtual_tokens

    def __call__(self, prompts: Sequence[Prompt]) -> list[Prefilled]:
        """The prompts, which are distinct, in order."""
        computed: dict[Prompt, Prefilled] = {}
        left = list(prompts)
        while left:
            portion = self._portion(left)
            computed |= self._compute(portion)
            left = left[len(portion) :]
        self.tree.trim()
        return [computed[prompt] for prompt in prompts]

    def _portion(self, prompts: list[Prompt]) -> list[Prompt]:
        """As many of the first prompts as one pass may compute, at least one."""
        size = 0
        for number, prompt in enumerate(prompts):
            size += len(prompt) - sum(part.num_tokens for part in self.tree.match(prompt[:-1]))
            if number and size > self._max_tokens:
                return prompts[:number]
        return prompts

    def _compute(self, prompts: list[Prompt]) -> dict[Prompt, Prefilled]:
        groups = self._groups(prompts)
        virtual = self.num_virtual
        blocks = self._blocks(groups) if self.tree.root.kv or not virtual else []
        # Without blocks the model puts its virtual tokens before the forest itself.
        first = 0 if blocks else virtual
        forest = Forest.pack([group.tree for group in groups])
        if blocks:
            depths = [np.full(group.tree.num_tokens, group.depth + virtual) for group in groups]
            above = torch.from_numpy(np.concatenate(depths))
            forest = replace(forest, positions=forest.positions + above)
        hidden, plan = self.model.prefill(forest, blocks)
        fresh = [(k[0], v[0]) for _, (k, v) in sorted(plan.kv.items())]
        if first:
            self.tree.root.kv = _picked(fresh, np.arange(first))
        results: dict[Prompt, Prefilled] = {}
        is_counted = np.zeros(first + forest.num_tokens, dtype=bool)
        for group in groups:
            for prompt, last in zip(group.prompts, group.tree.last.tolist(), strict=True):
                places = np.flatnonzero(group.tree.ends[: last + 1] > last) + group.start + first
                skipped = group.depth

                def rest(
                    start: int, places: np.ndarray = places, skipped: int = skipped
                ) -> KeyValues:
                    return _picked(fresh, places[start - skipped :])

                self.tree.insert(prompt, rest)
                parts = [part.kv() for part in self.tree.match(prompt)]
                if virtual:
                    parts.insert(0, self.tree.root.kv)
                num_computed = int((~is_counted[places]).sum())
                is_counted[places] = True
                # A view would keep all hidden states alive.
                state = hidden[group.start + last].clone()
                results[prompt] = Prefilled(parts, state, num_computed)
        return results

    def _groups(self, prompts: list[Prompt]) -> list[_Group]:
        """Prompts by the path that they continue, so that those below a node are neighbours."""
        by_path: dict[Prompt, tuple[list[Part], list[Prompt]]] = {}
        for prompt in prompts:
            path = self.tree.match(prompt[:-1])
            depth = sum(part.num_tokens for part in path)
            by_path.setdefault(prompt[:depth], (path, []))[1].append(prompt)
        groups, start = [], 0
        for beginning in sorted(by_path):
            path, members = by_path[beginning]
            rests = [np.array(prompt[len(beginning) :]) for prompt in members]
            tree = Tree.build([TokenSequence(ids, np.zeros(len(ids), dtype=bool)) for ids in rests])
            groups.append(_Group(members, path, tree, start))
            start += tree.num_tokens
        return groups

    def _blocks(self, groups: list[_Group]) -> list[Block]:
        """What of the tree the groups see, each stretch once for all groups below it."""
        virtual = self.num_virtual
        end = groups[-1].start + groups[-1].tree.num_tokens
        spans: dict[tuple[int, int], Block] = {}
        for group in groups:
            stop, position = group.start + group.tree.num_tokens, virtual
            for part in group.path:
                key = (id(part.node), part.num_tokens)
                known = spans.get(key)
                start = group.start if known is None else known.start
                spans[key] = Block(part.kv(), start, stop, position)
                position += part.num_tokens
        root = [Block(self.tree.root.kv, 0, end, 0)] if virtual else []
        return [*root, *spans.values()]


def _picked(kv: KeyValues, places: np.ndarray) -> KeyValues:
    """Copies of the keys and values at some places."""
    index = torch.from_numpy(places).to(kv[0][0].device)
    return [(k.index_select(1, index), v.index_select(1, index)) for k, v in kv]
