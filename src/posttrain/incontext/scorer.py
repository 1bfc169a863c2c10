"""Probabilities of labels: by a loaded model's log-likelihoods, or by a server's text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from posttrain.data.templates import decode_completion
from posttrain.engines.endpoint import Endpoint
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError
from posttrain.incontext.label_scores import Normalization, label_logprobs, normalized
from posttrain.incontext.rows import Labelled
from posttrain.incontext.templates import PromptEncoder, Template
from posttrain.methods.endpoint import EndpointModel
from posttrain.models.language_model import LanguageModel
from posttrain.models.spec import ModelSpec
from posttrain.types import Request, Sampling, Text

Numbers = NDArray[np.float64]
_WRITTEN_TOKENS = 32  # of a text that the model writes
Question = tuple[Sequence[Labelled], str]
"""Demonstrations in their order, and the text that is asked about."""


class Scorer(Protocol):
    """What gives the labels of questions their probabilities."""

    def logprobs(self, questions: Sequence[Question]) -> Numbers:
        """log p of each label, nats, [Q, C]; each row sums to 1 as probabilities. A row of NaN is
        a question to which none of the labels was written.
        """
        ...


@dataclass
class ModelScorer:
    """A loaded model.

    Attributes:
        spec: its weights are loaded at the first question. encoder: of prompts and labels.
        normalization: see `label_scores.normalized`. remove_prior: divide by the probability of
            the label without question and demonstrations. max_tokens: of a forward pass.
    """

    spec: ModelSpec
    encoder: PromptEncoder
    normalization: Normalization = "sum"
    remove_prior: bool = False
    max_tokens: int = 16384

    @cached_property
    def model(self) -> LanguageModel:
        """The model with its weights."""
        return self.spec.load()

    @cached_property
    def _prior(self) -> Numbers | None:
        if not self.remove_prior:
            return None
        prompt = self.encoder.prompt_ids([], "")
        return label_logprobs(self.model, [prompt], self.encoder.label_ids)[0]

    def logprobs(self, questions: Sequence[Question]) -> Numbers:
        """See `Scorer`."""
        prompts = [self.encoder.prompt_ids(shots, text) for shots, text in questions]
        labels = self.encoder.label_ids
        return normalized(
            label_logprobs(self.model, prompts, labels, max_tokens=self.max_tokens),
            normalization=self.normalization,
            num_tokens=[len(ids) for ids in labels],
            num_bytes=self.encoder.num_bytes,
            prior=self._prior,
        )

    def written(self, shots: Sequence[Sequence[Labelled]], n: int, seed: int) -> list[str]:
        """Texts that the model writes where a question's text would stand, n below each list of
        demonstrations; those without a character are left out.
        """
        requests = []
        for number, given in enumerate(shots):
            ids, behind = self.encoder.opening(given)
            sampling = Sampling(max_tokens=_WRITTEN_TOKENS, stop=("\n",), stop_ids=behind[:1])
            requests.append(Request(ids, sampling, n=n, seed=seed + number))
        samples = TorchEngine(self.model).generate(requests)
        tokenizer = self.encoder.tokenizer
        texts = [decode_completion(tokenizer, s).strip() for row in samples for s in row]
        return [text for text in texts if text]

    def check_lengths(self, questions: Sequence[Question]) -> None:
        """Refuse prompts that do not fit the model's context, before its weights are loaded.

        Raises:
            ConfigError: one is too long; says by how much.
        """
        context = self.spec.context_length()
        if context is None or not questions:
            return
        label = max(map(len, self.encoder.label_ids))
        lengths = [len(self.encoder.prompt_ids(*question)) + label for question in questions]
        if max(lengths) > context:
            shots = len(questions[int(np.argmax(lengths))][0])
            raise ConfigError(
                f"num_shots: {sum(n > context for n in lengths)} of {len(lengths)} prompts exceed "
                f"the model's context of {context} tokens (the longest has {max(lengths)}, with "
                f"{shots} demonstrations); lower num_shots, or leave long rows out of the pool"
            )


class EndpointScorer:
    """A served model, which writes its answer greedily; the label that the answer begins with has
    probability 1.

    Args:
        model: the server. template: of the prompts; a server with the chat route gets messages.
        labels: in the order of the columns.
    """

    def __init__(self, model: EndpointModel, template: Template, labels: Sequence[str]) -> None:
        self.template, self.labels = template, list(labels)
        self._chat = model.config.route == "chat" if template.chat is None else template.chat
        self._endpoint = Endpoint(model.config)

    def logprobs(self, questions: Sequence[Question]) -> Numbers:
        """See `Scorer`."""
        prompts: list[Text] = [
            self.template.messages(shots, text) if self._chat else self.template.text(shots, text)
            for shots, text in questions
        ]
        longest = max(len(self.template.word(label).encode()) for label in self.labels)
        stop = () if self._chat or "\n" not in self.template.separator else ("\n",)
        sampling = Sampling(max_tokens=longest + 8, temperature=0.0, stop=stop)
        written = self._endpoint.complete(prompts, sampling, n=1, seeds=[0] * len(prompts))
        words = [self.template.word(label) for label in self.labels]
        found = np.full((len(prompts), len(words)), -np.inf)
        for row, completions in zip(found, written, strict=True):
            place = label_place(completions[0].text, words) if completions else None
            if place is None:
                row[:] = np.nan
            else:
                row[place] = 0.0
        return found


def label_place(text: str, words: Sequence[str]) -> int | None:
    """The label that a text begins with, the longest where several do; None where none does.

    >>> label_place(" Positive.", ["positive", "negative"]), label_place("it is", ["positive"])
    (0, None)
    """
    start = text.lstrip(" \n\t\"'*`:").casefold()
    found = [place for place, word in enumerate(words) if start.startswith(word.casefold())]
    return max(found, key=lambda place: len(words[place]), default=None)
