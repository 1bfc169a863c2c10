"""What is served: a model with its tokenizer and engine, and what a request may ask of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from typing import Any

from posttrain.engines.base import Engine
from posttrain.engines.likelihood import TokenLikelihood
from posttrain.errors import ConfigError
from posttrain.rewards.exact import Extractor
from posttrain.types import Constraint

Likelihoods = Callable[[Sequence[Sequence[int]], int, str], list[list[TokenLikelihood]]]
"""(sequences of ids, number of alternatives, adapter) -> of each token but the first its log-prob
and the likeliest tokens in its place."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model behind the server.

    Attributes:
        name: the `model` of requests.
        tokenizer: of the model; its chat template renders messages.
        engine: samples; the server's worker owns it.
        vocab_size: ids of a prompt are below it.
        context_length: most tokens of prompt and completion; None where unknown.
        likelihoods: scores given tokens; None where the engine cannot.
        compile_constraint: prepares the form of an answer, in a thread beside the engine's; None
            where the engine constrains no answers.
        extractor: how a search reads the answer of a text, where the request does not say.
        tool_parser: form in which the model writes tool calls, see
            `posttrain.episodes.tool_calls.parser_for`; "auto" reads it from the chat template.
        adapters: names of adapters, which are models of their own to requests, with the tokenizer
            whose chat template renders their messages. Its vocabulary is the model's.
    """

    name: str
    tokenizer: Any
    engine: Engine
    vocab_size: int
    context_length: int | None = None
    likelihoods: Likelihoods | None = None
    compile_constraint: Callable[[Constraint], None] | None = None
    extractor: Extractor = "last_number"
    tool_parser: str = "auto"
    adapters: Mapping[str, Any] = field(default_factory=dict)

    def tokenizer_of(self, adapter: str) -> Any:
        """The tokenizer of an adapter, "" for that of the model itself."""
        return self.adapters[adapter] if adapter else self.tokenizer


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server accepts.

    Attributes:
        max_tokens: most new tokens of one completion; also what a chat request gets that names no
            limit, as far as the context has room.
        max_search_tokens: most tokens that one search may sample.
        max_n: most completions of one prompt.
        max_prompts: most prompts of one completions request.
        max_samples: completions that are written or wait at a time; more are answered with 429.
        max_samples_per_key: the same, of one API key.
        max_schema_characters: of the JSON schema of an answer; about a second compiles the
            default.
        max_body_bytes: largest body of a request; a larger one is answered with 413.
        timeout_seconds: longest time of one request; 504 after it.
        grace_seconds: how long running requests may go on after SIGTERM.
    """

    max_tokens: int = 4096
    max_search_tokens: int = 65536
    max_n: int = 128
    max_prompts: int = 128
    max_samples: int = 1024
    max_samples_per_key: int = 1024
    max_schema_characters: int = 32_768
    max_body_bytes: int = 4 << 20
    timeout_seconds: float = 600.0
    grace_seconds: float = 10.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value, least = getattr(self, item.name), 0 if item.name == "grace_seconds" else 1
            if not value >= least or value == float("inf"):
                raise ConfigError(f"{item.name} is {value}; it must be at least {least} and finite")


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens, and the keys that it asks for.

    Raises:
        ConfigError: an address other machines can reach, and no key; a key that is too short or
            cannot stand in a header.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ConfigError(f"port is {self.port}; it must be 0 to 65535 (0 takes a free one)")
        for number, key in enumerate(self.keys, 1):
            if len(key) < MIN_KEY or not key.isascii() or not key.isprintable() or " " in key:
                raise ConfigError(
                    f"API key {number} must have at least {MIN_KEY} printable ASCII characters "
                    "and no space; `python -c 'import secrets; print(secrets.token_urlsafe())'` "
                    "makes one"
                )
        if not self.keys and not is_loopback(self.host):
            raise ConfigError(
                f"host {self.host!r} can be reached from other machines, so that requests must "
                "carry a key: set the variable POSTTRAIN_API_KEY (or --api-key), or listen on "
                "127.0.0.1"
            )


MIN_KEY = 8
"""Fewest characters of an API key."""


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
