"""Speculative decoding: several tokens of a row in one forward pass, where they can be guessed.

A draft is computed together with a row's newest token. The next tokens are then sampled from the
logits at its places, one by one as always, until a sampled token is not the drafted one:

    x_i ~ p(. | x_<i) by the row's uniform number u_i; go on as long as x_i = d_i

A draft d is a function of the text, so its distribution is a point mass. For it the rejection rule
of Leviathan et al. (arXiv 2211.17192) accepts d with probability p(d), and else draws from p
without d, renormalised. To draw x from p and to accept where x = d is the same law, and it makes
the sample the one that is written without drafts: speculation changes speed, never a sample (up to
the rounding of matrix products of other shapes).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.engines.drafts import Drafter
from posttrain.engines.prefill import Prefill, Prefilled, Prompt
from posttrain.engines.prefix_tree import part_of
from posttrain.engines.stepping import Joined
from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.models.prefixed_attention import Block, KeyValues


class Speculation:
    """How an engine drafts.

    Args:
        num_tokens: of a draft, at most.
    Attributes:
        num_drafted, num_accepted: tokens so far. num_passes: forward passes of decoding.

    Raises:
        ConfigError: num_tokens below 1.
    """

    def __init__(self, drafter: Drafter, *, num_tokens: int = 4) -> None:
        if num_tokens < 1:
            raise ConfigError(f"num_tokens is {num_tokens}; a draft has at least 1 token")
        self.drafter = drafter
        self.num_tokens = num_tokens
        self.num_drafted = self.num_accepted = self.num_passes = 0


@dataclass(slots=True, eq=False)
class _Row:
    """prompt: its keys and values, for all rows of a prompt the same object. ids: prompt and what
    was written. capacity: of written tokens. ahead: drafted tokens, each with the logits [V]
    behind it. own: keys and values of what was written and of drafts, with room behind.
    """

    prompt: KeyValues
    prompt_length: int
    ids: Prompt
    capacity: int
    ahead: deque[tuple[int, Tensor]] = field(default_factory=deque)
    own: KeyValues = field(default_factory=list)

    @property
    def num_written(self) -> int:
        return len(self.ids) - self.prompt_length

    def write(self, start: int, kv: KeyValues) -> None:
        """Put keys and values behind the first `start` of its own."""
        needed = start + kv[0][0].shape[1]
        room = self.own[0][0].shape[1] if self.own else 0
        if needed > room:
            whole = []
            for layer, pair in enumerate(kv):
                wider = [x.new_zeros(x.shape[0], 2 * needed, x.shape[2]) for x in pair]
                if self.own:
                    for new, old in zip(wider, self.own[layer], strict=True):
                        new[:, :room] = old
                whole.append((wider[0], wider[1]))
            self.own = whole
        for (keys, values), (k, v) in zip(self.own, kv, strict=True):
            keys[:, start:needed], values[:, start:needed] = k, v


class SpeculativeStepper:
    """Decoding with drafts, for models that share trunks. A `Stepper`.

    A step computes the rows whose newest token was not drafted, each with a new draft, in one
    forest below the keys and values of their texts; for the other rows the logits are there.
    """

    def __init__(self, model: LanguageModel, prefill: Prefill, speculation: Speculation) -> None:
        self.model = model
        self._head = model.head.widened()
        self._prefill = prefill
        self._speculation = speculation
        self._rows: list[_Row] = []

    def join(self, prompts: Sequence[Prompt], capacity: Sequence[int]) -> Joined:
        """See `Stepper`."""
        distinct = list(dict.fromkeys(prompts))
        prefilled = dict(zip(distinct, self._prefill(distinct), strict=True))
        kv = {prompt: computed.kv() for prompt, computed in prefilled.items()}
        self._rows += [
            _Row(kv[p], len(p), p, limit) for p, limit in zip(prompts, capacity, strict=True)
        ]
        return self._joined(prompts, prefilled)

    def _joined(self, prompts: Sequence[Prompt], prefilled: Mapping[Prompt, Prefilled]) -> Joined:
        cost = {p: computed.num_computed for p, computed in prefilled.items()}
        hidden = torch.stack([prefilled[p].hidden for p in prompts])
        return Joined(self._head.logits(hidden).float(), [cost.pop(p, 0) for p in prompts])

    def step(self, tokens: Tensor) -> Tensor:
        """See `Stepper`."""
        results: dict[int, Tensor] = {}
        missed = []
        for line, (row, token) in enumerate(zip(self._rows, tokens.tolist(), strict=True)):
            if row.num_written >= row.capacity:  # it has ended and runs along
                continue
            row.ids = (*row.ids, token)
            if row.ahead and row.ahead[0][0] == token:
                results[line] = row.ahead.popleft()[1]
                self._speculation.num_accepted += 1
            else:
                row.ahead.clear()
                missed.append(line)
        if missed:
            results |= self._compute(missed)
        some = next(iter(results.values()), None)
        width = self.model.config.vocab_size if some is None else len(some)
        logits = torch.zeros(len(self._rows), width, device=tokens.device)
        if results:
            logits[list(results)] = torch.stack(list(results.values()))
        return logits

    def _compute(self, lines: list[int]) -> dict[int, Tensor]:
        """Logits [V] behind the newest tokens of some lines, which get new drafts."""
        # Rows of a prompt are neighbours, so that they see its keys and values as one block.
        lines = sorted(lines, key=lambda line: (id(self._rows[line].prompt), line))
        rows = [self._rows[line] for line in lines]
        lengths = [
            min(self._speculation.num_tokens, row.capacity - row.num_written - 1) for row in rows
        ]
        drafts = self._speculation.drafter([row.ids for row in rows], lengths)
        chains = [np.array([row.ids[-1], *draft]) for row, draft in zip(rows, drafts, strict=True)]
        starts = np.cumsum([0, *map(len, chains)]).tolist()
        forest = Forest.pack([Tree.build([_unlearnt(chain)]) for chain in chains])
        above = [self._prefill.num_virtual + len(row.ids) - 1 for row in rows]
        depths = np.repeat(above, [len(chain) for chain in chains])
        forest = replace(forest, positions=forest.positions + torch.from_numpy(depths))
        hidden, plan = self.model.prefill(forest, _blocks(rows, starts))
        logits = self._head.logits(hidden).float()
        fresh = [(k[0], v[0]) for _, (k, v) in sorted(plan.kv.items())]
        results = {}
        for number, (line, row, draft) in enumerate(zip(lines, rows, drafts, strict=True)):
            start, stop = starts[number], starts[number + 1]
            row.write(row.num_written - 1, part_of(fresh, start, stop))
            results[line] = logits[start]
            row.ahead.extend(zip(draft, logits[start + 1 : stop], strict=True))
        self._speculation.num_drafted += sum(map(len, drafts))
        self._speculation.num_passes += 1
        return results

    def renew(self) -> None:
        """See `Stepper`."""
        self._head = self.model.head.widened()
        for row in self._rows:
            row.ahead.clear()

    def keep(self, rows: Tensor) -> None:
        """See `Stepper`."""
        self._rows = [self._rows[line] for line in rows.tolist()]

    def store(self, texts: Mapping[int, Prompt]) -> None:
        """See `Stepper`."""
        tree, virtual = self._prefill.tree, self._prefill.num_virtual
        if not tree.max_bytes:
            return
        for line in texts:
            row = self._rows[line]

            def computed(start: int, row: _Row = row) -> KeyValues:
                before = part_of(row.prompt, min(start, row.prompt_length) + virtual, None)
                own = part_of(row.own, max(start - row.prompt_length, 0), row.num_written)
                return [
                    (torch.cat([a, c], 1), torch.cat([b, d], 1))
                    for (a, b), (c, d) in zip(before, own, strict=True)
                ]

            if row.num_written:  # else there is no more than the prompt, which the tree has seen
                tree.insert(row.ids, computed)
        tree.trim()


def _blocks(rows: Sequence[_Row], starts: Sequence[int]) -> list[Block]:
    """What the rows see, of which row k is the forest's tokens starts[k] to starts[k + 1]."""
    blocks: list[Block] = []
    for number, row in enumerate(rows):
        start, stop = starts[number], starts[number + 1]
        if number and rows[number - 1].prompt is row.prompt:
            last = max(i for i, block in enumerate(blocks) if block.kv is row.prompt)
            blocks[last] = blocks[last]._replace(stop=stop)
        else:
            blocks.append(Block(row.prompt, start, stop, 0))
        if row.num_written > 1:
            own = part_of(row.own, 0, row.num_written - 1)
            blocks.append(Block(own, start, stop, row.prompt[0][0].shape[1]))
    return blocks


def _unlearnt(ids: np.ndarray) -> TokenSequence:
    return TokenSequence(ids, np.zeros(len(ids), dtype=bool))
