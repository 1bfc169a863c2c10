"""The forgetting ledger of a training: old abilities before and after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from posttrain.config import Limits
from posttrain.data.account import Account
from posttrain.data.encoded import Encoded
from posttrain.data.training_data import encode_stream
from posttrain.errors import ConfigError
from posttrain.evaluation.divergence import divergence
from posttrain.evaluation.forgetting import Change, Divergence, Forgetting
from posttrain.evaluation.suites import graded_change, likelihood_change
from posttrain.methods.measurement import Measuring, SamplingLike, measuring_of
from posttrain.methods.objects import ModelLike, Rows, TaskLike, data_of, task_of
from posttrain.model_config import model_name
from posttrain.models.language_model import LanguageModel
from posttrain.models.scoring import scored
from posttrain.models.spec import ModelSpec, model_spec
from posttrain.types import Task

_MAX_TOKENS = 2048  # distinct tokens of a forward pass over rows


def forgetting(
    before: ModelLike,
    after: ModelLike,
    *,
    old: Sequence[TaskLike] = (),
    rows: Mapping[str, Rows] | None = None,
    new: TaskLike | None = None,
    num_examples: int = 200,
    num_samples: int = 1,
    sampling: SamplingLike = None,
    num_prompts: int = 64,
    seed: int = 1234,
    limits: Limits = Limits(),
    console: Console | None = None,
    output: str | Path | None = None,
) -> Forgetting:
    """Measure what a training made a model forget, item by item.

        ledger = pt.forgetting("embedded", "runs/grpo", old=["sorting"], new="arithmetic")
        print(ledger)

    Args:
        before, after: the model that the training started from, and the trained one.
        old: tasks of old abilities: skills, refusals, instructions.
        rows: rows of old abilities by name, whose negative log-likelihood is measured: a text
            corpus, dialogues, or prompts with completions.
        new: the task that was trained for. Its accuracy is measured too, and the KL divergence on
            its prompts, which predicts forgetting.
        num_examples: the first so many problems of each task, and rows of each corpus.
        num_samples: completions of each problem.
        sampling: of the completions; None is temperature 1 with the task's length.
        num_prompts: of the new task, for the divergence; 0 = it is not measured.
        seed: of the samples, the same for both models.
        limits: how much may fail or be dropped.
        console: where progress is shown; None shows none.
        output: a folder or file for the ledger (forgetting.json).

    Raises:
        ConfigError, DataError: what cannot be measured, before any weights are loaded.
    """
    if not old and not rows:
        raise ConfigError(
            "forgetting: there is no old ability; give tasks (old=) or rows (rows=) of at least one"
        )
    first, last = model_spec(before), model_spec(after)
    options: dict[str, Any] = {
        "num_examples": num_examples,
        "num_samples": num_samples,
        "sampling": sampling,
        "seed": seed,
        "limits": limits,
        "console": console,
    }
    suites = _Suites(first, last, [task_of(t) for t in old], rows or {}, new, options)
    models = first.load(), last.load()
    result = Forgetting(
        model_name(str(first.place)),
        model_name(str(last.place)),
        [*suites.graded(models), *suites.likelihoods(models)],
        suites.trained_for(models),
        suites.divergence(models, num_prompts, seed) if num_prompts else None,
    )
    if output is not None:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        result.save(output)
    return result


Models = tuple[LanguageModel, LanguageModel]


class _Suites:
    """All suites, prepared for both models before weights are loaded."""

    def __init__(
        self,
        before: ModelSpec,
        after: ModelSpec,
        old: Sequence[Task],
        rows: Mapping[str, Rows],
        new: TaskLike | None,
        options: dict[str, Any],
    ) -> None:
        specs = before, after
        self._refuse_twice([task.name for task in old] + list(rows))
        self.old = [_measurings(specs, task, options) for task in old]
        self.new = _measurings(specs, task_of(new), options) if new is not None else None
        self.rows = {
            name: [_rows(spec, data, name, options["num_examples"]) for spec in specs]
            for name, data in rows.items()
        }

    @staticmethod
    def _refuse_twice(names: Sequence[str]) -> None:
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(
                    f"forgetting: two suites are called {name!r}; give each a name of its own"
                )

    def graded(self, models: Models) -> list[Change]:
        """Tasks of old abilities."""
        return [_graded(measurings, models) for measurings in self.old]

    def trained_for(self, models: Models) -> list[Change]:
        """The new task, if there is one."""
        return [] if self.new is None else [_graded(self.new, models)]

    def likelihoods(self, models: Models) -> list[Change]:
        """Rows of old abilities."""
        changes = []
        for name, encoded in self.rows.items():
            first, sizes = _likelihoods(models[0], encoded[0])
            last, others = _likelihoods(models[1], encoded[1])
            if sizes != others:
                raise ConfigError(
                    f"forgetting: the models' tokenizers cut rows {name!r} into {sum(sizes)} and "
                    f"{sum(others)} tokens; nats per token compare models of one tokenizer"
                )
            changes.append(likelihood_change(name, first, last, sizes))
        return changes

    def divergence(self, models: Models, num_prompts: int, seed: int) -> Divergence | None:
        """On the first prompts of the new task; None without one."""
        if self.new is None:
            return None
        measurement = self.new[0].measurement
        prompts = [ids for _, ids in measurement.problems.fitting[:num_prompts]]
        return divergence(*models, prompts, measurement.sampling, seed=seed)


def _measurings(
    specs: tuple[ModelSpec, ModelSpec], task: Task, options: dict[str, Any]
) -> list[Measuring]:
    return [measuring_of(spec, task, **options) for spec in specs]


def _graded(measurings: list[Measuring], models: Models) -> Change:
    before, after = (m.of(model) for m, model in zip(measurings, models, strict=True))
    return graded_change(before, after)


def _rows(spec: ModelSpec, data: Rows, name: str, number: int) -> Encoded:
    config = data_of(data)
    if config.limit is None:
        config = replace(config, limit=number)
    return encode_stream(
        config, spec.tokenizer, spec.context_length(), account=Account(), key=f"rows.{name}"
    )


def _likelihoods(model: LanguageModel, encoded: Encoded) -> tuple[list[float], list[int]]:
    """Negative log-likelihood and number of targets of each row, in the order of the rows."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for sequence in encoded.sequences:  # the parts of a long document are one item
        sums.setdefault(sequence.row, 0.0)
        counts[sequence.row] = counts.get(sequence.row, 0) + int(sequence.loss_mask.sum())
    groups = [[sequence] for sequence in encoded.sequences]
    for sequence, values in scored(model, groups, ("logprobs",), max_tokens=_MAX_TOKENS):
        sums[sequence.row] -= float(np.sum(values["logprobs"], dtype=np.float64))
    return list(sums.values()), list(counts.values())
