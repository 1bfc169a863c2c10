"""`pt.icl`: label texts in context, from demonstrations to a measured result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain import registry
from posttrain.component import Component, ComponentLike
from posttrain.config import EndpointConfig
from posttrain.errors import ConfigError, DataError
from posttrain.incontext import bm25
from posttrain.incontext.features import TextVectors, check_features
from posttrain.incontext.label_scores import Normalization
from posttrain.incontext.result import Answered, InContext
from posttrain.incontext.rows import Labelled, LabelledRows, labelled_rows, labels_of
from posttrain.incontext.scorer import EndpointScorer, ModelScorer, Question, Scorer
from posttrain.incontext.selection import places_of
from posttrain.incontext.templates import PromptEncoder, Template
from posttrain.methods.endpoint import EndpointModel, spec_of
from posttrain.methods.objects import ModelLike
from posttrain.model_config import model_name
from posttrain.typecheck import check_in_python

Numbers = NDArray[np.float64]
Shots = list[Labelled]


def icl(
    model: ModelLike | EndpointConfig,
    rows: LabelledRows,
    *,
    demonstrations: LabelledRows | None = None,
    selection: ComponentLike = "random",
    order: ComponentLike = "as_selected",
    calibration: ComponentLike | None = None,
    num_shots: int = 8,
    template: Template | Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
    normalization: Normalization = "sum",
    remove_prior: bool = False,
    num_examples: int = 200,
    max_pool: int = 2000,
    text_column: str = "text",
    label_column: str = "label",
    max_tokens: int = 16384,
    seed: int = 0,
    output: str | Path | None = None,
) -> InContext:
    """Label texts in context: each with demonstrations before it, by the likeliest label.

        result = pt.icl("embedded-icl", "labelled_words", num_shots=16, selection="bm25")
        print(result)

    All labels of all questions are scored in token forests. A server writes its answer instead, so
    its probabilities are 0 and 1, and what needs more is refused.

    Args:
        model: a loaded model, a folder, a hub id, "embedded", or a server: pt.Endpoint(url, name).
        rows: labelled texts: a task (prompt and answer), its name, or a file or rows with the
            columns text and label.
        demonstrations: rows to choose from. None takes the rows behind the first `num_examples`. A
            row with the text of a question is left out.
        selection: which rows are shown (`posttrain ls selections`), by name, {name: ...,
            setting: ...}, or a function of pool, queries, num_shots, draw or vectors to places.
        order: in which order they stand (`posttrain ls orders`).
        calibration: how probabilities are corrected (`posttrain ls calibrations`).
        num_shots: demonstrations before each question.
        template: the form of prompts, as `pt.Template` or its keys.
        labels: to choose from; None takes those of all rows.
        normalization: length that log-likelihoods are divided by: "sum" (1), "token", "byte".
        remove_prior: divide by a label's probability without question and demonstrations.
        num_examples: the first so many rows are asked.
        max_pool: most rows to choose from; a random sample where there are more.
        text_column, label_column: names of the columns of files and dictionaries.
        max_tokens: distinct tokens of a forward pass.
        seed: of selections, orders and calibrations that draw.
        output: a folder for in_context.json and rows.jsonl.

    Raises:
        ConfigError, DataError: what cannot be asked, before any weights are loaded where no
            selection or order needs them.
    """
    form = template if isinstance(template, Template) else Template(**_template(template))
    _check(num_shots, num_examples, max_pool)
    parts = _parts(selection, order, calibration)
    read = partial(labelled_rows, text_column=text_column, label_column=label_column)
    given, draw = read(rows), np.random.default_rng(seed)
    asked = given[:num_examples]
    pool = given[num_examples:] if demonstrations is None else read(demonstrations)
    pool, num_removed = _pool(pool, asked, num_shots, max_pool, draw)
    names = list(labels) if labels is not None else labels_of([*asked, *pool])
    _check_labels(names, [*asked, *pool])
    spec = spec_of(model)
    scorer: Scorer
    if isinstance(spec, EndpointModel):
        _check_endpoint(order, calibration, normalization, remove_prior)
        scorer = EndpointScorer(spec, form, names)
    else:
        encoder = PromptEncoder(spec.tokenizer, form, names)
        scorer = ModelScorer(spec, encoder, normalization, remove_prior, max_tokens)
    asking = Asking(scorer, asked, pool, num_shots, draw)
    shots, logprobs = asking.answered(parts)
    settings = _settings(locals())
    answers = tuple(map(partial(_answered, names), asked, shots, logprobs))
    name = model_name(str(spec.place))
    result = InContext(name, tuple(names), answers, settings, len(pool), num_removed)
    if output is not None:
        result.save(output)
    return result


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """The functions of a run with their settings fixed, and the inputs that each asks for."""

    select: Callable[..., Any]
    selects: tuple[str, ...]
    arrange: Callable[..., Any]
    arranges: tuple[str, ...]
    correct: Callable[..., Any] | None = None
    corrects: tuple[str, ...] = ()


def _parts(
    selection: ComponentLike, order: ComponentLike, calibration: ComponentLike | None
) -> Parts:
    """The functions, checked.

    Raises:
        ConfigError: an unknown name or setting, or a package that is missing.
    """
    found: list[Any] = []
    for registered, item in (
        (registry.selections, selection),
        (registry.orders, order),
        (registry.calibrations, calibration),
    ):
        if item is not None:
            component = Component.of(item)
            _check_component(component)
            inputs = tuple(registered.entry_of(component).inputs)
            found += [registered.bind_of(component), inputs]
    return Parts(*found)


class Asking:
    """Questions with their pool: what selections, orders and calibrations are given.

    Args:
        scorer: gives probabilities. asked: the questions. pool: rows to choose from.
    """

    def __init__(
        self,
        scorer: Scorer,
        asked: Sequence[Labelled],
        pool: Sequence[Labelled],
        num_shots: int,
        draw: np.random.Generator,
    ) -> None:
        self.scorer, self.asked, self.pool = scorer, asked, pool
        self.num_shots, self.draw = num_shots, draw
        load = partial(getattr, scorer, "model") if isinstance(scorer, ModelScorer) else None
        self.vectors = TextVectors([row.text for row in pool or asked], load)

    def answered(self, parts: Parts) -> tuple[list[Shots], Numbers]:
        """The demonstrations of each question in their order, and log-probs of labels [Q, C]."""
        shots = self.ordered(parts, self.selected(parts))
        questions: list[Question] = [
            (given, row.text) for given, row in zip(shots, self.asked, strict=True)
        ]
        if isinstance(self.scorer, ModelScorer):
            self.scorer.check_lengths(questions)
        return shots, self.calibrated(parts, self.scorer.logprobs(questions), shots)

    def selected(self, parts: Parts) -> list[Shots]:
        """The demonstrations of each question, as selected."""
        if self.num_shots == 0:
            return [[] for _ in self.asked]
        inputs = {
            "pool": self.pool,
            "queries": [row.text for row in self.asked],
            "num_shots": self.num_shots,
            "draw": self.draw,
            "vectors": self.vectors,
        }
        chosen = parts.select(*[inputs[name] for name in parts.selects])
        places = places_of(chosen, len(self.asked), len(self.pool), self.num_shots)
        return [[self.pool[place] for place in row] for row in places.tolist()]

    def ordered(self, parts: Parts, shots: list[Shots]) -> list[Shots]:
        """The same demonstrations in the order's order; once for questions that share them, where
        the order does not read the question.
        """
        made: dict[Any, list[int]] = {}
        results = []
        for row, given in zip(self.asked, shots, strict=True):
            key = (tuple(s.id for s in given), row.text if "text" in parts.arranges else "")
            if key not in made:
                inputs = {
                    "shots": given,
                    "text": row.text,
                    "predict": partial(self._predict, given),
                    "probes": partial(self._probes, given),
                    "written": partial(self._written, given),
                    "draw": self.draw,
                    "vectors": self.vectors,
                }
                found = parts.arrange(*[inputs[n] for n in parts.arranges]) if given else []
                if sorted(found) != list(range(len(given))):
                    raise DataError(
                        f"the order returned {found}; it must return each place of the "
                        f"{len(given)} demonstrations once"
                    )
                made[key] = list(found)
            results.append([given[place] for place in made[key]])
        return results

    def calibrated(self, parts: Parts, logprobs: Numbers, shots: list[Shots]) -> Numbers:
        """Corrected log-probs [Q, C], each row summing to 1 as probabilities."""
        if parts.correct is None:
            return logprobs
        inputs = {
            "logprobs": logprobs,
            "blank": partial(self._blank, shots),
            "pool": self.pool or self.asked,
            "draw": self.draw,
        }
        found = np.asarray(parts.correct(*[inputs[name] for name in parts.corrects]))
        if found.shape != logprobs.shape or not np.isfinite(found).all():
            raise DataError(
                f"the calibration returned the shape {found.shape} or values that are not finite; "
                f"it must return {logprobs.shape} log-probs"
            )
        return found

    def _predict(
        self, shots: Shots, tried: Sequence[Sequence[int]], texts: Sequence[str]
    ) -> Numbers:
        """Probabilities [orders, texts, labels] of texts below each order of the shots."""
        questions: list[Question] = [
            ([shots[place] for place in order], text) for order in tried for text in texts
        ]
        found = np.exp(self.scorer.logprobs(questions))
        return found.reshape(len(tried), len(texts), -1)

    def _probes(self, shots: Shots, number: int) -> list[str]:
        """Texts of the pool that are not among the shots."""
        shown = {shot.text for shot in shots}
        left = [row.text for row in self.pool if row.text not in shown]
        if not left or number < 1:
            raise DataError(
                f"num_probes is {number} and {len(left)} rows of the pool are not demonstrations; "
                "both must be at least 1"
            )
        places = self.draw.permutation(len(left))[:number]
        return [left[place] for place in places]

    def _written(self, shots: Shots, tried: Sequence[Sequence[int]], number: int) -> list[str]:
        """Texts that the model writes below each order of the shots, about `number` in all."""
        assert isinstance(self.scorer, ModelScorer)  # a server is refused before
        below = [[shots[place] for place in order] for order in tried]
        each = -(-number // len(below))
        texts = self.scorer.written(below, each, int(self.draw.integers(2**31)))
        if not texts:
            raise DataError(
                "the model writes no text below the demonstrations; take texts of the pool"
            )
        return texts[:number]

    def _blank(self, shots: list[Shots], texts: Sequence[str]) -> Numbers:
        """Log-probs [Q, texts, C] of texts in place of each question; equal prompts count once."""
        kinds: dict[tuple[str, ...], int] = {}
        place = [kinds.setdefault(tuple(s.id for s in given), len(kinds)) for given in shots]
        first = [place.index(kind) for kind in range(len(kinds))]
        questions: list[Question] = [(shots[q], text) for q in first for text in texts]
        found = self.scorer.logprobs(questions).reshape(len(first), len(texts), -1)
        return found[place]


def _pool(
    pool: list[Labelled],
    asked: list[Labelled],
    num_shots: int,
    max_pool: int,
    draw: np.random.Generator,
) -> tuple[list[Labelled], int]:
    """Rows to choose from, without the texts of questions and with ids of their own; how many were
    left out.
    """
    texts = {row.text for row in asked}
    free = [row for row in pool if row.text not in texts]
    removed = len(pool) - len(free)
    if len(free) > max_pool:
        free = [free[place] for place in sorted(draw.permutation(len(free))[:max_pool])]
    if len(free) < num_shots:
        raise DataError(
            f"num_shots is {num_shots} and there are {len(free)} rows to choose from ({removed} "
            "with the text of a question were left out); give demonstrations=, more rows, or "
            "lower num_shots or num_examples"
        )
    return [dataclasses.replace(row, id=f"{n}:{row.id}") for n, row in enumerate(free)], removed


def _check(num_shots: int, num_examples: int, max_pool: int) -> None:
    for name, value, least in (
        ("num_shots", num_shots, 0),
        ("num_examples", num_examples, 1),
        ("max_pool", max_pool, 1),
    ):
        if check_in_python(value, int, f"icl: {name}") < least:
            raise ConfigError(f"icl: {name} is {value}; it must be at least {least}")


def _check_labels(names: Sequence[str], rows: Sequence[Labelled]) -> None:
    """Refuse labels that miss some of the rows.

    Raises:
        ConfigError: fewer than two, or one twice. DataError: a row has another label.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"labels: {list(names)} must be at least 2 different labels")
    if other := next((row for row in rows if row.label not in names), None):
        raise DataError(
            f"row {other.id} has the label {other.label!r}, which is not among labels: "
            f"{', '.join(names)}"
        )


