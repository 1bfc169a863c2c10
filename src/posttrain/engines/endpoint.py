"""Completions from an OpenAI-compatible server: text in, text out.

No weights, no token ids and no log-probs: what is written here can be fine-tuned on, not trained by policy gradients.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from posttrain.config import EndpointConfig
from posttrain.errors import ConfigError, EndpointError, MissingDependency
from posttrain.types import FinishReason, Sampling, Text

_ENDED = frozenset({"stop", "eos", "eos_token", "stop_sequence", "end_turn"})  # how servers call it


@dataclass(frozen=True, slots=True)
class Written:
    """A completion. finish_reason "length" stands for all that was not ended by the model: cut off, filtered, a tool call."""

    text: str
    finish_reason: FinishReason


class Endpoint:
    """A model behind a server: messages by its chat route, plain text by its completions route.

    Requests that fail for a while (no connection, timeouts, status 408, 409, 429, 5xx) are tried again with growing pauses.

    Raises:
        MissingDependency: the library `openai` is not installed. ConfigError: the settings cannot be.
    """

    def __init__(self, config: EndpointConfig) -> None:
        if not config.url.startswith(("http://", "https://")):
            raise ConfigError(f"endpoint.url: {config.url!r} must begin with http:// or https:// and mostly ends in /v1")
        for name, value, least in (("concurrency", config.concurrency, 1), ("max_retries", config.max_retries, 0)):
            if value < least:
                raise ConfigError(f"endpoint.{name}: {value} must be at least {least}")
        if not config.timeout > 0:
            raise ConfigError(f"endpoint.timeout: {config.timeout:g} seconds must be above 0")
        try:
            import openai
        except ImportError as error:
            raise MissingDependency("openai", "endpoint") from error
        self.config = config
        self._failure = openai.OpenAIError
        # Servers of one's own mostly want no key, but the library wants one to send.
        key = os.environ.get(config.key_variable) or "none"
        self._client = openai.OpenAI(base_url=config.url, api_key=key, timeout=config.timeout, max_retries=config.max_retries)

    def complete(self, prompts: Sequence[Text], sampling: Sampling, *, n: int, seeds: Sequence[int]) -> list[list[Written]]:
        """`n` completions of each prompt, in order.

        Args:
            seeds: one a prompt, sent along; many servers do not heed it.
        Raises:
            EndpointError: a request failed to the end, or was answered with fewer completions than were asked for.
        """
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            asked = [pool.submit(self._ask, prompt, sampling, n, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
            try:
                return [each.result() for each in asked]
            except BaseException:  # what has not begun is not asked for any more, an interruption included
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _ask(self, prompt: Text, sampling: Sampling, n: int, seed: int) -> list[Written]:
        body = _body(sampling, self.config.extra)
        if isinstance(prompt, str) and self.config.route == "chat":
            prompt = [{"role": "user", "content": prompt}]
        given: dict[str, Any] = {"model": self.config.model, "n": n, "seed": seed % 2**31, "extra_body": body}
        try:
            if isinstance(prompt, str):
                choices = self._client.completions.create(prompt=prompt, **given).choices
                found = [(c.text, c.finish_reason) for c in choices]
            else:
                given["messages"] = prompt
                answered = self._client.chat.completions.create(**given).choices
                found = [(self._text(c.message), c.finish_reason) for c in answered]
        except self._failure as error:
            raise EndpointError(
                f"{self.config.model} at {self.config.url} did not answer: {type(error).__name__}: {error}. "
                f"Look at endpoint.url, endpoint.model and the key in {self.config.key_variable}"
            ) from error
        if len(found) != n:
            raise EndpointError(
                f"{self.config.model} at {self.config.url} gave {len(found)} completions of {n}: the server does not serve n; "
                "set num_generations: 1 and ask for more prompts instead"
            )
        return [Written(text, "stop" if reason in _ENDED else "length") for text, reason in found]

    def _text(self, message: Any) -> str:
        """What a message says; reasoning that a server gives apart stands before it in the tags of open reasoners."""
        text = message.content or ""
        reasoning = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
        if self.config.keep_reasoning and isinstance(reasoning, str) and reasoning.strip():
            return f"<think>\n{reasoning.strip()}\n</think>\n\n{text}"
        return text


def _body(sampling: Sampling, extra: dict[str, Any]) -> dict[str, Any]:
    """A request's settings. top_k and min_p are not OpenAI's, so they are sent only where they say something."""
    body: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    if "max_completion_tokens" not in extra:
        body["max_tokens"] = sampling.max_tokens
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.min_p:
        body["min_p"] = sampling.min_p
    return {**body, **extra}
