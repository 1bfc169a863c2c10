"""A language model that is asked in plain text: loaded here, or behind a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain.config import EndpointConfig
from posttrain.data.templates import decode_completion, encode_prompt
from posttrain.engines.endpoint import Endpoint
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError
from posttrain.methods.objects import ModelLike, model_of
from posttrain.types import Request, Sampling, Text

_CHARACTERS_PER_TOKEN = 4


class Adviser:
    """Answers questions, and counts the tokens that it reads and writes.

    Args:
        model: a model to load, at the first question. endpoint: a server; one of the two is given.
        chat: whether it is asked in chat turns; a server always is.

    Attributes:
        tokens: of all questions and answers so far. Those of a server are counted as a quarter of
            the characters.
    """

    def __init__(
        self, model: ModelLike | None, endpoint: EndpointConfig | None = None, *, chat: bool = False
    ) -> None:
        if (model is None) == (endpoint is None):
            raise ConfigError(
                "an adviser needs exactly one of model (a folder, a hub id or a loaded model) and "
                "endpoint (a server)"
            )
        self._spec = model_of(model)
        self._server = None if endpoint is None else Endpoint(endpoint)
        self._engine: TorchEngine | None = None
        self.chat = chat or endpoint is not None
        self.tokens = 0

    def answers(
        self,
        questions: Sequence[Text],
        *,
        num: int = 1,
        max_tokens: int = 32,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> list[list[str]]:
        """Texts of `num` answers to each question; [] where a server refused one."""
        if not questions:
            return []
        sampling = Sampling(max_tokens, temperature, stop=tuple(stop))
        seeds = [
            int(s) for s in np.random.default_rng((seed, 5)).integers(2**62, size=len(questions))
        ]
        asked = [self._turn(question) for question in questions]
        if self._server is not None:
            written = self._server.complete(asked, sampling, n=num, seeds=seeds)
            texts = [[answer.text for answer in row] for row in written]
            read = sum(len(str(q)) for q in asked) + sum(len(t) for row in texts for t in row)
            self.tokens += read // _CHARACTERS_PER_TOKEN
            return texts
        engine = self._loaded()
        ids = [tuple(encode_prompt(engine.model.tokenizer, question)) for question in asked]
        samples = engine.generate(
            [Request(i, sampling, n=num, seed=s) for i, s in zip(ids, seeds, strict=True)]
        )
        self.tokens += sum(map(len, ids)) + sum(len(s.ids) for row in samples for s in row)
        return [[decode_completion(engine.model.tokenizer, s) for s in row] for row in samples]

    def yes_probability(self, questions: Sequence[str]) -> list[float]:
        """P(yes) / (P(yes) + P(no)) of each question's first words. Of a server, which gives no
        probabilities of answers that it does not sample, it is 1 or 0 by its one answer.
        """
        if self._server is not None:
            return [
                float("yes" in " ".join(row).casefold())
                for row in self.answers(questions, max_tokens=4)
            ]
        engine = self._loaded()
        sequences: list[tuple[list[int], int]] = []
        for question in questions:
            before = encode_prompt(engine.model.tokenizer, self._turn(question))
            for reply in (" yes", " no"):
                after = engine.model.tokenizer(reply, add_special_tokens=False)["input_ids"]
                sequences.append(([*before, *after], len(before)))
        self.tokens += sum(len(ids) for ids, _ in sequences)
        sums = np.array([sum(row) for row in engine.score(sequences)]).reshape(-1, 2)
        return [float(p) for p in 1 / (1 + np.exp(np.clip(sums[:, 1] - sums[:, 0], -700, 700)))]

    def _turn(self, question: Text) -> Any:
        if self.chat and isinstance(question, str):
            return [{"role": "user", "content": question}]
        return question

    def _loaded(self) -> TorchEngine:
        if self._engine is None:
            assert self._spec is not None
            self._engine = TorchEngine(self._spec.load_frozen())
        return self._engine
