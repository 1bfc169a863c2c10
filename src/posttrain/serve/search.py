"""The `search` field and models named `base@strategy`: more tokens for one better answer."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, cast

from posttrain import registry
from posttrain.config import Component
from posttrain.engines.base import Engine
from posttrain.episodes.drive import Failed
from posttrain.errors import ConfigError
from posttrain.rewards.exact import Extractor, canonical, extract_answer
from posttrain.search.base import Selection
from posttrain.search.run import SearchLimits, SearchTools, run_searches
from posttrain.search.strategy import Strategy, strategy
from posttrain.serve.answer import Answer
from posttrain.serve.generation import BoundedEngine, Cancelled, too_slow
from posttrain.serve.refusal import Refusal, unsupported
from posttrain.serve.schema import SamplingFields, SearchRequest
from posttrain.serve.service import Service
from posttrain.types import Example, Request

AT = "@"
"""Between the name of a model and that of a strategy."""

HEARTBEAT_SECONDS = 5.0
"""A stream whose search still runs shows a sign of life this often."""

_INPUTS = frozenset({"prompt", "ask", "extract", "decode", "encode"})


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """A strategy with its budget in sampled tokens, and how it reads answers."""

    strategy: Strategy
    max_tokens: int
    extract: Callable[[str], str | None]
    return_candidates: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What a search chose, and what it cost."""

    selection: Selection
    num_tokens: int
    num_reused: int = 0

    @property
    def text(self) -> str:
        """The chosen text."""
        return self.selection.text

    @property
    def num_selected(self) -> int:
        """Tokens of the chosen candidate."""
        return len(self.selection.candidates[self.selection.index].ids)

    @property
    def finish_reason(self) -> str:
        """Why the chosen candidate ended."""
        return "stop" if self.selection.candidates[self.selection.index].ended else "length"


def served_searches() -> list[str]:
    """Names of the strategies that need nothing but the model: no scorer and no critic."""
    entries = registry.searches.entries()
    return [name for name, entry in entries.items() if set(entry.inputs) <= _INPUTS]


def search_plan(
    service: Service, model: str, search: SearchRequest | None, fields: SamplingFields
) -> SearchPlan | None:
    """The search that a request asks for by its model's name or its `search` field.

    Raises:
        Refusal: an unknown model, strategy or setting; two strategies; n above 1; a form of
            answers.
    """
    base, at, name = model.partition(AT)
    service.adapter(base if at and name in served_searches() else model)
    if search is None and not at:
        return None
    if search is not None and at and search.name != name:
        message = f"search: its name is {search.name!r} and the model's is {name!r}; give one"
        raise Refusal(400, message, param="search")
    search = search or SearchRequest(name=name)
    if search.name not in served_searches():
        choices = ", ".join(served_searches())
        message = f"search.name: {search.name[:200]!r} is none of {choices}"
        raise Refusal(400, message, param="search.name")
    if fields.n != 1:
        raise unsupported("n", f"n: a search gives one answer, so that n must be 1, not {fields.n}")
    form = fields.response_format
    if form is not None and form.type != "text":
        raise unsupported("response_format", "response_format: not with a search; leave out one")
    limit = service.limits.max_search_tokens
    if search.max_tokens is not None and search.max_tokens > limit:
        message = f"search.max_tokens is {search.max_tokens}; this server allows at most {limit}"
        raise Refusal(400, message, param="search.max_tokens")
    try:
        checked = strategy(Component(search.name, search.settings))
    except ConfigError as error:
        raise Refusal(400, str(error), param="search") from error
    extract = _extract(search.extractor or service.model.extractor)
    return SearchPlan(checked, search.max_tokens or limit, extract, search.return_candidates)


def _extract(extractor: Extractor) -> Callable[[str], str | None]:
    return lambda text: canonical(extract_answer(text, extractor))


def adapter_of(service: Service, model: str) -> str:
    """The adapter that a model's name means, with or without a strategy behind it.

    Raises:
        Refusal: there is no such model.
    """
    return service.adapter(model.partition(AT)[0])


class SearchAnswer(Answer):
    """What a search chose; in a stream it comes in one piece, because it is known at the end."""

    def __init__(
        self, service: Service, model: str, prefix: str, request: Request, plan: SearchPlan
    ) -> None:
        super().__init__(service, model, prefix)
        self.request = request
        self.plan = plan
        self.counts.prompt = len(request.prompt_ids)

    @abstractmethod
    def choice(self, found: Found) -> dict[str, Any]:
        """The choice of a whole answer."""

    @abstractmethod
    def part_choices(self, found: Found) -> list[dict[str, Any]]:
        """The choices of the parts of a stream."""

    async def whole(self) -> dict[str, Any]:
        found = await self._search()
        return self.body([self.choice(found)], search=self._report(found))

    async def parts(self) -> AsyncGenerator[dict[str, Any] | None]:
        task = asyncio.ensure_future(self._search())
        try:
            while not (await asyncio.wait([task], timeout=HEARTBEAT_SECONDS))[0]:
                yield None
            found = task.result()
        finally:
            task.cancel()
        *first, last = self.part_choices(found)
        for choice in first:
            yield self.part([choice])
        yield self.part([last], search=self._report(found))

    async def _search(self) -> Found:
        """Run the strategy in a thread; the thread ends soon after this is cancelled."""
        service, plan = self.service, self.plan
        engine = BoundedEngine(
            service.worker,
            service.limits.max_samples,
            service.model.context_length,
            self.request.adapter,
            service.model.engine.stop_ids,
        )
        request = self.request
        tools = SearchTools(service.model.tokenizer, plan.extract)

        def search() -> Selection | Failed:
            (result,) = run_searches(
                plan.strategy,
                [(Example(""), request.prompt_ids)],
                cast(Engine, engine),
                tools,
                sampling=request.sampling,
                seeds=[request.seed],
                limits=SearchLimits(max_tokens=plan.max_tokens),
            )
            return result

        loop, seconds = asyncio.get_running_loop(), service.limits.timeout_seconds
        timer = loop.call_later(seconds, engine.cancel)
        try:
            result = await loop.run_in_executor(service.searches, search)
        except ConfigError as error:
            raise Refusal(400, str(error), param="search") from error
        except Cancelled:
            raise too_slow(seconds) from None
        finally:
            timer.cancel()
            engine.cancel()
            self.counts.completion = self.counts.discarded = engine.num_tokens
            self.counts.reused = engine.first_reused or 0
        if isinstance(result, Failed):
            raise Refusal(500, f"the search failed: {result.reason}", code="search_failed")
        found = Found(result, engine.num_tokens, engine.num_reused)
        self.counts.discarded = engine.num_tokens - found.num_selected
        return found

    def _report(self, found: Found) -> dict[str, Any]:
        """What the search did, for the answer's field `search`."""
        selection, plan = found.selection, self.plan
        report: dict[str, Any] = {
            "name": plan.strategy.name,
            "settings": plan.strategy.settings,
            "answer": selection.answer,
            "votes": selection.votes,
            "notes": selection.notes,
            "num_candidates": len(selection.candidates),
            "max_tokens": plan.max_tokens,
            "reused_tokens": found.num_reused,
        }
        if plan.return_candidates:
            report["candidates"] = [
                {
                    "text": candidate.text,
                    "answer": plan.extract(candidate.text),
                    "num_tokens": len(candidate.ids),
                    "logprob": candidate.logprob,
                }
                for candidate in selection.candidates
            ]
        return report
