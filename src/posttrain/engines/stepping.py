"""One more token for every row of a batch: with shared prompts, or by the model's own cache."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.engines.decode import DecodePlan
from posttrain.engines.prefill import Prefill, Prefilled, Prompt
from posttrain.engines.steady_plan import SteadyPlan
from posttrain.engines.trunks import find_trunks
from posttrain.kernels import computing
from posttrain.kernels.agreement import agrees
from posttrain.kernels.columns import ColumnDecoder, column_decoder
from posttrain.kernels.graphs import StepGraphs
from posttrain.models.attention import without_mask
from posttrain.models.forest_model import evaluating
from posttrain.models.language_model import LanguageModel
from posttrain.models.prefixed_attention import KeyValues


class Joined(NamedTuple):
    """Rows that have joined.

    logits: float32 [new, V] of their first tokens. num_computed: prompt tokens that were computed
    for each row; the others had been computed before, or were for another row.
    """

    logits: Tensor
    num_computed: list[int]


class Stepper(Protocol):
    """Rows that decode side by side. Lines of all tensors are rows in the order in which they
    joined.
    """

    def join(self, prompts: Sequence[Prompt], capacity: Sequence[int]) -> Joined:
        """Take in a row per prompt, which writes at most `capacity` tokens each."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Compute the rows' newest tokens [R]; logits float32 [R, V] of the next ones."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, indices ascending."""
        ...

    def store(self, texts: Mapping[int, Prompt]) -> None:
        """Hold what rows have computed for later prompts: by line, prompt and what was written."""
        ...

    def renew(self) -> None:
        """The model has new weights: compute with them from here on, below the keys and values
        that there are. Prompts that join are computed anew.
        """
        ...


class ForestStepper:
    """Decoding with shared prompts, each step by `columns` where there is one, else by the model
    itself, which `graphs` may repeat from a recording.

    What `prefill` computes and rows write is held in its tree. Prompts that part late share a trunk
    (`engines.trunks`); the rest of each lies in its rows' own buffers.
    """

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
        self._last: dict[Prompt, Prefilled] = {}

    def join(self, prompts: Sequence[Prompt], capacity: Sequence[int]) -> Joined:
        distinct = list(dict.fromkeys(prompts))
        missing = [p for p in distinct if p not in self._last]
        computed = self._last | dict(zip(missing, self._prefill(missing), strict=True))
        self._last = {prompts[-1]: computed[prompts[-1]]}
        trunks = find_trunks(Counter(prompts), self._resident)
        number = {p: i for i, p in enumerate(self._resident)}
        fresh = []
        for prompt in distinct:
            trunk = trunks[prompt]
            if trunk not in number:
                number[trunk] = len(number)
                virtual = self._prefill.num_virtual
                fresh.append(computed[prompt].kv(0, virtual + len(trunk)))
        self._resident = list(number)
        own = {p: self._rest(computed[p], trunks[p]) for p in distinct if trunks[p] != p}
        self._take(fresh, prompts, capacity, [number[trunks[p]] for p in prompts], own)
        hidden = torch.stack([computed[p].hidden for p in distinct])
        place = {p: i for i, p in enumerate(distinct)}
        rows = torch.tensor([place[p] for p in prompts], device=hidden.device)
        # The first row of a prompt bears its cost.
        cost = {p: computed[p].num_computed for p in missing}
        num_computed = [cost.pop(p, 0) for p in prompts]
        return Joined(self._head.logits(hidden).float()[rows], num_computed)

    def _rest(self, computed: Prefilled, trunk: Prompt) -> KeyValues:
        return computed.kv(self._prefill.num_virtual + len(trunk))

    def _take(
        self,
        fresh: list[KeyValues],
        prompts: Sequence[Prompt],
        capacity: Sequence[int],
        trunk_of: Sequence[int],
        own: Mapping[Prompt, KeyValues],
    ) -> None:
        """Let rows join the plan. fresh: trunks that are new. own: what lies behind the trunk."""
        behind = [own.get(p) for p in prompts]
        limits = [
            limit + (0 if kv is None else kv[0][0].shape[1])
            for limit, kv in zip(capacity, behind, strict=True)
        ]
        device = self.model.device
        of_rows = (torch.tensor(trunk_of, device=device), torch.tensor(limits, device=device))
        if self._plan is None:
            records = self._graphs is not None and self._graphs.why_not is None
            self._plan = (SteadyPlan if records else DecodePlan)(fresh, *of_rows, behind)
        else:
            self._plan.join(fresh, *of_rows, behind)

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

    def renew(self, columns: ColumnDecoder | None = None) -> None:
        """See `Stepper`. columns: of the new weights."""
        self._base, self._head = self.model.base, self.model.head.widened()
        self._columns = columns
        self._last = {}
        # Trunks of older weights: their rows go on below them, and no prompt begins with an id
        # below 0, so that no other row does.
        self._resident = [(-1 - place,) for place in range(len(self._resident))]

    def _own_step(self, tokens: Tensor) -> Tensor:
        assert self._plan is not None
        return self._head.logits(model_step(self._base, tokens, self._plan)).float()

    def keep(self, rows: Tensor) -> None:
        if self._plan is None or not len(rows):
            self._plan, self._resident = None, []
            return
        self._resident = [self._resident[i] for i in self._plan.keep(rows).tolist()]

    def store(self, texts: Mapping[int, Prompt]) -> None:
        tree, virtual = self._prefill.tree, self._prefill.num_virtual
        if self._plan is None or not tree.max_bytes:
            return
        # The newest token of a row has no keys and values yet.
        positions = self._plan.positions().tolist()
        for line, ids in texts.items():
            computed = functools.partial(self._plan.row_kv, line, skip=virtual)
            tree.insert(ids[: positions[line] - virtual], computed)
        tree.trim()


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

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self._groups: list[_Group] = []
        self._rows = 0

    def join(self, prompts: Sequence[Prompt], capacity: Sequence[int]) -> Joined:
        logits = []
        start = 0
        for stop in range(1, len(prompts) + 1):
            if stop < len(prompts) and prompts[stop] == prompts[start]:
                continue
            batch = torch.tensor(prompts[start:stop], device=self.model.device)
            with computing(accelerated=False):
                out = self.model.pretrained(input_ids=batch, use_cache=True)
            lines = torch.arange(start, stop, device=batch.device) + self._rows
            name = "cache_params" if "cache_params" in out else "past_key_values"
            self._groups.append(_Group(lines, max(capacity[start:stop]) - 1, name, out[name]))
            logits.append(out.logits[:, -1].float())
            start = stop
        self._rows += len(prompts)
        return Joined(torch.cat(logits), list(map(len, prompts)))

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

    def store(self, texts: Mapping[int, Prompt]) -> None:
        """Nothing: a recurrent state is no beginning of another text."""

    def renew(self) -> None:
        """Nothing: the model itself has the new weights."""
