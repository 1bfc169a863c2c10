"""One more token for every row of a batch: with shared prompts, or by the model's own cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.engines.decode import DecodePlan, KeyValues
from posttrain.engines.steady_plan import SteadyPlan
from posttrain.kernels import computing
from posttrain.kernels.agreement import agrees
from posttrain.kernels.columns import ColumnDecoder, column_decoder
from posttrain.kernels.graphs import StepGraphs
from posttrain.models.attention import without_mask
from posttrain.models.forest_model import evaluating
from posttrain.models.language_model import LanguageModel

Prompt = tuple[int, ...]
Prefill = Callable[[list[Prompt]], list[tuple[KeyValues, Tensor]]]
"""Per prompt, each layer's keys and values and the last hidden state [D]."""


class Stepper(Protocol):
    """Rows that decode side by side. Lines of all tensors are rows in the order in which they
    joined.
    """

    def join(self, prompts: Sequence[Prompt], capacity: Sequence[int]) -> Tensor:
        """Take in a row per prompt, which writes at most `capacity` tokens each; logits float32
        [new, V] of the first ones.
        """
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Compute the rows' newest tokens [R]; logits float32 [R, V] of the next ones."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, indices ascending."""
        ...


class ForestStepper:
    """Decoding with shared prompts, each step by `columns` where there is one, else by the model
    itself, which `graphs` may repeat from a recording."""

    def __init__(
        self,
        model: LanguageModel,
        prefill: Prefill,
        columns: ColumnDecoder | None = None,
        graphs: StepGraphs | None = None,
    ) -> None:
        self.model = model
        self._base, self._head = model.base, model.head.widened()
        self._columns, self._graphs = columns, graphs
        self._prefill = prefill
        self._plan: DecodePlan | None = None
        self._resident: list[Prompt] = []
        # The last prompt that joined may have samples that still wait; it is not computed again for
        # them.
        self._last: dict[Prompt, tuple[KeyValues, Tensor]] = {}

    def join(self, prompts: Sequence[Prompt], capacity: Sequence[int]) -> Tensor:
        distinct = list(dict.fromkeys(prompts))
        missing = [p for p in distinct if p not in self._last]
        computed = self._last | dict(zip(missing, self._prefill(missing), strict=True))
        self._last = {prompts[-1]: computed[prompts[-1]]}
        fresh = [p for p in distinct if p not in self._resident]
        self._resident.extend(fresh)
        number = {p: i for i, p in enumerate(self._resident)}
        prompt_of = torch.tensor([number[p] for p in prompts], device=self.model.device)
        limits = torch.tensor(capacity, device=self.model.device)
        kv = [computed[p][0] for p in fresh]
        if self._plan is None:
            records = self._graphs is not None and self._graphs.why_not is None
            self._plan = (SteadyPlan if records else DecodePlan)(kv, prompt_of, limits)
        else:
            self._plan.join(kv, prompt_of, limits)
        hidden = torch.stack([computed[p][1] for p in distinct])
        place = {p: i for i, p in enumerate(distinct)}
        rows = torch.tensor([place[p] for p in prompts], device=hidden.device)
        return self._head.logits(hidden).float()[rows]

    def step(self, tokens: Tensor) -> Tensor:
        assert self._plan is not None
        if self._columns is not None:
            hidden = self._columns.step(tokens, self._plan.positions(), self._plan)
            self._plan.advance()
            return self._head.logits(hidden, by_columns=True)
        if self._graphs is not None and isinstance(self._plan, SteadyPlan):
            logits = self._graphs.step(self._own_step, tokens, self._plan)
        else:
            logits = self._own_step(tokens)
        self._plan.advance()
        return logits

    def _own_step(self, tokens: Tensor) -> Tensor:
        assert self._plan is not None
        return self._head.logits(model_step(self._base, tokens, self._plan)).float()

    def keep(self, rows: Tensor) -> None:
        if self._plan is None or not len(rows):
            self._plan, self._resident = None, []
            return
        self._resident = [self._resident[i] for i in self._plan.keep(rows).tolist()]


def matching_decoder(model: LanguageModel) -> ColumnDecoder | None:
    """The column decoder of a model's present weights, None where there is none or where it gives
    other states than the model's own step.
    """
    decoder = column_decoder(model.base)
    return decoder if decoder is not None and _matches(decoder, model) else None


