"""Samples whose text has a given form: which tokens may come next.

    q(t | before) = p(t | before) 1[t may follow] / sum of p over all that may

The distribution at each token is the model's own over the tokens that the form allows. Grammars
are compiled and followed by the library `llguidance`, which `pip install 'posttrain[constrained]'`
brings.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posttrain.errors import ConfigError, MissingDependency
from posttrain.types import Constraint

# A small model that may write any white space between the parts of JSON does not stop.
_JSON: Any = {"whitespace_pattern": " ?"}

_MAX_SYMBOLS = 10_000
"""Of one grammar. About a second compiles so many; an `allOf` of few choices can ask for more than
a hundred thousand.
"""

_MAX_COMPILED = 64
"""Grammars that are held, the latest used ones."""

_REASON_CHARACTERS = 300


class Matcher:
    """Follows the text of one sample.

    Attributes:
        allowed: bool [V], which tokens may come next. is_complete: the text has the form. is_done:
        no token but an end may follow. error: why the text cannot be followed further, else None.
    """

    error: str | None = None

    def __init__(self, state: Any, vocab_size: int, ends: list[int]) -> None:
        self._state = state
        self._vocab_size = vocab_size
        self._ends = ends
        self._look()

    def copy(self) -> Matcher:
        """One that goes on from the same text."""
        other = copy.copy(self)
        other._state = self._state.deep_copy()
        return other

    def accept(self, token: int) -> None:
        """Add a token to the text. An end of the model adds nothing."""
        if token in self._ends:
            self.is_done = True
        else:
            self._state.consume_token(token)
            self._look()

    def _look(self) -> None:
        if self._state.is_error():
            self.error = _reason(self._state)
        self.is_complete = bool(self._state.is_accepting())
        bits = np.frombuffer(self._state.compute_bitmask(), dtype=np.uint8)
        self.allowed = np.unpackbits(bits, bitorder="little")[: self._vocab_size].astype(bool)
        self.allowed[self._ends] = False
        self.is_done = self._state.is_stopped() or not self.allowed.any()
        if self.is_complete:
            self.allowed[self._ends] = True


class Grammars:
    """Compiles constraints for one tokenizer and holds the latest. Any thread may use it.

    Args:
        tokenizer: a fast tokenizer of transformers. stop_ids: ids that end every sample; they may
        come where the text has its form.

    Raises:
        MissingDependency: `llguidance` is not installed. ConfigError: it cannot read the tokenizer.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, stop_ids: Iterable[int]) -> None:
        try:
            import llguidance
            import llguidance.hf
        except ImportError as error:
            raise MissingDependency("llguidance", "constrained") from error
        self._library = llguidance.LLMatcher
        self._limits = llguidance.LLParserLimits(max_grammar_size=_MAX_SYMBOLS)
        self._vocab_size = vocab_size
        self._ends = sorted(i for i in stop_ids if 0 <= i < vocab_size)
        try:
            self._tokens = llguidance.hf.from_tokenizer(
                tokenizer, n_vocab=vocab_size, eos_token=self._ends or None
            )
        except Exception as error:  # of the library's own making: it documents no type
            raise ConfigError(
                f"constraints need a tokenizer that llguidance can read; this one: {error}"
            ) from error
        self._compiled: OrderedDict[Constraint, Matcher] = OrderedDict()
        self._lock = threading.Lock()  # of what is held; compiling goes on without it

    def matcher(self, constraint: Constraint) -> Matcher:
        """One that stands at the beginning of a text.

        Raises:
            ConfigError: the schema or expression is not valid or too large, or no token can begin
            its text.
        """
        return self.compiled(constraint).copy()

    def compiled(self, constraint: Constraint) -> Matcher:
        """The one that `matcher` copies. It stays at the beginning.

        Raises:
            ConfigError: see `matcher`.
        """
        with self._lock:
            if constraint in self._compiled:
                self._compiled.move_to_end(constraint)
                return self._compiled[constraint]
        matcher = self._compile(constraint)
        with self._lock:
            self._compiled[constraint] = matcher
            while len(self._compiled) > _MAX_COMPILED:
                self._compiled.popitem(last=False)
        return matcher

    def _compile(self, constraint: Constraint) -> Matcher:
        try:
            if constraint.kind == "regex":
                grammar = self._library.grammar_from_regex(constraint.text)
            else:
                grammar = self._library.grammar_from_json_schema(constraint.text, _JSON)
        except ValueError as error:
            raise ConfigError(
                f"constraint: {constraint.text!r:.200} is no JSON: {error}"
            ) from error
        state = self._library(self._tokens, grammar, log_level=0, limits=self._limits)
        if state.is_error():
            raise ConfigError(
                f"constraint: {constraint.kind} {constraint.text!r:.200} is not valid: "
                f"{_reason(state)}"
            )
        matcher = Matcher(state, self._vocab_size, self._ends)
        if not matcher.allowed.any():
            raise ConfigError(
                f"constraint: no token can begin a text of {constraint.kind} "
                f"{constraint.text!r:.200}; give one that some text of at least a token matches"
            )
        return matcher


def _reason(state: Any) -> str:
    """The library's error on one line, without the grammar and the stack behind it."""
    text = str(state.get_error())
    for mark in ("<state>", "<backtrace>", "<grammar>"):
        text = text.partition(mark)[0]
    return " ".join(text.split())[:_REASON_CHARACTERS]


def masked(logits: Tensor, matchers: Mapping[int, Matcher]) -> Tensor:
    """Logits [B, V] in which lines with a matcher have -inf where it allows no token."""
    if not matchers:
        return logits
    lines = torch.tensor(list(matchers), device=logits.device)
    allowed = torch.from_numpy(np.stack([m.allowed for m in matchers.values()]))
    part = logits[lines].masked_fill(~allowed.to(logits.device), -torch.inf)
    return logits.index_copy(0, lines, part)


def with_raw(
    raw: Tensor, logits: Tensor, tokens: Tensor, matchers: Mapping[int, Matcher]
) -> Tensor:
    """Log-probs [B] of tokens, those of lines with a matcher under softmax(logits) [B, V]."""
    if not matchers:
        return raw
    lines = torch.tensor(list(matchers), device=logits.device)
    scores = torch.log_softmax(logits[lines], -1).gather(1, tokens[lines, None])[:, 0]
    return raw.index_copy(0, lines, scores)
