"""What a language model says of rows: entropies, samples, vectors and gradients, for selectors."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch

from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.data.templates import decode_completion, encode_prompt
from posttrain.engines.torch import TorchEngine
from posttrain.labellers.base import Row
from posttrain.losses.classes import class_means
from posttrain.models.forest_model import evaluating
from posttrain.models.language_model import LanguageModel
from posttrain.models.program import decoder_layers
from posttrain.models.scoring import scored
from posttrain.types import Request, Sample, Sampling

MAX_TOKENS = 8192
"""Distinct tokens of a forward pass that measures."""

NUM_GRADIENT_NUMBERS = 1024


class Streams:
    """Inputs of selectors (`posttrain.inputs.SELECTOR_INPUTS`) of one model as it is.

    Completions are sampled once for all inputs that read them.

    Args:
        model: what is asked. sampling: how completions end, and at most how long they are.
        num_samples: completions per prompt. seed: of the samples.
    """

    CARRIES: ClassVar[frozenset[str]] = frozenset(
        {
            "token_entropies",
            "completion_logprobs",
            "prompt_entropies",
            "perplexities",
            "answers",
            "embeddings",
            "labelled_embeddings",
            "gradients",
            "target_gradients",
        }
    )

    def __init__(
        self, model: LanguageModel, sampling: Sampling, num_samples: int, seed: int
    ) -> None:
        self.model, self.sampling = model, sampling
        self.num_samples, self.seed = num_samples, seed
        self._cached: dict[tuple[str, ...], list[list[Sample]]] = {}

    def _ids(self, row: Row) -> list[int]:
        return encode_prompt(self.model.tokenizer, row["prompt"])

    def _written(self, rows: Sequence[Row], num: int, temperature: float) -> list[list[Sample]]:
        """Samples of each prompt; the seed of a row is a function of its id."""
        key = (str(num), str(temperature), *(str(row.get("id", row["prompt"])) for row in rows))
        if key not in self._cached:
            sampling = Sampling(
                self.sampling.max_tokens,
                temperature,
                stop=self.sampling.stop,
                stop_ids=self.sampling.stop_ids,
            )
            requests = [
                Request(
                    tuple(self._ids(row)), sampling, n=num, seed=self._row_seed(name), reuse=False
                )
                for row, name in zip(rows, key[2:], strict=True)
            ]
            self._cached[key] = TorchEngine(self.model).generate(requests)
        return self._cached[key]

    def _row_seed(self, name: str) -> int:
        return int(np.random.default_rng((self.seed, zlib.crc32(name.encode()))).integers(2**62))

    def samples(self, rows: Sequence[Row]) -> list[list[str]]:
        """Texts of num_samples completions of each prompt, at temperature 1."""
        written = self._written(rows, self.num_samples, 1.0)
        return [[decode_completion(self.model.tokenizer, s) for s in row] for row in written]

    def token_entropies(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """Entropy of each token of the greedy completion, nats: [P] of [T]."""
        sequences = []
        for row, (sample,) in zip(rows, self._written(rows, 1, 0.0), strict=True):
            sequences.append(_sequence(self._ids(row), sample.ids))
        return self._numbers(sequences, "entropy")

    def completion_logprobs(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """Log-prob of each token of the greedy completion, nats: [P] of [T]."""
        return [np.array(sample.raw_logprobs) for (sample,) in self._written(rows, 1, 0.0)]

    def prompt_entropies(self, rows: Sequence[Row]) -> np.ndarray:
        """Mean of -log p per token over sampled completions, an estimate of the entropy rate of
        the policy: [P].
        """
        written = self._written(rows, self.num_samples, 1.0)
        return np.array([-np.mean([np.mean(s.raw_logprobs) for s in row]) for row in written])

    def perplexities(self, rows: Sequence[Row]) -> np.ndarray:
        """exp of the mean -log p of a prompt's tokens, the first one left out: [P]."""
        sequences = [_sequence(self._ids(row)[:1], self._ids(row)[1:]) for row in rows]
        logprobs = self._numbers(sequences, "logprobs")
        return np.array([np.exp(-np.mean(x)) if len(x) else np.nan for x in logprobs])

    def embeddings(self, rows: Sequence[Row]) -> np.ndarray:
        """The mean last hidden state of a prompt's tokens: [P, D]."""
        pooled = np.zeros((len(rows), self.model.config.hidden_size))
        trees = []
        for place, row in enumerate(rows):
            ids = self._ids(row)
            ids = ids * 2 if len(ids) == 1 else ids
            trees.append(Tree.build([_sequence(ids[:1], ids[1:], str(place))]))
        with evaluating(self.model.hf), torch.no_grad():
            for forest in Batch(trees).split(MAX_TOKENS):
                micro = forest.to(self.model.device)
                hidden = self.model.rows_at(micro, sources=False).float()
                means = class_means(hidden, micro.sequence, micro.num_sequences)
                pooled[[int(row) for row in forest.rows]] = means.cpu().numpy()
        return pooled

    def gradients(self, rows: Sequence[Row]) -> np.ndarray:
        """Gradient of the mean loss of a completion by the last decoder layer, count-sketched to
        1024 numbers (Charikar et al. 2002): [P, F]. A row without a completion is taken with the
        model's own, greedily.
        """
        lacking = [row for row in rows if not row.get("completion")]
        own = dict(zip(map(id, lacking), self._written(lacking, 1, 0.0) if lacking else ()))
        table = []
        for row in rows:
            if id(row) in own:
                completion = own[id(row)][0].ids
            else:
                completion = self.model.tokenizer(row["completion"], add_special_tokens=False)[
                    "input_ids"
                ]
            table.append(self._gradient(_sequence(self._ids(row), completion)))
        return np.stack(table)

    def _gradient(self, sequence: TokenSequence) -> np.ndarray:
        (forest,) = Batch([Tree.build([sequence])]).split(None)
        layer = decoder_layers(self.model.hf)[-1]
        parameters = [p for p in layer.parameters() if p.requires_grad]
        self.model.hf.zero_grad(set_to_none=True)
        with evaluating(self.model.hf), torch.enable_grad():
            logprobs = self.model.forward(forest.to(self.model.device), frozenset({"logprobs"}))
            self.model.backward(-logprobs["logprobs"].mean(), forest)
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).float()
        self.model.hf.zero_grad(set_to_none=True)
        return _sketched(flat.cpu().numpy())

    def _numbers(self, sequences: Sequence[TokenSequence], name: str) -> list[np.ndarray]:
        """A number for each target of each sequence, in order; none of one without a target."""
        asked = [s for s in sequences if s.loss_mask.any()]
        found = {
            id(s): numbers[name]
            for s, numbers in scored(
                self.model, [[s] for s in asked], {name}, max_tokens=MAX_TOKENS
            )
        }
        return [found.get(id(s), np.zeros(0)) for s in sequences]


def _sequence(before: Sequence[int], after: Sequence[int], row: str = "") -> TokenSequence:
    ids = np.array([*before, *after], dtype=np.int64)
    return TokenSequence(ids, np.arange(len(ids)) >= len(before), row=row)


def _sketched(values: np.ndarray) -> np.ndarray:
    """sum_i s_i v_i e_{h(i)} with random signs s and places h: inner products stay, on average."""
    draw = np.random.default_rng(7)
    places = draw.integers(NUM_GRADIENT_NUMBERS, size=len(values))
    signs = draw.choice((-1.0, 1.0), size=len(values))
    return np.bincount(places, weights=signs * values, minlength=NUM_GRADIENT_NUMBERS)
