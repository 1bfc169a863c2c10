"""Completions from an OpenAI-compatible server: text in, text out.

No weights, no token ids and no log-probs: what is written here can be fine-tuned on, not trained by
policy gradients.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.config import EndpointConfig
from posttrain.engines.secrets import check_secrets, key_for
from posttrain.errors import ConfigError, EndpointError, MissingDependency, RequestRefused
from posttrain.types import FinishReason, Sampling, Text

_ENDED = frozenset({"stop", "eos", "eos_token", "stop_sequence", "end_turn"})  # how servers call it


@dataclass(frozen=True, slots=True)
class Written:
    """A completion. finish_reason "length" stands for all that was not ended by the model: cut
    off, filtered, a tool call.
    """

    text: str
    finish_reason: FinishReason


class Endpoint:
    """A model behind a server: messages by its chat route, plain text by its completions route.

    Requests that fail for a while (no connection, timeouts, status 408, 409, 429, 5xx) are tried
    again with growing pauses.

    Raises:
        MissingDependency: the library `openai` is not installed. ConfigError: the settings cannot
        be.
    """

    def __init__(self, config: EndpointConfig) -> None:
        check_secrets(config)
        if not config.url.startswith(("http://", "https://")):
            raise ConfigError(
                f"endpoint.url: {config.url!r} must begin with http:// or https:// and mostly "
                "ends in /v1"
            )
        for name, value, least in (
            ("concurrency", config.concurrency, 1),
            ("max_retries", config.max_retries, 0),
        ):
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
        self._of_a_prompt = (openai.BadRequestError, openai.UnprocessableEntityError)
        self._answered = False
        # A server that sends a byte now and then is never silent; each try and the pauses between
        # them are bounded in sum.
        self._deadline = (config.max_retries + 1) * config.timeout + 10 * config.max_retries
        self._refusal: Exception | None = None
        # Servers of one's own mostly want no key, but the library wants one to send.
        self._key = key_for(config)
        key = self._key or "none"
        self._client = openai.OpenAI(
            base_url=config.url, api_key=key, timeout=config.timeout, max_retries=config.max_retries
        )

    def complete(
        self, prompts: Sequence[Text], sampling: Sampling, *, n: int, seeds: Sequence[int]
    ) -> list[list[Written]]:
        """`n` completions of each prompt, in order; none of a prompt that the server refuses (too
        long, filtered).

        Args:
            seeds: one per prompt, sent along; many servers ignore them.
        Raises:
            EndpointError: a request failed to the end, was answered with something else than `n`
            completions, or every prompt
                so far was refused.
        """
        waiting = iter(list(enumerate(zip(prompts, seeds, strict=True))))
        lock, ended = threading.Lock(), threading.Event()
        answers: queue.SimpleQueue[tuple[int, list[Written] | Exception]] = queue.SimpleQueue()

        def work() -> None:
            while not ended.is_set():
                with lock:
                    number, given = next(waiting, (-1, None))
                if given is None:
                    return
                try:
                    answers.put((number, self._ask(given[0], sampling, n, given[1])))
                except Exception as error:  # raised where it is waited for
                    answers.put((number, error))

        # Threads of a pool would be waited for, an interruption as long as a request may take.
        for _ in range(min(self.config.concurrency, len(prompts))):
            threading.Thread(target=work, daemon=True).start()
        completions: list[list[Written]] = [[] for _ in prompts]
        try:
            for _ in prompts:
                try:
                    number, answer = answers.get(timeout=self._deadline)
                except queue.Empty:
                    raise EndpointError(
                        f"{self._name} has ended no request for {self._deadline:g} seconds, all "
                        "tries together; "
                        "raise endpoint.timeout, or lower endpoint.concurrency"
                    ) from None
                if isinstance(answer, Exception):
                    self._refused(answer)
                else:
                    completions[number], self._answered = answer, True
        finally:
            ended.set()
        if self._refusal is not None and not self._answered:
            raise self._refusal
        return completions

    def _refused(self, error: Exception) -> None:
        """Raise an error, unless it is of one prompt alone."""
        if not isinstance(error, RequestRefused):
            raise error
        self._refusal = error

    def answer(
        self,
        prompt: Text,
        sampling: Sampling,
        *,
        n: int,
        seed: int,
        more: Mapping[str, Any] | None = None,
    ) -> Any:
        """The server's whole answer to one request, with `n` choices.

        Args:
            prompt: messages go to the chat route, text to the completions route.
            more: further keys of the request's body; those of `endpoint.extra` come first.
        Raises:
            RequestRefused: the server refuses this request alone. EndpointError: the request failed
                to the end, or there are not `n` choices.
        """
        given: dict[str, Any] = {
            "model": self.config.model,
            "extra_body": _body(sampling, n, seed, {**(more or {}), **self.config.extra}),
        }
        try:
            if isinstance(prompt, str):
                answer: Any = self._client.completions.create(prompt=prompt, **given)
            else:
                given["messages"] = prompt
                answer = self._client.chat.completions.create(**given)
        except (self._failure, ValueError, TypeError, RecursionError, AttributeError) as error:
            # The last four where an answer is no JSON, or not of the protocol's shape.
            sent = "the key in" if self._key else "the key, of which none was sent, in"
            kind = RequestRefused if isinstance(error, self._of_a_prompt) else EndpointError
            raise kind(
                f"{self._name} did not answer: {type(error).__name__}: "
                f"{self._redacted(error).rstrip('.')}. "
                f"Look at endpoint.url, endpoint.model and {sent} {self.config.key_variable}"
            ) from error
        choices = getattr(answer, "choices", None)
        if not isinstance(choices, list) or not choices:
            raise EndpointError(
                f"{self._name} answered without completions: {self._redacted(answer)[:200]!r}. "
                "Does endpoint.url end as the server wants it (mostly in /v1)?"
            )
        if len(choices) != n:
            raise EndpointError(
                f"{self._name} gave {len(choices)} completions of {n}: the server does not serve "
                "n; set num_generations: 1 and "
                "ask for more prompts instead"
            )
        return answer

    def written(self, answer: Any) -> list[Written]:
        """The completions of an answer.

        Raises:
            EndpointError: they are not of the protocol's shape.
        """
        try:
            texts = [
                choice.text if hasattr(choice, "text") else self._said(choice.message)
                for choice in answer.choices
            ]
            if not all(isinstance(text, str) for text in texts):
                raise TypeError("a completion is not text")
        except (AttributeError, TypeError) as error:
            raise EndpointError(
                f"{self._name} answered with malformed completions ({self._redacted(error)}): "
                f"{self._redacted(answer)[:200]!r}. Does it follow OpenAI's protocol?"
            ) from error
        reasons = [getattr(choice, "finish_reason", None) for choice in answer.choices]
        return [
            Written(_clean(t), "stop" if r in _ENDED else "length")
            for t, r in zip(texts, reasons, strict=True)
        ]

    def _ask(self, prompt: Text, sampling: Sampling, n: int, seed: int) -> list[Written]:
        if isinstance(prompt, str) and self.config.route == "chat":
            prompt = [{"role": "user", "content": prompt}]
        return self.written(self.answer(prompt, sampling, n=n, seed=seed))

    @property
    def deadline_seconds(self) -> float:
        """Longest time of a request, all tries and pauses together."""
        return self._deadline

    def _redacted(self, value: object) -> str:
        """A text from a server without the key, which some send back in their messages."""
        text = str(value)
        return (text.replace(self._key, "[key]") if self._key else text)[:1000]

    @property
    def _name(self) -> str:
        return f"{self.config.model} at {self.config.url}"

    def _said(self, message: Any) -> str:
        """What a message says; reasoning that a server gives apart stands before it in the tags
        of open reasoners.
        """
        text = getattr(message, "content", None) or ""
        if isinstance(text, list):
            text = "".join(str(part.get("text") or "") for part in text if isinstance(part, dict))
        reasoning = getattr(message, "reasoning_content", None) or getattr(
            message, "reasoning", None
        )
        if self.config.keep_reasoning and isinstance(reasoning, str) and reasoning.strip():
            return f"<think>\n{reasoning.strip()}\n</think>\n\n{text}"
        return str(text)


def _clean(text: str | None) -> str:
    """Text that can be written as UTF-8: servers cut characters in two."""
    return (text or "").encode("utf-8", "replace").decode()


def _body(sampling: Sampling, n: int, seed: int, extra: dict[str, Any]) -> dict[str, Any]:
    """A request's settings. top_k and min_p are not OpenAI's, so they are sent only where they
    say something.
    """
    body: dict[str, Any] = {
        "n": n,
        "seed": seed % 2**31,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    if "max_completion_tokens" not in extra:
        body["max_tokens"] = sampling.max_tokens
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.min_p:
        body["min_p"] = sampling.min_p
    return {name: value for name, value in {**body, **extra}.items() if value is not None}