def _matches(decoder: ColumnDecoder, model: LanguageModel) -> bool:
    """Compare the hidden states of two rows that write two tokens each."""
    count = min(3, model.config.vocab_size)
    prompt = TokenSequence(np.arange(count), np.zeros(count, dtype=bool))
    with evaluating(model.hf), torch.no_grad():
        _, computed = model.prefill(Forest.pack([Tree.build([prompt])]))
        kv = [(k[0], v[0]) for _, (k, v) in sorted(computed.kv.items())]
        prompt_of, capacity = torch.zeros(2, dtype=torch.int64), torch.full((2,), 2)
        plans = [DecodePlan([kv], prompt_of, capacity) for _ in range(2)]
        for token in (0, count - 1):
            tokens = torch.tensor([token, count // 2])
            states = decoder.step(tokens, plans[0].positions(), plans[0])
            if not agrees(states, model_step(model.base, tokens, plans[1])):
                return False
            for plan in plans:
                plan.advance()
    return True


@computing()
def model_step(base: Any, tokens: Tensor, plan: DecodePlan) -> Tensor:
    """A decoding step by the model itself: last hidden states [R, C] of one new token per row,
    tokens [R].
    """
    return base(
        input_ids=tokens[:, None],
        position_ids=plan.positions()[:, None],
        attention_mask=without_mask(tokens.device),
        use_cache=False,
        attention_plan=plan,
    ).last_hidden_state[:, 0]


@dataclass(slots=True)
class _Group:
    """Rows of one prompt.

    lines: the line of each row, -1 for rows that were dropped. left: tokens they may still write at
    most. name: the keyword of the model's state. state: the state.
    """

    lines: Tensor
    left: int
    name: str
    state: Any


class CacheStepper:
    """Decoding for models that cannot share prompts: the model's own cache, one batch per prompt,
    no padding.

    A recurrent state cannot be cut in general: finished rows run along until their whole group has
    ended.
    """

    def __init__(self, model: LanguageModel, count: Callable[[int], None]) -> None:
        self.model = model
        self._count = count
        self._groups: list[_Group] = []
        self._rows = 0

    def join(self, prompts: Sequence[Prompt], capacity: Sequence[int]) -> Tensor:
        logits = []
        start = 0
        for stop in range(1, len(prompts) + 1):
            if stop < len(prompts) and prompts[stop] == prompts[start]:
                continue
            batch = torch.tensor(prompts[start:stop], device=self.model.device)
            with computing(accelerated=False):
                out = self.model.pretrained(input_ids=batch, use_cache=True)
            self._count(batch.numel())
            lines = torch.arange(start, stop, device=batch.device) + self._rows
            name = "cache_params" if "cache_params" in out else "past_key_values"
            self._groups.append(_Group(lines, max(capacity[start:stop]) - 1, name, out[name]))
            logits.append(out.logits[:, -1].float())
            start = stop
        self._rows += len(prompts)
        return torch.cat(logits)

    def step(self, tokens: Tensor) -> Tensor:
        logits = torch.zeros(self._rows, self.model.config.vocab_size, device=tokens.device)
        for group in self._groups:
            if not group.left:  # written to the end, and possibly the end of the model's context
                continue
            is_alive = group.lines >= 0
            # A dropped row needs some token to run along with; any will do.
            newest = torch.where(is_alive, tokens[group.lines.clamp_min(0)], 0)
            with computing(accelerated=False):
                out = self.model.pretrained(
                    input_ids=newest[:, None], use_cache=True, **{group.name: group.state}
                )
            group.state, group.left = out[group.name], group.left - 1
            logits[group.lines[is_alive]] = out.logits[is_alive, -1].float()
        return logits

    def keep(self, rows: Tensor) -> None:
        # The last entry, -1, serves rows that were dropped before.
        place = torch.full((self._rows + 1,), -1, device=rows.device)
        place[rows] = torch.arange(len(rows), device=rows.device)
        for group in self._groups:
            group.lines = place[group.lines]
        self._groups = [group for group in self._groups if bool((group.lines >= 0).any())]
        self._rows = len(rows)
