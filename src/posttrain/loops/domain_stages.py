"""The stages of a benchmark of continual pretraining: runs of `fit`, each in a folder of its own.

A stage starts from the model that the one before left in its folder. What was measured after it is
a file beside that model, so a stage that is done is read and not trained, and one that was cut off
is gone on with. Only the model of the newest stage of a stream stays.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from posttrain.config import DataConfig, ModelConfig
from posttrain.data.domains import Domain, Split, write_mixture, write_split
from posttrain.data.similarity import domain_vectors, mean_step, nearest_first, swapped_halves
from posttrain.errors import CheckpointError
from posttrain.evaluation.streams import Stream, Streams
from posttrain.files import write_text_whole
from posttrain.loops.domain_suites import Suites, Values, measured, part_of, sampled, suites_of
from posttrain.loops.stream_config import StreamConfig, of_one, stage_rates
from posttrain.methods.fit import fit
from posttrain.methods.sft import sft
from posttrain.model_config import model_name
from posttrain.models.loaded import LoadedModel
from posttrain.models.named import NamedModel
from posttrain.models.spec import ModelSpec
from posttrain.report.continual import write_heat_maps
from posttrain.terminal import write
from posttrain.training.plan import Place

MEASURED = "measured.json"
"""What was measured after a stage."""


class Benchmark:
    """All streams over all seeds. Its arguments are those of `continual_pretraining`.

    Args:
        schedule: of a stage: its form, warm-up and the share at which it ends.
        held_out: the share of documents, and the number of characters.
    """

    def __init__(
        self,
        spec: ModelSpec,
        domains: Sequence[Domain],
        streams: Sequence[StreamConfig],
        *,
        seeds: Sequence[int],
        schedule: tuple[Any, float, float],
        held_out: tuple[float, int],
        similarity: str,
        pretraining: Domain | None,
        num_keywords: int,
        keep_models: bool,
    ) -> None:
        self.spec, self.domains, self.streams, self.seeds = spec, domains, streams, seeds
        self.schedule, self.held_out = schedule, held_out
        self.similarity, self.pretraining = similarity, pretraining
        self.num_keywords, self.keep_models = num_keywords, keep_models
        self.names = [domain.name for domain in domains]
        self.vectors: np.ndarray | None = None
        self._suites: Suites = {}

    def run(self, place: Place) -> Streams:
        """Train and measure whatever is left, and write the table and the heat maps."""
        place.open()
        self.place, self.console = place.path, place.console
        self.splits = self._split()
        self._suites = suites_of(self.spec, self.domains, self.splits, self.num_keywords)
        self.start = self._start_model()
        before = self._measured(self.place / "start", None)
        orders = {
            stream.name: [self._order(stream, seed, before) for seed in self.seeds]
            for stream in self.streams
        }
        runs: dict[str, list[tuple[list[Values], Values]]] = {s.name: [] for s in self.streams}
        for number, seed in enumerate(self.seeds):
            for stream in self.streams:
                order = orders[stream.name][number]
                runs[stream.name].append(self._stream(stream, order, seed, before))
            if not self.keep_models:
                for model in self._folder(seed).glob("alone-*/*/model"):
                    shutil.rmtree(model)
        results = [self._result(s, orders[s.name], runs[s.name]) for s in self.streams]
        result = Streams(
            model_name(str(self.spec.place)),
            self.names,
            list(self.seeds),
            results,
            self._neighbours(orders),
        )
        result.save(self.place)
        write_text_whole(self.place / "continual.txt", f"{result}\n")
        write_heat_maps(result.to_json(), self.place)
        write(self.console, f"\n{result}")
        return result

    # -- domains

    def _split(self) -> dict[str, Split]:
        """The parts of each domain.

        Raises:
            CheckpointError: they are not those that the benchmark was begun with.
        """
        sizes = [stream.train_characters for stream in self.streams]
        folder = self.place / "domains"
        folder.mkdir(exist_ok=True)
        splits = {}
        for domain in self.domains:
            old = {file: _digest(file) for file in folder.glob(f"{domain.name}.*.jsonl")}
            share, characters = self.held_out
            split = write_split(
                domain,
                folder,
                held_out_share=share,
                max_characters=None if None in sizes else max(s for s in sizes if s),
                held_out_characters=characters,
            )
            for file in (split.train, split.held_out):
                if file in old and old[file] != _digest(file):
                    raise CheckpointError(
                        f"{file} has changed since the benchmark was begun: the documents of "
                        f"domain {domain.name!r} are others; start a new one with another output"
                    )
            splits[domain.name] = split
        return splits

    # -- orders

    def _order(self, stream: StreamConfig, seed: int, before: Values) -> list[str]:
        """The names of the domains in the order of training."""
        number = len(self.names)
        if stream.order == "given":
            places = list(range(number))
        elif stream.order == "random":
            places = np.random.default_rng((seed, 31)).permutation(number).tolist()
        else:
            vectors = self._vectors()
            places = nearest_first(vectors[:number], self._first(vectors, before))
            places = swapped_halves(places) if stream.order == "swapped" else places
        return [self.names[place] for place in places]

    def _vectors(self) -> np.ndarray:
        """A vector for each domain, and one for the sample of the pretraining behind them."""
        if self.vectors is None:
            samples = {n: sampled(DataConfig(str(s.train))) for n, s in self.splits.items()}
            if self.pretraining is not None:
                samples[" pretraining"] = sampled(self.pretraining.data)  # no domain has a blank
            self.vectors = domain_vectors(samples, self.similarity)
        return self.vectors

    def _first(self, vectors: np.ndarray, before: Values) -> int:
        """The domain that the similar order begins with."""
        if self.pretraining is not None:
            return int(np.argmax(vectors[:-1] @ vectors[-1]))
        return int(np.argmin([before["nats"][name] for name in self.names]))

    def _neighbours(self, orders: dict[str, list[list[str]]]) -> dict[str, float]:
        """Mean cosine of neighbours in the orders of each stream, where there are vectors."""
        if self.vectors is None:
            return {}
        place = {name: i for i, name in enumerate(self.names)}
        return {
            name: float(np.mean([mean_step(self.vectors, [place[d] for d in o]) for o in some]))
            for name, some in orders.items()
        }

    # -- trainings

    def _start_model(self) -> ModelConfig:
        """How the model of the start is loaded: as it is named, or from a copy in the folder."""
        config = self.spec.config
        if isinstance(self.spec, NamedModel) and config.init == "pretrained":
            return config
        folder = self.place / "start" / "model"
        if not folder.exists():
            self.spec.load().save(folder)
        if isinstance(self.spec, LoadedModel):
            return ModelConfig(str(folder))
        return _at(config, folder)

    def _stream(
        self, stream: StreamConfig, order: list[str], seed: int, before: Values
    ) -> tuple[list[Values], Values]:
        """What was measured at the start and after each stage; and after each domain alone."""
        alone, done = self._alone(stream, seed)
        folder = self._folder(seed) / _file_name(stream.name)
        rows, config = [before], self.start
        if stream.rate_schedule != "continued":  # the first stage is that domain alone
            rows.append(done[order[0]])
            config = _at(self.start, self._alone_folder(stream, seed) / order[0] / "model")
        last: Path | None = None
        for number, name in list(enumerate(order))[len(rows) - 1 :]:
            stage = folder / f"stage-{number + 1}-{name}"
            data = self._data(stream, folder, order[: number + 1], seed)
            rates = stage_rates(stream, self.schedule, number, len(order))
            title = f"seed {seed}, {stream.name}, stage {number + 1} of {len(order)} ({name})"
            rows.append(self._measured(stage, (config, data, stream, rates, seed), title))
            if last is not None and not self.keep_models:
                shutil.rmtree(last / "model", ignore_errors=True)
            config, last = _at(self.start, stage / "model"), stage
        return rows, alone

    def _alone(self, stream: StreamConfig, seed: int) -> tuple[Values, dict[str, Values]]:
        """What was measured after training on each domain alone, from the start: of that domain,
        and of all of them by the name of the trained one.
        """
        folder = self._alone_folder(stream, seed)
        merged: Values = {}
        done: dict[str, Values] = {}
        for name in self.names:
            data = self._data(stream, folder, [name], seed)
            rates = stage_rates(of_one(stream), self.schedule, 0, 1)
            training = self.start, data, stream, rates, seed
            done[name] = self._measured(folder / name, training, f"seed {seed}, {name} alone")
            for measure, by_domain in done[name].items():
                merged.setdefault(measure, {})[name] = by_domain[name]
        return merged, done

    def _folder(self, seed: int) -> Path:
        return self.place / f"seed-{seed}"

    def _alone_folder(self, stream: StreamConfig, seed: int) -> Path:
        """Streams that differ in nothing that one domain alone depends on share it."""
        first = next(s for s in self.streams if s.alone_key == stream.alone_key)
        return self._folder(seed) / f"alone-{self.streams.index(first) + 1}"

    def _data(
        self, stream: StreamConfig, folder: Path, trained: Sequence[str], seed: int
    ) -> DataConfig:
        """The rows of a stage. trained: its domain, behind the earlier ones."""
        *earlier, name = trained
        domain = next(d for d in self.domains if d.name == name)
        own = self.splits[name].train
        replayed = [self.splits[n].train for n in earlier] if stream.replay_share else []
        if replayed or stream.train_characters is not None:
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / f"{len(trained)}-{name}.jsonl"
            write_mixture(
                target,
                own,
                replayed,
                share=stream.replay_share,
                max_characters=stream.train_characters,
                seed=seed,
            )
            own = target
        return part_of(domain.data, own)

    def _measured(self, folder: Path, training: Any, title: str = "start") -> Values:
        """What was measured after a stage: from its file, or by training. training: None for the
        model of the start.
        """
        file = folder / MEASURED
        if file.is_file():
            values: Values = json.loads(file.read_text(encoding="utf-8"))
            return values
        if training is None:
            model = NamedModel(self.start, seed=self.seeds[0]).load()
        else:
            model = self._fit(folder, *training)
        values = measured(model, self._suites)
        folder.mkdir(parents=True, exist_ok=True)
        write_text_whole(file, json.dumps(values, indent=1))
        mean = np.mean(list(values["nats"].values()))
        write(self.console, f"{title}: {mean:.4f} nats per token over all domains")
        return values

    def _fit(
        self,
        folder: Path,
        config: ModelConfig,
        data: DataConfig,
        stream: StreamConfig,
        rates: dict[str, Any],
        seed: int,
    ) -> Any:
        of_plan = ("learning_rate", "lr_scheduler_type")
        plan = sft(data, batch_size=stream.batch_size, **{name: rates[name] for name in of_plan})
        result = fit(
            NamedModel(config, seed=seed),
            plan,
            steps=stream.steps_per_domain,
            output=folder,
            resume=(folder / "recipe.yaml").exists(),
            seed=seed,
            console=Console(quiet=True),
            save_final=False,
            **{name: value for name, value in rates.items() if name not in of_plan},
        )
        return result.model

    def _result(
        self, stream: StreamConfig, orders: list[list[str]], runs: list[tuple[list[Values], Values]]
    ) -> Stream:
        measures = list(runs[0][1])
        pairs = list(zip(orders, runs, strict=True))
        return Stream(
            stream.name,
            {k: v for k, v in dataclasses.asdict(stream).items() if k != "name"},
            orders,
            {m: [_columns(rows, m, order) for order, (rows, _) in pairs] for m in measures},
            {m: [_columns([alone], m, order)[0] for order, (_, alone) in pairs] for m in measures},
        )


def _columns(rows: Sequence[Values], measure: str, order: Sequence[str]) -> list[list[float]]:
    """The rows of a matrix, columns in the order of training."""
    return [[row[measure][name] for name in order] for row in rows]


def _at(config: ModelConfig, folder: Path) -> ModelConfig:
    """A model loaded as another, from a folder that holds its weights and tokenizer."""
    return dataclasses.replace(
        config,
        path=str(folder),
        init="pretrained",
        tokenizer=None,
        chat_template=None,
        revision=None,
    )


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.=-]+", "-", name)
