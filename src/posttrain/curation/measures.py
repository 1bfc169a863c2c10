"""Measures of rows by name, with whatever they need: texts, a tokenizer, a model, embeddings."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from posttrain import registry
from posttrain.config import Component, ComponentLike
from posttrain.curation.row_vectors import Embeddings, check_embeddings, row_vectors
from posttrain.data.row_texts import RowText
from posttrain.data.word_hashes import words_of_texts
from posttrain.errors import ConfigError
from posttrain.models.spec import ModelSpec

Array = np.ndarray

OF_MODEL = frozenset({"nats", "nats_alone", "yes"})
OF_ALL = frozenset({"vectors"})
_PART = 256  # rows measured at a time


@dataclass(frozen=True, slots=True)
class Measures:
    """What is measured of each row, checked before anything is read.

    components: the measures. spec: of the model, for measures and the tokenizer; None for none.
    """

    components: tuple[Component, ...]
    spec: ModelSpec | None = None
    embeddings: Embeddings = "words"
    max_length: int = 1024

    @classmethod
    def of(
        cls,
        measures: ComponentLike | Sequence[ComponentLike],
        spec: ModelSpec | None,
        embeddings: Embeddings = "words",
        max_length: int = 1024,
    ) -> Measures:
        """Measures by name or function.

        Raises:
            ConfigError: an unknown measure or setting, or one that needs a model where there is
                none.
        """
        if isinstance(measures, str | Mapping | Component) or callable(measures):
            measures = [measures]
        components = tuple(Component.of(item) for item in measures)
        made = cls(components, spec, embeddings, max_length)
        for component in components:
            registry.qualities.check_of(component, component.name)
        needs = made.needs
        if needs & OF_MODEL and spec is None:
            names = [c.name for c in components if set(_inputs(c)) & OF_MODEL]
            raise ConfigError(
                f"measures: {', '.join(names)} need a model; give one, such as "
                'model="embedded" (--model on the command line)'
            )
        if needs & OF_ALL:
            check_embeddings(embeddings)
        if max_length < 2:
            raise ConfigError(f"max_length: {max_length} tokens hold nothing to predict")
        return made

    @property
    def needs(self) -> frozenset[str]:
        """Inputs that any of the measures asks for."""
        return frozenset(name for c in self.components for name in _inputs(c))

    def names(self) -> list[str]:
        """Of the columns of the result; one that is measured twice has its settings behind it."""
        plain = [c.name for c in self.components]
        names = []
        for component in self.components:
            text = ",".join(f"{k}={v}" for k, v in component.settings.items())
            twice = plain.count(component.name) > 1 and text
            names.append(f"{component.name}:{text}" if twice else component.name)
        return names

    def record(self) -> dict[str, Any]:
        """What a resume compares."""
        return {
            "measures": [
                [c.name, {k: repr(v) for k, v in c.settings.items()}] for c in self.components
            ],
            "model": None if self.spec is None else str(self.spec.place),
            "embeddings": self.embeddings,
            "max_length": self.max_length,
        }


def _inputs(component: Component) -> tuple[str, ...]:
    return registry.qualities.entry_of(component).inputs


def measured(
    texts: Iterable[RowText], measures: Measures, *, cache: Path | None = None
) -> dict[str, Array]:
    """Each measure of each row, name -> [R].

    Rows are read once. Those whose measures need no other row are measured as they come, so that
    only their numbers are held.

    Args:
        texts: of the rows.
        cache: a file to which the inputs of a model are written as they are computed. One that is
            there already is read first, so that an interrupted call goes on.

    Raises:
        ConfigError: the cache is of other measures, or of a longer file.
    """
    loaded = _Inputs(measures, cache)
    needs, functions = measures.needs, [registry.qualities.bind_of(c) for c in measures.components]
    single = [not set(_inputs(c)) & OF_ALL for c in measures.components]
    columns: list[list[Array]] = [[] for _ in functions]
    held: list[str] = []
    rows = iter(texts)
    while part := list(itertools.islice(rows, _PART)):
        inputs = loaded.of(part)
        for number, component in enumerate(measures.components):
            if single[number]:
                values = functions[number](*(inputs[name] for name in _inputs(component)))
                columns[number].append(_checked(values, len(part), component.name))
        if needs & OF_ALL:
            held += [row.text for row in part]
    loaded.close()
    vectors = row_vectors(held, measures.embeddings) if needs & OF_ALL else None
    for number, component in enumerate(measures.components):
        if not single[number]:
            if set(_inputs(component)) - OF_ALL:
                raise ConfigError(
                    f"{component.name}: a measure of vectors takes no other input, because "
                    "vectors are of all rows"
                )
            values = functions[number](*[vectors for _ in _inputs(component)])
            columns[number].append(_checked(values, len(held), component.name))
    return {
        name: np.concatenate([*parts, np.zeros(0)])
        for name, parts in zip(measures.names(), columns, strict=True)
    }


def _checked(values: Any, number: int, name: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (number,):
        raise ConfigError(
            f"{name} returned shape {array.shape} for {number} rows; a measure gives one number "
            "for each"
        )
    return array


class _Inputs:
    """The inputs of some rows; those of a model come from the cache where it has them."""

    def __init__(self, measures: Measures, cache: Path | None) -> None:
        self._measures, self._needs = measures, measures.needs
        self._model: Any = None
        self._stored: list[dict[str, Any]] = []
        self._file: Any = None
        self._number = 0
        if cache is not None and self._needs & OF_MODEL:
            self._open(cache)

    def _open(self, cache: Path) -> None:
        record = self._measures.record()
        lines = cache.read_text(encoding="utf-8").splitlines() if cache.exists() else []
        if lines and json.loads(lines[0]) != record:
            raise ConfigError(
                f"{cache} holds measures of an earlier call with other settings; delete it, or "
                "choose another output"
            )
        for line in lines[1:]:
            try:
                self._stored.append(json.loads(line))
            except ValueError:
                break  # the line that was being written when the process ended
        text = "".join(json.dumps(row) + "\n" for row in [record, *self._stored])
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(text, encoding="utf-8")
        self._file = cache.open("a", encoding="utf-8")

    def of(self, rows: Sequence[RowText]) -> dict[str, Any]:
        """All inputs of some rows."""
        inputs: dict[str, Any] = {
            "texts": [row.text for row in rows],
            "prompts": [row.prompt for row in rows],
            "completions": [row.completion for row in rows],
        }
        if "num_tokens" in self._needs:
            inputs["num_tokens"] = self.lengths(inputs["texts"])
        if self._needs & OF_MODEL:
            inputs |= self._of_model(rows)
        return inputs

    def lengths(self, texts: Sequence[str]) -> Array:
        """Tokens of each text; words and signs without a tokenizer."""
        return token_counts(texts, self._measures.spec)

    def _of_model(self, rows: Sequence[RowText]) -> dict[str, Array]:
        place, self._number = self._number, self._number + 1
        # A digest, so that a cache of other rows is not taken for that of these.
        digest = int(words_of_texts([r.text for r in rows]).hashes.sum())
        if place < len(self._stored):
            stored = self._stored[place]
            if stored["digest"] != digest:
                raise ConfigError(
                    "the rows have changed since their measures were begun; delete the file "
                    "*.measures.jsonl beside the output"
                )
            return {name: np.array(stored[name], dtype=np.float64) for name in stored["inputs"]}
        if self._model is None:
            from posttrain.curation.model_inputs import ModelInputs

            assert self._measures.spec is not None
            self._model = ModelInputs(
                self._measures.spec.load(), max_length=self._measures.max_length
            )
        values: dict[str, Array] = {}
        if self._needs & {"nats", "nats_alone"}:
            values["nats"], values["nats_alone"] = self._model.nats(rows)
        if "yes" in self._needs:
            values["yes"] = self._model.yes(rows)
        if self._file is not None:
            line = {"digest": digest, "inputs": list(values)}
            line |= {name: array.tolist() for name, array in values.items()}
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        return values

    def close(self) -> None:
        """Close the cache."""
        if self._file is not None:
            self._file.close()


def token_counts(texts: Sequence[str], spec: ModelSpec | None) -> Array:
    """Tokens of each text; words and signs without a tokenizer. [R]."""
    if spec is None:
        return np.diff(words_of_texts(texts).starts)
    ids = spec.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    return np.array([len(row) for row in ids], dtype=np.int64)
