"""The embedded engine: samples with the very model that is trained, on any device torch runs on."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from posttrain.data.forest import Batch, Forest, TokenSequence, Tree
from posttrain.engines.base import check_requests
from posttrain.engines.decode import DecodePlan, KeyValues, PromptKeys
from posttrain.engines.sampling import RowSettings, choose, row_keys, uniforms
from posttrain.models.attention import without_mask
from posttrain.models.language_model import LanguageModel, evaluating
from posttrain.types import Request, Sample, Sampling


@dataclass(slots=True)
class Statistics:
    """What an engine has done: prompt tokens computed and spared by sharing, tokens decoded, seconds."""

    prompt_tokens: int = 0
    shared_tokens: int = 0
    decoded_tokens: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _Row:
    """One sample in the making."""

    request: int
    index: int
    prompt: int
    sampling: Sampling
    seed: int
    limit: int
    tokens: list[int] = field(default_factory=list)


class TorchEngine:
    """Samples from a LanguageModel.

    Each distinct prompt is computed once, however many samples continue it; finished rows leave the batch; a sample is a
    function of (weights, prompt, sampling, seed, index) and not of what else is in the batch, up to the rounding of
    matrix products of other shapes.

    Args:
        max_rows: samples decoded side by side; more wait their turn. max_prefill_tokens: of one prompt pass.
        cache_tokens: prompt tokens whose keys and values are kept for later calls (0 = none), for searches that come back
            to a prompt while the weights stand still.
    """

    def __init__(
        self, model: LanguageModel, *, max_rows: int = 256, max_prefill_tokens: int = 16384, cache_tokens: int = 0
    ) -> None:
        self.model = model
        self.max_rows = max_rows
        self.max_prefill_tokens = max_prefill_tokens
        self.cache_tokens = cache_tokens
        self.weights_version = model.weights_version
        self.stats = Statistics()
        self._cache: OrderedDict[tuple[int, tuple[int, ...]], tuple[KeyValues, Tensor]] = OrderedDict()
        self._pieces: list[str] | None = None

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end every sample: those of the generation config and the tokenizer."""
        found: set[int] = set()
        config = getattr(self.model.hf, "generation_config", None)
        for ids in (getattr(config, "eos_token_id", None), getattr(self.model.tokenizer, "eos_token_id", None)):
            found |= set(ids) if isinstance(ids, list | tuple) else {ids} if ids is not None else set()
        return frozenset(found)

    def load_weights(self, version: int) -> None:
        """The model object has new weights: what was cached with older ones is forgotten."""
        self.weights_version = version
        self._cache.clear()

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        """Samples for each request, in order.

        Raises:
            DataError, ConfigError: see `check_requests`.
        """
        config = self.model.config
        check_requests(requests, vocab_size=config.vocab_size, context_length=self.model.context_length)
        started = time.perf_counter()
        prompts = list(dict.fromkeys(r.prompt_ids for r in requests))
        number = {ids: i for i, ids in enumerate(prompts)}
        rows = [
            _Row(i, k, number[r.prompt_ids], r.sampling, r.seed, self._limit(r))
            for i, r in enumerate(requests)
            for k in range(r.n)
        ]
        rows.sort(key=lambda row: (row.prompt, row.request, row.index))
        results: list[list[Sample | None]] = [[None] * r.n for r in requests]
        with evaluating(self.model.hf), torch.inference_mode():
            for start in range(0, len(rows), self.max_rows):
                wave = rows[start : start + self.max_rows]
                for row, sample in zip(wave, self._wave(wave, prompts), strict=True):
                    results[row.request][row.index] = sample
        self.stats.seconds += time.perf_counter() - started
        return [[s for s in group if s is not None] for group in results]

    def score(self, sequences: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]:
        """Log-probs of ids[start:] at temperature 1, computed as the trainer computes them."""
        items = []
        for number, (ids, start) in enumerate(sequences):
            mask = np.arange(len(ids)) >= max(start, 1)
            items.append(TokenSequence(np.array(ids), mask, row=str(number)))
        found: dict[int, list[float]] = {}
        # One tree for all: what the sequences share is computed once; `split` keeps the memory in bounds.
        batch = Batch([Tree.build(items)]) if items else Batch([])
        with evaluating(self.model.hf), torch.no_grad():
            for forest in batch.split(self.max_prefill_tokens):
                logprobs = self.model.forward(forest, frozenset({"logprobs"}))["logprobs"].cpu()
                counts = torch.bincount(forest.sequence, minlength=forest.num_sequences).tolist()
                for row, part in zip(forest.rows, logprobs.split(counts), strict=True):
                    found[int(row)] = part.tolist()
        return [found[i] for i in range(len(items))]

    def _limit(self, request: Request) -> int:
        context = self.model.context_length
        room = request.sampling.max_tokens if context is None else context - len(request.prompt_ids)
        return min(request.sampling.max_tokens, room)

    def _wave(self, rows: list[_Row], prompts: list[tuple[int, ...]]) -> list[Sample]:
        """Decode some rows, side by side, to their ends."""
        used = sorted({row.prompt for row in rows})
        place = {p: i for i, p in enumerate(used)}
        device = self.model.device
        prompt_of = torch.tensor([place[row.prompt] for row in rows], device=device)
        stepper = _stepper(self, [prompts[p] for p in used], prompt_of, max(row.limit for row in rows))
        self.stats.shared_tokens += sum(len(prompts[row.prompt]) for row in rows) - sum(len(prompts[p]) for p in used)
        settings = RowSettings.of([row.sampling for row in rows], device)
        keys = row_keys(np.array([r.seed for r in rows], dtype=np.int64), np.array([r.index for r in rows]))
        stops = _Stops(self, rows)
        limits = torch.tensor([row.limit for row in rows], device=device)
        alive = torch.arange(len(rows), device=device)  # the row that each line of the batch decodes
        running = torch.ones(len(rows), dtype=torch.bool, device=device)
        length = torch.zeros(len(rows), dtype=torch.int64, device=device)
        history: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        logits = stepper.logits()
        for step in range(int(limits.max())):
            draws = torch.from_numpy(uniforms(keys[alive.cpu().numpy()], step)).to(device)
            tokens, sampled, raw = choose(logits, settings, draws)
            history.append((alive, tokens, sampled, raw))
            length[alive] += running.long()
            self.stats.decoded_tokens += int(running.sum())
            running = running & ~stops.after(alive, tokens, running) & (length[alive] < limits[alive])
            left = int(running.sum())
            if not left:
                break
            if left <= 0.8 * len(running):  # leave the finished rows behind once that pays for the copy
                lines = torch.nonzero(running)[:, 0]
                stepper.keep(lines)
                settings, alive, tokens = settings.select(lines), alive[lines], tokens[lines]
                running = running[lines]
            logits = stepper.step(tokens)
        return self._collect(rows, history, length, stops)

    def _collect(
        self, rows: list[_Row], history: list[tuple[Tensor, Tensor, Tensor, Tensor]], length: Tensor, stops: _Stops
    ) -> list[Sample]:
        """Samples from what each step wrote; lists are built once, at the end."""
        shape = (len(rows), len(history))
        ids = torch.zeros(shape, dtype=torch.int64)
        sampled, raw = torch.zeros(shape), torch.zeros(shape)
        for step, (alive, tokens, a, b) in enumerate(history):
            lines = alive.cpu()
            ids[lines, step], sampled[lines, step], raw[lines, step] = tokens.cpu(), a.float().cpu(), b.float().cpu()
        samples = []
        for r, count in enumerate(length.tolist()):
            samples.append(
                Sample(
                    ids[r, :count].tolist(),
                    sampled[r, :count].tolist(),
                    raw[r, :count].tolist(),
                    "stop" if r in stops.stopped else "length",
                    stops.stopped.get(r),
                    self.weights_version,
                )
            )
        return samples

    def ids_that_may_complete(self, strings: tuple[str, ...]) -> list[int]:
        """Ids of tokens whose text holds the last character of one of the strings, or a part of a character."""
        if self._pieces is None:
            size = self.model.config.vocab_size
            self._pieces = self.model.tokenizer.batch_decode([[i] for i in range(size)], skip_special_tokens=False)
        ends = {s[-1] for s in strings}
        return [i for i, piece in enumerate(self._pieces) if "\ufffd" in piece or not ends.isdisjoint(piece)]

    def prefill(self, prompts: list[tuple[int, ...]]) -> list[tuple[KeyValues, Tensor]]:
        """Per prompt, each layer's keys and values and the last hidden state [D]. Shared beginnings are computed once."""
        version = self.weights_version
        known = {p: self._cache[version, p] for p in prompts if (version, p) in self._cache}
        for p in known:
            self._cache.move_to_end((version, p))
        missing = [p for p in prompts if p not in known]
        for part in _portions(missing, self.max_prefill_tokens):
            sequences = [TokenSequence(np.array(p), np.zeros(len(p), dtype=bool)) for p in part]
            tree = Tree.build(sequences)
            hidden, plan = self.model.prefill(Forest.pack([tree]))
            self.stats.prompt_tokens += tree.num_tokens
            self.stats.shared_tokens += sum(len(p) for p in part) - tree.num_tokens
            for p, last in zip(part, tree.last.tolist(), strict=True):
                path = torch.from_numpy(np.flatnonzero(tree.ends[: last + 1] > last)).to(hidden.device)
                kv = [(k[0].index_select(1, path), v[0].index_select(1, path)) for _, (k, v) in sorted(plan.kv.items())]
                known[p] = (kv, hidden[last])
        self._remember({p: known[p] for p in missing})
        return [known[p] for p in prompts]

    def _remember(self, fresh: dict[tuple[int, ...], tuple[KeyValues, Tensor]]) -> None:
        if not self.cache_tokens:
            return
        for p, value in fresh.items():
            self._cache[self.weights_version, p] = value
        while self._cache and sum(len(p) for _, p in self._cache) > self.cache_tokens:
            self._cache.popitem(last=False)


