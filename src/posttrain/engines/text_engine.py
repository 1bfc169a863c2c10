"""An engine over any OpenAI-compatible server: text in, text out, ids that stand for text.

Prompts of text go to the completions route, and so does all that is put behind them: searches that
only put ids behind ids work there. Prompts of messages go to the chat route. An assistant's turn
that has begun is sent as the last message with continue_final_message, which vLLM and SGLang take.
"""

from __future__ import annotations

import math
import queue
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from posttrain.config import EndpointConfig
from posttrain.engines.base import Finished, OnLogprobs, OnTokens
from posttrain.engines.characters import END, CharacterTokenizer
from posttrain.engines.endpoint import Endpoint
from posttrain.engines.server_sample import Choice, choices_of, sample_of
from posttrain.errors import ConfigError, DataError, EndpointError, RequestRefused
from posttrain.types import Request, Sample, Text


@dataclass(slots=True)
class Usage:
    """Tokens that the server has reported. num_requests: answered ones."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    num_requests: int = 0


@dataclass(slots=True)
class _Open:
    """A request on its way. allowed: tokens per sample, once it was sent. num_rows: samples asked
    for, fewer than n where the budget has no more tokens. aborted: nobody waits for it.
    """

    ticket: int
    request: Request
    prompt: Text
    allowed: int = 0
    num_rows: int = 0
    reserved: int = 0
    aborted: bool = False


@dataclass(slots=True)
class _Answered:
    request: _Open
    answer: Any = None
    error: Exception | None = None


@dataclass(slots=True)
class _Line:
    """Requests that wait for a thread."""

    waiting: deque[_Open] = field(default_factory=deque)
    lock: threading.Lock = field(default_factory=threading.Lock)
    num_threads: int = 0


class TextEngine:
    """An open engine on a server.

    The tokens of a budget are divided among the requests that wait for them, and sent as
    max_tokens, so that no budget is exceeded by a server that keeps to max_tokens. Counts are the
    server's. Log-probs are asked for unless told otherwise; they also say where each token ends,
    and which stop string ended a text.

    Args:
        config: the server. logprobs: whether log-probs of tokens are asked for.

    Raises:
        MissingDependency, ConfigError: see `Endpoint`.
    """

    weights_version = 0
    in_flight = False
    context_length = None
    keeps_budgets = True

    def __init__(self, config: EndpointConfig, *, logprobs: bool = True) -> None:
        self.endpoint = Endpoint(config)
        self.config = config
        self.tokenizer = CharacterTokenizer()
        self.stats = Usage()
        self._logprobs = logprobs
        self._open: dict[int, _Open] = {}
        self._new: list[_Open] = []
        self._num_tickets = 0
        self._line = _Line()
        self._answers: queue.SimpleQueue[_Answered] = queue.SimpleQueue()

    @property
    def stop_ids(self) -> frozenset[int]:
        """The id that ends a completion."""
        return frozenset({END})

    @property
    def num_open(self) -> int:
        """Requests that are neither finished nor aborted."""
        return sum(not o.aborted for o in self._open.values())

    def submit(
        self,
        request: Request,
        on_tokens: OnTokens | None = None,
        on_logprobs: OnLogprobs | None = None,
    ) -> int:
        """Hand in a request; its ticket. It is sent by the next step.

        Raises:
            DataError: an empty prompt. ConfigError: a constraint, a deadline, stop ids or log-probs
            while it runs, which the protocol does not have; a text prompt for a server with the
            chat route alone.
        """
        if not request.prompt_ids:
            raise DataError("the prompt is empty; give at least one character")
        for name, given in (
            ("constraint", request.constraint is not None),
            ("deadline_seconds", request.deadline_seconds is not None),
            ("on_logprobs", on_logprobs is not None),
            ("stop_ids", bool(set(request.sampling.stop_ids) - {END})),
        ):
            if given:
                raise ConfigError(
                    f"{name}: the model behind {self.config.url} takes text alone; use an embedded "
                    "model, or leave it out"
                )
        prompt = self.tokenizer.parse(request.prompt_ids)
        if isinstance(prompt, str) and self.config.route == "chat":
            raise ConfigError(
                "endpoint.route is chat, and a search asks about plain text, which only the "
                "completions route can continue; give messages as prompts, or set endpoint.route: "
                "auto"
            )
        self._num_tickets += 1
        entry = _Open(self._num_tickets, request, prompt)
        self._open[entry.ticket] = entry
        self._new.append(entry)
        return entry.ticket

    def step(self) -> list[Finished]:
        """Send what waits, and wait for at least one answer.

        Raises:
            EndpointError: no answer came in time.
        """
        finished = self._send()
        if finished or not self._open:
            return finished
        try:
            answers = [self._answers.get(timeout=self.endpoint.deadline_seconds)]
        except queue.Empty:
            raise EndpointError(
                f"{self.config.model} at {self.config.url} has ended no request for "
                f"{self.endpoint.deadline_seconds:g} seconds, all tries together; raise "
                "endpoint.timeout, or lower endpoint.concurrency"
            ) from None
        while not self._answers.empty():
            answers.append(self._answers.get())
        return [result for a in answers if (result := self._finish(a)) is not None]

    def abort(self, ticket: int) -> None:
        """End a request without a result; the tokens of an answer on its way are still counted."""
        entry = self._open.get(ticket)
        if entry is None:
            return
        entry.aborted = True
        with self._line.lock:
            unsent = entry in self._line.waiting
            if unsent:
                self._line.waiting.remove(entry)
        if unsent or entry in self._new:
            del self._open[ticket]
            self._release(entry)
        self._new = [e for e in self._new if e is not entry]

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        """`n` samples for each request, in the order of the requests.

        Where one of them fails, the others are aborted.

        Raises:
            EndpointError: a request failed.
        """
        tickets: list[int] = []
        done: dict[int, list[Sample]] = {}
        try:
            for request in requests:
                tickets.append(self.submit(request))
            while self.num_open:
                for finished in self.step():
                    if finished.error is not None:
                        raise finished.error
                    done[finished.ticket] = finished.samples
        finally:
            for ticket in tickets:
                self.abort(ticket)  # does nothing about those that are done
        return [done[ticket] for ticket in tickets]

    def score(self, sequences: Sequence[tuple[Sequence[int], int]]) -> NoReturn:
        """Not to be had from a server of text.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("an endpoint cannot score given tokens; use an embedded model")

    def sync(self, version: int) -> None:
        """Nothing is cached here. version: of the weights."""
        self.weights_version = version

    # -- budgets

    def _send(self) -> list[Finished]:
        """Hand new requests to threads; those that may sample nothing finish at once."""
        new, self._new = self._new, []
        finished = []
        for entry in new:
            budget = entry.request.budget
            if budget is not None and not budget.call():
                finished.append(self._empty(entry))
                continue
            mates = [e for e in new if e.request.budget is budget and not e.reserved]
            self._allow(entry, sum(e.request.n for e in mates))
            if entry.num_rows:
                self._start(entry)
            else:
                finished.append(self._empty(entry))
        return finished

    def _allow(self, entry: _Open, num_rows: int) -> None:
        """Tokens per sample: an equal part of what the budget has left for `num_rows` samples."""
        request, limit = entry.request, entry.request.sampling.max_tokens
        budget = request.budget
        if budget is None or (left := budget.tokens_left) == math.inf:
            entry.allowed, entry.num_rows = limit, request.n
            return
        taken = sum(e.reserved for e in self._open.values() if e.request.budget is budget)
        left -= taken
        entry.allowed = int(min(limit, max(left // max(num_rows, 1), min(left, 1))))
        entry.num_rows = int(min(request.n, left)) if entry.allowed >= 1 else 0
        entry.reserved = entry.allowed * entry.num_rows

    def _release(self, entry: _Open) -> None:
        entry.reserved = 0

    def _empty(self, entry: _Open) -> Finished:
        del self._open[entry.ticket]
        samples = [Sample([], [], [], "budget") for _ in range(entry.request.n)]
        return Finished(entry.ticket, samples)

    # -- threads

    def _start(self, entry: _Open) -> None:
        with self._line.lock:
            self._line.waiting.append(entry)
            if self._line.num_threads >= self.config.concurrency:
                return
            self._line.num_threads += 1
        threading.Thread(target=self._work, daemon=True, name="text-engine").start()

    def _work(self) -> None:
        """Ask for one request after the other, as long as some wait."""
        while True:
            with self._line.lock:
                if not self._line.waiting:
                    self._line.num_threads -= 1
                    return
                entry = self._line.waiting.popleft()
            try:
                self._answers.put(_Answered(entry, self._ask(entry)))
            except Exception as error:  # raised where it is waited for
                self._answers.put(_Answered(entry, error=error))

    def _ask(self, entry: _Open) -> Any:
        request, prompt = entry.request, entry.prompt
        more: dict[str, Any] = {}
        continues = False
        if not isinstance(prompt, str):
            continues = bool(prompt[-1]["content"])
            if continues:
                more |= {"continue_final_message": True, "add_generation_prompt": False}
            else:
                prompt = prompt[:-1]
        if self._logprobs or request.num_top_logprobs:
            num_top = request.num_top_logprobs
            top = {"top_logprobs": num_top} if num_top else {}
            more |= {"logprobs": num_top} if isinstance(prompt, str) else {"logprobs": True, **top}
        sampling = replace(request.sampling, max_tokens=entry.allowed)
        try:
            return self.endpoint.answer(
                prompt, sampling, n=entry.num_rows, seed=request.seed, more=more
            )
        except RequestRefused as error:
            raise RequestRefused(f"{error}{_way_out(more, continues)}") from error.__cause__

    # -- answers

    def _finish(self, answered: _Answered) -> Finished | None:
        """The result of an answer; None where nobody waits for it."""
        entry = answered.request
        del self._open[entry.ticket]
        self._release(entry)
        error = answered.error
        choices: list[Choice] = []
        if error is None:
            try:
                choices = choices_of(self.endpoint, answered.answer)
            except EndpointError as malformed:
                error = malformed
        if error is not None:
            if entry.aborted:
                return None
            if not isinstance(error, EndpointError):
                raise error
            return Finished(entry.ticket, [], error)
        spent = sum(choice.num_tokens for choice in choices)
        self.stats.num_requests += 1
        self.stats.generated_tokens += spent
        self.stats.prompt_tokens += choices[0].prompt_tokens
        budget = entry.request.budget
        if budget is not None:
            budget.spend(spent)
        if entry.aborted:
            return None
        was_cut = entry.allowed < entry.request.sampling.max_tokens
        samples = [sample_of(choice, entry.request, was_cut=was_cut) for choice in choices]
        missing = entry.request.n - len(samples)
        samples += [Sample([], [], [], "budget") for _ in range(missing)]
        return Finished(entry.ticket, samples)


def _way_out(more: dict[str, Any], continues: bool) -> str:
    """What can be done where a server refuses a request."""
    text = ""
    if continues:
        text += (
            ". The search continues an assistant's turn (continue_final_message), which not every "
            "server takes: give plain text as prompts, so that the completions route is used, or "
            "take vLLM or SGLang"
        )
    if "logprobs" in more:
        text += ". Where the server has no log-probs, set logprobs=false"
    return text
