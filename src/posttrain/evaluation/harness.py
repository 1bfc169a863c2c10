"""A model, alone or under a search strategy, as a model of lm-evaluation-harness.

    from posttrain.evaluation.harness import harness_model

    results = lm_eval.simple_evaluate(model=harness_model(model), tasks=["gsm8k"])
    voted = harness_model(model, search=pt.majority_vote(num_samples=8))

The library is `lm_eval`, which `pip install 'posttrain[harness]'` brings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from posttrain.config import ComponentLike
from posttrain.data.templates import bos_id
from posttrain.engines.base import Engine
from posttrain.engines.likelihood import likelihoods
from posttrain.engines.torch import TorchEngine
from posttrain.episodes.ask import call_seed
from posttrain.episodes.drive import Failed
from posttrain.errors import ConfigError, MissingDependency, TemplateError, nearest
from posttrain.models.language_model import LanguageModel
from posttrain.rewards.exact import Extractor, canonical, extract_answer
from posttrain.search.run import SearchLimits, SearchTools, run_searches
from posttrain.search.strategy import Strategy, strategy
from posttrain.types import Example, Request, Sampling, Task

_SEQUENCES = 256  # whose log-probs are computed together

_SAMPLING_KEYS = ("temperature", "top_p", "top_k", "min_p")
_KEYS = ("until", "do_sample", "max_gen_toks", "max_new_tokens", "max_tokens", *_SAMPLING_KEYS)

Call = tuple[tuple[int, ...], Sampling]
"""Prompt and sampling: what makes two requests equal."""


def harness_model(
    model: LanguageModel,
    *,
    search: ComponentLike | Strategy | None = None,
    scorer: ComponentLike | None = None,
    extract: Extractor | Callable[[str], str | None] = "last_number",
    temperature: float = 1.0,
    max_tokens: int = 256,
    budget: int | SearchLimits | None = None,
    think_end: str | None = None,
    engine: Engine | None = None,
    seed: int = 1234,
) -> HarnessModel:
    """A loaded model as an `lm_eval.api.model.LM`, for `lm_eval.simple_evaluate(model=...)`.

    Args:
        search: a strategy whose choices are the generated texts; None generates as the tasks say.
            Log-likelihoods are the model's own in both cases.
        scorer: of a search that asks for a score. The gold is the harness's, so that no scorer may
            read it.
        extract: how a search reads an answer from a text.
        temperature: of a search, where a task asks for greedy text: of equal samples there is
            nothing to choose.
        max_tokens: of a generation of which the task gives no length.
        budget: most tokens of one search, or its limits.
        think_end: the end of a thought, such as "</think>": the thought is not part of the text,
            and a task's stop strings do not end it.
        engine: samples in place of an embedded engine on the model.
        seed: of the samples.

    Raises:
        MissingDependency: lm_eval is not installed. ConfigError: a wrong search or scorer.
    """
    kind: Any = type("PosttrainLM", (HarnessModel, _base_class()), {})
    return kind(
        model,
        _strategy(search, scorer),
        extract,
        temperature,
        max_tokens,
        SearchLimits(max_tokens=budget) if isinstance(budget, int) else budget,
        think_end,
        engine,
        seed,
    )


def _base_class() -> Any:
    try:
        from lm_eval.api.model import LM
    except ImportError as error:
        raise MissingDependency("lm_eval", "harness") from error
    return LM


def _strategy(search: ComponentLike | Strategy | None, scorer: Any) -> Strategy | None:
    if search is None:
        if scorer is not None:
            raise ConfigError("harness_model: scorer is read by a search alone; name a search")
        return None
    chosen = strategy(search).with_scorer(scorer)
    if chosen.oracle:
        raise ConfigError(
            f"harness_model: the scorer of {chosen.name!r} reads {', '.join(chosen.gold)}, which "
            "the harness holds and this model is not given; take a scorer that reads no gold"
        )
    if "value" in chosen.inputs:
        raise ConfigError(
            f"harness_model: search {chosen.name!r} asks for a critic; measure it with pt.evaluate"
        )
    return chosen


class HarnessModel:
    """What the harness asks of a model. `harness_model` makes one.

    Results stand in the order of the requests. Equal requests, as repeats of a task make them, are
    one request of several samples; greedy ones are computed once.

    Attributes:
        accounts: sampled tokens, samples, and those of them that were cut off, of all generations;
            searches that failed, whose text is empty; sequences whose beginning was cut off because
            the context is shorter.
    """

    cache_hook: Any

    def __init__(
        self,
        model: LanguageModel,
        search: Strategy | None,
        extract: Extractor | Callable[[str], str | None],
        temperature: float,
        max_tokens: int,
        limits: SearchLimits | None,
        think_end: str | None,
        engine: Engine | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.model, self.search, self.seed = model, search, seed
        self.engine: Any = engine or TorchEngine(model)
        self.accounts = dict.fromkeys(
            ("sampled_tokens", "num_samples", "truncated", "failures", "cut_prompts"), 0
        )
        self._temperature, self._max_tokens = temperature, max_tokens
        self._limits, self._think_end = limits, think_end
        self._extract = _reader(extract)
        bos, eos = bos_id(model.tokenizer), model.tokenizer.eos_token_id
        self._bos = bos
        self._first = next(
            (i for i in (bos, model.tokenizer.bos_token_id, eos) if i is not None), 0
        )

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(log-prob in nats, whether greedy decoding writes it) of (context, continuation)."""
        pairs = [self._pair(*request.args) for request in requests]
        results = self._scored(pairs)
        for request, result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, result)
        return results

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Log-prob in nats of each whole text; each token is predicted once, with as much context
        as fits.
        """
        length = self.engine.context_length or 2**31
        windows = [
            list(rolling_windows(self._ids(request.args[0]), self._first, length))
            for request in requests
        ]
        scores = iter(self._scored([window for group in windows for window in group]))
        results = [sum(next(scores)[0] for _ in group) for group in windows]
        for request, result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, result)
        return results

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of context and continuation; spaces between them belong to the continuation."""
        bare = context.rstrip()
        continuation = context[len(bare) :] + continuation
        before = self._ids(bare)
        whole = self._ids(bare + continuation)
        after = whole[len(before) :]
        if self._bos is not None and before[:1] != [self._bos]:
            before = [self._bos, *before]
        return before or [self._first], after

    def _scored(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Log-prob and greediness of the second part behind the first."""
        limit = self.engine.context_length
        ids = []
        for before, after in pairs:
            whole = (*before, *after)
            self.accounts["cut_prompts"] += limit is not None and len(whole) > limit
            ids.append(whole if limit is None else whole[-limit:])
        every = sorted(set(ids))  # those that begin alike stand together and share what is computed
        tokens: dict[tuple[int, ...], Any] = {}
        for start in range(0, len(every), _SEQUENCES):
            part = every[start : start + _SEQUENCES]
            for sequence, scored in zip(part, likelihoods(self.model, part, num_top=1)):
                tokens[sequence] = scored
        results = []
        for sequence, (_, after) in zip(ids, pairs, strict=True):
            number = min(len(after), len(sequence) - 1)
            scored = tokens[sequence][len(sequence) - 1 - number :]
            written = sequence[len(sequence) - number :]
            greedy = all(t.top[0][0] == i for t, i in zip(scored, written, strict=True))
            results.append((float(sum(t.logprob for t in scored)), greedy))
        return results

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """A text for each (context, settings of the generation)."""
        stops = [_stops(request.args[1]) for request in requests]
        calls = [self._call(*request.args) for request in requests]
        places: dict[Call, list[int]] = {}
        for place, call in enumerate(calls):
            places.setdefault(call, []).append(place)
        generate = self._sampled if self.search is None else self._searched
        texts = generate({call: len(of) for call, of in places.items()})
        results = [""] * len(requests)
        for call, of in places.items():
            for place, text in zip(of, texts[call], strict=True):
                results[place] = self._answer_text(text, stops[place])
        for request, call, text in zip(requests, calls, results, strict=True):
            if not call[1].temperature:
                self.cache_hook.add_partial("generate_until", request.args, text)
        return results

    def _call(self, context: str, settings: Mapping[str, Any]) -> Call:
        sampling = self._sampling(settings)
        ids = self._ids(context)
        if self._bos is not None and ids[:1] != [self._bos]:
            ids = [self._bos, *ids]
        limit = self.engine.context_length
        if limit is not None and len(ids) + sampling.max_tokens > limit:
            self.accounts["cut_prompts"] += 1
            ids = ids[-max(1, limit - sampling.max_tokens) :]
        return tuple(ids or [self._first]), sampling

    def _sampling(self, settings: Mapping[str, Any]) -> Sampling:
        """How a task's generation is sampled; greedy unless it asks for a temperature."""
        for key in settings:
            if key not in _KEYS:
                raise ConfigError(f"generation_kwargs: {key!r} is not known: {nearest(key, _KEYS)}")
        lengths = [settings[key] for key in _KEYS[2:5] if settings.get(key) is not None]
        numbers = {k: settings[k] for k in _SAMPLING_KEYS if settings.get(k) is not None}
        wants_greedy = settings.get("do_sample") is False
        sampled = bool(settings.get("do_sample"))
        temperature = float(numbers.get("temperature", 1.0 if sampled else 0.0))
        temperature = 0.0 if wants_greedy else temperature
        if self.search is not None and not temperature:
            temperature = self._temperature
        return Sampling(
            max_tokens=int(lengths[0]) if lengths else self._max_tokens,
            temperature=temperature,
            top_p=float(numbers.get("top_p", 1.0)),
            top_k=int(numbers.get("top_k", 0)),
            min_p=float(numbers.get("min_p", 0.0)),
            stop=() if self._think_end else _stops(settings),
        )

    def _sampled(self, numbers: Mapping[Call, int]) -> dict[Call, list[str]]:
        """So many texts of each call."""
        requests = []
        for (ids, sampling), number in numbers.items():
            n = number if sampling.temperature else 1
            requests.append(Request(ids, sampling, n=n, seed=call_seed(self.seed, ids, 0)))
        texts = {}
        for call, samples in zip(numbers, self.engine.generate(requests), strict=True):
            self.accounts["num_samples"] += len(samples)
            self.accounts["sampled_tokens"] += sum(len(s.ids) for s in samples)
            self.accounts["truncated"] += sum(s.finish_reason != "stop" for s in samples)
            written = [self._tools().decode(s) for s in samples]
            texts[call] = written if len(written) == numbers[call] else written * numbers[call]
        return texts

    def _searched(self, numbers: Mapping[Call, int]) -> dict[Call, list[str]]:
        """So many choices of the search for each call."""
        assert self.search is not None
        texts: dict[Call, list[str]] = {call: [] for call in numbers}
        decoded = {call: str(self.model.tokenizer.decode(list(call[0]))) for call in numbers}
        for sampling in dict.fromkeys(sampling for _, sampling in numbers):
            items = [
                (c, k) for c, number in numbers.items() if c[1] == sampling for k in range(number)
            ]
            problems = [
                (Example(decoded[call], id=f"{i}"), call[0]) for i, (call, _) in enumerate(items)
            ]
            opened = self.search.open(_task([example for example, _ in problems], self._extract))
            try:
                results = run_searches(
                    opened,
                    problems,
                    self.engine,
                    self._tools(),
                    sampling=sampling,
                    seeds=[call_seed(self.seed, call[0], k) for call, k in items],
                    limits=self._limits,
                )
            finally:
                opened.close()
            for (call, _), result in zip(items, results, strict=True):
                texts[call].append(self._counted(result))
        return texts

    def _counted(self, result: Any) -> str:
        """The text of a search's choice; empty where it failed or abstained."""
        if isinstance(result, Failed):
            self.accounts["failures"] += 1
            return ""
        self.accounts["num_samples"] += len(result.candidates)
        self.accounts["sampled_tokens"] += result.num_tokens
        self.accounts["truncated"] += sum(not c.ended for c in result.candidates)
        return "" if result.abstained else str(result.text)

    def _answer_text(self, text: str, stops: Sequence[str]) -> str:
        """The text behind the thought, up to the first stop string."""
        if self._think_end is None:
            return text
        text = text.rpartition(self._think_end)[2].lstrip()
        places = [text.index(stop) for stop in stops if stop in text]
        return text[: min(places)] if places else text

    def _tools(self) -> SearchTools:
        return SearchTools(self.model.tokenizer, self._extract)

    def _ids(self, text: str) -> list[int]:
        return list(self.model.tokenizer.encode(text, add_special_tokens=False))

    @property
    def tokenizer_name(self) -> str:
        """Of the harness's cache of requests."""
        return str(self.model.tokenizer.name_or_path).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The template's text, for the harness's record; empty where there is none."""
        return str(self.model.tokenizer.chat_template or "")

    def apply_chat_template(
        self, chat_history: list[dict[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        """Messages as the text of a prompt.

        Raises:
            TemplateError: the tokenizer has no chat template.
        """
        if not self.model.tokenizer.chat_template:
            raise TemplateError(
                "the tokenizer has no chat template; leave apply_chat_template out, or take a "
                "model for conversations"
            )
        return str(
            self.model.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )


def rolling_windows(
    ids: Sequence[int], first: int, length: int
) -> Iterator[tuple[list[int], list[int]]]:
    """(context, predicted) of the windows of a text: each token is predicted once, and the last
    window has all the context that fits into `length` tokens.

    >>> list(rolling_windows([0, 1, 2, 3, 4], 9, 4))
    [([9], [0, 1, 2]), ([1, 2], [3, 4])]
    """
    whole = [first, *ids]
    place = 1
    while place < len(whole):
        end = min(len(whole), place + (length - 1))
        start = max(0, end - length)
        yield whole[start:place], whole[place:end]
        place = end


def _stops(settings: Mapping[str, Any]) -> tuple[str, ...]:
    until = settings.get("until") or ()
    return tuple(s for s in ((until,) if isinstance(until, str) else until) if s)


def _reader(
    extract: Extractor | Callable[[str], str | None],
) -> Callable[[str], str | None]:
    if callable(extract):
        return extract
    return lambda text: canonical(extract_answer(text, extract))


def _task(examples: list[Example], extract: Callable[[str], str | None]) -> Task:
    """What a scorer is opened for: prompts without verdicts."""

    def unscored(text: str, example: Example) -> float:
        raise ConfigError("harness_model: the harness holds the gold; take another scorer")

    return Task("lm_eval", examples, unscored, extract, unscored="the harness holds the gold")