def _portions(prompts: list[tuple[int, ...]], budget: int) -> list[list[tuple[int, ...]]]:
    parts: list[list[tuple[int, ...]]] = []
    size = 0
    for p in prompts:
        if not parts or size + len(p) > budget:
            parts.append([])
            size = 0
        parts[-1].append(p)
        size += len(p)
    return parts


class _ForestStepper:
    """Decoding with shared prompts."""

    def __init__(self, engine: TorchEngine, prompts: list[tuple[int, ...]], prompt_of: Tensor, capacity: int) -> None:
        self.model = engine.model
        computed = engine.prefill(prompts)
        self._last = torch.stack([hidden for _, hidden in computed])[prompt_of]
        self.plan = DecodePlan(PromptKeys([kv for kv, _ in computed]), prompt_of, capacity)

    def logits(self) -> Tensor:
        return self.model.head.logits(self._last).float()

    def step(self, tokens: Tensor) -> Tensor:
        hidden = self.model.base(
            input_ids=tokens[:, None],
            position_ids=self.plan.positions()[:, None],
            attention_mask=without_mask(tokens.device),
            use_cache=False,
            attention_plan=self.plan,
        ).last_hidden_state[:, 0]
        self.plan.written += 1
        return self.model.head.logits(hidden).float()

    def keep(self, rows: Tensor) -> None:
        self.plan.keep(rows)


