"""What all routes share: the model's worker, places in the queue, prompts, limits, counts."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from posttrain import __version__
from posttrain.data.templates import encode_prompt, render
from posttrain.errors import PosttrainError
from posttrain.serve.metrics import Metrics
from posttrain.serve.refusal import Refusal, stopping, too_many, unsupported
from posttrain.serve.response_format import Forms
from posttrain.serve.schema import SamplingFields
from posttrain.serve.served import Limits, ServedModel
from posttrain.serve.tool_text import CallReader
from posttrain.serve.worker import EngineWorker
from posttrain.types import Constraint, Message, Request, Sampling

T = TypeVar("T")

_MAX_NAMES = 20
"""Models that an error names."""

_SEARCHES = 16
"""Searches that run at a time; each has a thread, which mostly waits for the engine."""


class Service:
    """A served model at work.

    Attributes:
        is_draining: no new requests are taken, because the server stops.
    """

    def __init__(self, model: ServedModel, limits: Limits | None = None) -> None:
        self.model = model
        self.limits = limits or Limits()
        self.metrics = Metrics()
        self.worker = EngineWorker(model.engine)
        self.forms = Forms(model, self.limits)
        self.created = int(time.time())
        self.is_draining = False
        self._places: dict[str, int] = {}
        # One thread tokenises, because tokenizers are not made for several.
        self._texts = ThreadPoolExecutor(1, thread_name_prefix="texts")
        self.searches = ThreadPoolExecutor(_SEARCHES, thread_name_prefix="search")

    def start(self) -> None:
        """Begin to serve."""
        self.worker.start()

    def drain(self) -> None:
        """Take no new requests; running ones go on."""
        self.is_draining = True

    def end_answers(self) -> None:
        """End running requests with 503."""
        self.worker.close(stopping())

    def stop(self) -> None:
        """Abort what runs and end all threads."""
        self.worker.stop()
        self._texts.shutdown(cancel_futures=True)
        self.searches.shutdown(cancel_futures=True)
        self.forms.stop()

    @property
    def fingerprint(self) -> str:
        """Names what writes: the version of the library and of the weights."""
        return f"posttrain-{__version__}-w{getattr(self.model.engine, 'weights_version', 0)}"

    @property
    def num_samples(self) -> int:
        """Completions that are written or wait."""
        return sum(self._places.values())

    @contextlib.contextmanager
    def places(self, key: str, count: int) -> Iterator[None]:
        """Hold places for completions of one request.

        Args:
            key: whose they are; "" for everybody where no keys are asked for.
        Raises:
            Refusal: there are no places left, or the request can never have as many.
        """
        limits, mine = self.limits, self._places.get(key, 0)
        if count > min(limits.max_samples, limits.max_samples_per_key):
            raise Refusal(
                400,
                f"the request asks for {count} completions and at most "
                f"{min(limits.max_samples, limits.max_samples_per_key)} run at a time; ask for "
                "fewer (n, prompt)",
                param="n",
            )
        if self.is_draining:
            raise stopping()
        if self.num_samples + count > limits.max_samples:
            raise too_many(
                f"{self.num_samples} completions run or wait, of at most {limits.max_samples}; "
                "try again later"
            )
        if mine + count > limits.max_samples_per_key:
            raise too_many(
                f"{mine} completions of this key run or wait, of at most "
                f"{limits.max_samples_per_key}; wait for some"
            )
        self._places[key] = mine + count
        try:
            yield
        finally:
            self._places[key] -= count
            if not self._places[key]:
                del self._places[key]

    async def run_text(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function of the tokenizer beside the event loop.

        Raises:
            Refusal: what it raises of the library's errors, as a 400.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._texts, lambda: function(*arguments))
        except PosttrainError as error:
            raise Refusal(400, str(error), code="invalid_prompt") from error

    # -- from fields to requests

    def adapter(self, name: str) -> str:
        """The adapter that a model's name means, "" for the model itself.

        Raises:
            Refusal: there is no such model.
        """
        if name == self.model.name:
            return ""
        if name not in self.model.adapters:
            names = [self.model.name, *self.model.adapters]
            shown = ", ".join(repr(known) for known in names[:_MAX_NAMES])
            raise Refusal(
                404,
                f"there is no model {name[:200]!r}; this server has {shown} "
                "(GET /v1/models lists all)",
                param="model",
                code="model_not_found",
            )
        return name

    def check(self, fields: SamplingFields, num_prompts: int = 1) -> None:
        """Refuse what goes beyond the server's limits or abilities.

        Raises:
            Refusal: names the field.
        """
        limits = self.limits
        if fields.n > limits.max_n:
            raise Refusal(400, f"n is {fields.n}; at most {limits.max_n} is allowed", param="n")
        if num_prompts > limits.max_prompts:
            message = f"prompt holds {num_prompts} prompts; at most {limits.max_prompts} is allowed"
            raise Refusal(400, message, param="prompt")

    async def prompt_of_messages(
        self, messages: Sequence[Message], tools: list[dict[str, Any]], adapter: str = ""
    ) -> tuple[int, ...]:
        """Ids of a conversation as the chat template of the model, or of an adapter, writes it.

        Raises:
            Refusal: there is no template, it refuses the conversation, or does not show tools.
        """
        tokenizer = self.model.tokenizer_of(adapter)

        def encode() -> tuple[int, ...]:
            if tools and render(tokenizer, messages, tools=tools, generation=True) == render(
                tokenizer, messages, generation=True
            ):
                raise unsupported(
                    "tools",
                    f"tools: the chat template of {adapter or self.model.name} does not show tools "
                    "to the model; leave them out or serve a model with a template that does",
                )
            return tuple(encode_prompt(tokenizer, list(messages), tools=tools or None))

        return await self.run_text(encode)

    def call_reader(self, tools: list[dict[str, Any]], adapter: str = "") -> CallReader:
        """Reads the calls of tools that a request offers."""
        model, tokenizer = self.model, self.model.tokenizer_of(adapter)
        return CallReader(tokenizer, tools, model.tool_parser, model.engine.stop_ids)

    async def prompts_of(
        self, prompts: Sequence[str | list[int]], adapter: str = ""
    ) -> list[tuple[int, ...]]:
        """Ids of prompts of the completions route.

        Raises:
            Refusal: an id outside the vocabulary, or an empty prompt.
        """
        tokenizer = self.model.tokenizer_of(adapter)

        def encode(prompt: str | list[int]) -> tuple[int, ...]:
            if isinstance(prompt, str):
                return tuple(encode_prompt(tokenizer, prompt))
            if max(prompt) >= self.model.vocab_size:
                raise Refusal(
                    400,
                    f"prompt: token id {max(prompt)} is not below the vocabulary's size "
                    f"{self.model.vocab_size}",
                    param="prompt",
                )
            return tuple(prompt)

        return await self.run_text(lambda: [encode(prompt) for prompt in prompts])

    def room(self, prompt: Sequence[int], wanted: int | None, param: str = "max_tokens") -> int:
        """How many tokens a completion of a prompt may have.

        Args:
            wanted: by the request, or None for as many as there is room for.
        Raises:
            Refusal: the limit or the model's context is exceeded; says by what numbers.
        """
        context, limit = self.model.context_length, self.limits.max_tokens
        if wanted is not None and wanted > limit:
            raise Refusal(
                400,
                f"{param} is {wanted}; this server writes at most {limit} tokens per completion",
                param=param,
            )
        if context is None:
            return limit if wanted is None else wanted
        least = 1 if wanted is None else wanted
        if len(prompt) + least > context:
            raise Refusal(
                400,
                f"the model's context has {context} tokens, and the prompt has {len(prompt)} and "
                f"the completion may have {least}: {len(prompt) + least} in all; shorten the "
                f"prompt or lower {param}",
                param="prompt" if len(prompt) >= context else param,
                code="context_length_exceeded",
            )
        return min(limit, context - len(prompt)) if wanted is None else wanted

    def request(
        self,
        prompt: tuple[int, ...],
        fields: SamplingFields,
        max_tokens: int,
        seed: int,
        constraint: Constraint | None = None,
        adapter: str = "",
    ) -> Request:
        """A request to the engine."""
        sampling = Sampling(
            max_tokens=max_tokens,
            temperature=fields.temperature,
            top_p=fields.top_p,
            top_k=fields.top_k,
            min_p=fields.min_p,
            stop=tuple(fields.stop),
            stop_ids=tuple(fields.stop_token_ids),
        )
        return Request(
            prompt, sampling, n=fields.n, seed=seed, constraint=constraint, adapter=adapter
        )


def seed_of(fields: SamplingFields) -> int:
    """The seed of a request; a fresh one where it names none."""
    return secrets.randbits(62) if fields.seed is None else fields.seed


def new_id(kind: str) -> str:
    """A fresh id of an answer, such as chatcmpl-..."""
    return f"{kind}-{secrets.token_hex(12)}"