def _check_component(item: Component) -> None:
    """Refuse what needs a package that is missing."""
    if item.name == "bm25" and item.function is None:
        bm25.check_installed()
    if "features" in item.settings:
        check_features(str(item.settings["features"]))


def _check_endpoint(
    order: ComponentLike, calibration: ComponentLike | None, normalization: str, prior: bool
) -> None:
    """Refuse what needs probabilities, which a server's text does not give.

    Raises:
        ConfigError: as said.
    """
    wants = "predict" in registry.orders.entry_of(Component.of(order)).inputs
    for name, is_set in (
        (f"order {Component.of(order).name!r}", wants),
        ("calibration", calibration is not None),
        ("normalization", normalization != "sum"),
        ("remove_prior", prior),
    ):
        if is_set:
            raise ConfigError(
                f"{name} needs the probabilities of labels, and a server gives text alone; load "
                "the model, or leave it out"
            )


def _template(keys: Mapping[str, Any] | None) -> dict[str, Any]:
    """The keys of a template.

    Raises:
        ConfigError: an unknown key.
    """
    return dataclasses.asdict(check_in_python(dict(keys or {}), Template, "icl: template"))


def _answered(
    names: Sequence[str], row: Labelled, shots: Sequence[Labelled], logprobs: Numbers
) -> Answered:
    shown = tuple(shot.id for shot in shots)
    if np.isnan(logprobs).any():
        even = (1 / len(names),) * len(names)
        return Answered(row.id, row.text, row.label, None, even, shown)
    predicted = names[int(logprobs.argmax())]
    return Answered(row.id, row.text, row.label, predicted, tuple(np.exp(logprobs).tolist()), shown)


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """How the prompts were made, as plain values for the record."""
    found: dict[str, Any] = {
        name: values[name]
        for name in ("num_shots", "normalization", "remove_prior", "max_pool", "seed")
    }
    for name in ("selection", "order", "calibration"):
        if values[name] is not None:
            item = Component.of(values[name])
            found[name] = {"name": item.name, **item.settings} if item.settings else item.name
    found["template"] = dataclasses.asdict(values["form"])
    return found