class _CacheStepper:
    """Decoding for models that cannot share prompts: the model's own cache, one batch per prompt, no padding."""

    def __init__(self, engine: TorchEngine, prompts: list[tuple[int, ...]], prompt_of: Tensor, capacity: int) -> None:
        self.model = engine.model
        self._groups: list[tuple[Tensor, str, object]] = []
        logits: list[Tensor] = []
        for p, ids in enumerate(prompts):
            lines = torch.nonzero(prompt_of == p)[:, 0]
            batch = torch.tensor([ids], device=prompt_of.device).expand(len(lines), -1).contiguous()
            out = self.model.causal_lm(input_ids=batch, use_cache=True)
            engine.stats.prompt_tokens += batch.numel()
            name = "cache_params" if "cache_params" in out else "past_key_values"
            self._groups.append((lines, name, out[name]))
            logits.append(out.logits[:, -1].float())
        self._first = torch.cat(logits)[torch.cat([g[0] for g in self._groups]).argsort()]
        # Lines of the batch that are still decoded; a state cannot be cut in general, so finished lines run along.
        self._lines = torch.arange(len(prompt_of), device=prompt_of.device)
        self._total = len(prompt_of)

    def logits(self) -> Tensor:
        return self._first

    def step(self, tokens: Tensor) -> Tensor:
        whole = tokens.new_zeros(self._total)
        whole[self._lines] = tokens
        out_logits = None
        for i, (lines, name, state) in enumerate(self._groups):
            out = self.model.causal_lm(
                input_ids=whole[lines][:, None],
                use_cache=True,
                **{name: state},
            )
            self._groups[i] = (lines, name, out[name])
            if out_logits is None:
                out_logits = out.logits.new_zeros(self._total, out.logits.shape[-1], dtype=torch.float32)
            out_logits[lines] = out.logits[:, -1].float()
        assert out_logits is not None
        return out_logits[self._lines]

    def keep(self, rows: Tensor) -> None:
        self._lines = self._lines[rows]


def _stepper(
    engine: TorchEngine, prompts: list[tuple[int, ...]], prompt_of: Tensor, capacity: int
) -> _ForestStepper | _CacheStepper:
    kind = _ForestStepper if engine.model.shares_trunks else _CacheStepper
    return kind(engine, prompts, prompt_of, capacity)


class _Stops:
    """Which rows have ended, by a stop id or a stop string. stopped: row -> the stop string, or None for an id."""

    def __init__(self, engine: TorchEngine, rows: list[_Row]) -> None:
        self.engine = engine
        self.rows = rows
        self.stopped: dict[int, str | None] = {}
        vocab = engine.model.config.vocab_size
        device = engine.model.device
        # Rows with the same settings share a table [V] of the ids that end them.
        kinds = list(dict.fromkeys((row.sampling.stop_ids, row.sampling.stop) for row in rows))
        self._kind = torch.tensor([kinds.index((r.sampling.stop_ids, r.sampling.stop)) for r in rows], device=device)
        self._ends = torch.zeros(len(kinds), vocab, dtype=torch.bool, device=device)
        self._may_complete = torch.zeros(len(kinds), vocab, dtype=torch.bool, device=device)
        for k, (ids, strings) in enumerate(kinds):
            wanted = [i for i in {*ids, *engine.stop_ids} if 0 <= i < vocab]
            self._ends[k, wanted] = True
            if strings:
                self._may_complete[k, engine.ids_that_may_complete(strings)] = True
        self._has_strings = any(strings for _, strings in kinds)
        self._written: list[list[int]] = [[] for _ in rows] if self._has_strings else []

    def after(self, alive: Tensor, tokens: Tensor, running: Tensor) -> Tensor:
        """Whether each line [R] has ended with this token."""
        kind = self._kind[alive]
        ended = self._ends[kind, tokens] & running
        for row in alive[ended].tolist():
            self.stopped[row] = None
        if self._has_strings:
            ended = ended | self._strings(alive, tokens, running & ~ended, kind)
        return ended

    def _strings(self, alive: Tensor, tokens: Tensor, running: Tensor, kind: Tensor) -> Tensor:
        for row, token in zip(alive[running].tolist(), tokens[running].tolist(), strict=True):
            self._written[row].append(token)
        ended = torch.zeros_like(running)
        # Text is looked at only where this token could have been the last of a stop string.
        for line in torch.nonzero(running & self._may_complete[kind, tokens])[:, 0].tolist():
            row = int(alive[line])
            strings = self.rows[row].sampling.stop
            # Every token of a stop string has at least one of its bytes; a few more make up for split characters.
            tail = self._written[row][-(max(len(s.encode()) for s in strings) + 4) :]
            text = self.engine.model.tokenizer.decode(tail, skip_special_tokens=False)
            for string in strings:
                if string in text:
                    self.stopped[row] = string
                    ended[line] = True
                    break
        return ended
