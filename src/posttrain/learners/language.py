"""Learn to complete prompts: by fine-tuning (people, gold, or a teacher: distillation), or by rows
in the prompt.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from posttrain.config import SamplingConfig
from posttrain.data.templates import encode_prompt
from posttrain.errors import ConfigError, DataError
from posttrain.labellers.base import Row
from posttrain.learners.base import Learner
from posttrain.learners.streams import Streams
from posttrain.methods.fit import fit
from posttrain.methods.measurement import measuring_of
from posttrain.methods.objects import TaskLike, task_of
from posttrain.methods.prompts import sampling_of
from posttrain.methods.sft import sft
from posttrain.models.language_model import LanguageModel
from posttrain.models.named import NamedModel
from posttrain.models.spec import ModelSpec
from posttrain.types import Example, Task

OF_FIT = ("steps", "max_grad_norm", "weight_decay", "warmup_steps", "max_tokens_per_micro_batch")
"""Settings of a round's training that are those of `fit`; the others are of the method."""

EVALUATION_SEED = 1234


class LanguageLearner(Learner):
    """Rows of prompt and completion.

    Args:
        spec: a folder or hub id; each round begins at its weights.
        eval_task: held-out problems. task: what the pool was made from, where it was made from one.
        training: settings of `pt.sft`, and steps.
        num_examples: held-out problems. num_samples: completions per prompt that selectors read.
    """

    column = "completion"

    def __init__(
        self,
        spec: ModelSpec,
        eval_task: TaskLike,
        *,
        task: TaskLike | None = None,
        training: Mapping[str, Any] | None = None,
        num_examples: int = 100,
        num_samples: int = 4,
    ) -> None:
        if not isinstance(spec, NamedModel):
            raise ConfigError(
                "model: each round begins at the weights of the start, so active learning takes a "
                "folder or hub id, and not a model in memory"
            )
        self.spec, self.eval_task = spec, task_of(eval_task)
        self.task: Task | None = None if task is None else task_of(task)
        self.training, self.num_examples = dict(training or {}), num_examples
        self.num_samples = num_samples
        self.model: LanguageModel | None = None
        self._console = Console(quiet=True)
        self.carries = Streams.CARRIES | ({"grades"} if self.task is not None else frozenset())
        self._check_training()

    def _check_training(self) -> None:
        self._plan([{"prompt": "a", "completion": "b"}])

    def check(self, pool: Sequence[Row]) -> None:
        """Refuse rows without a prompt."""
        for row in pool:
            if not row.get("prompt"):
                raise DataError(
                    f"active: row {row['id']} has no prompt ({sorted(row)}); a pool of this use is "
                    "rows of prompt, with completion where the oracle labels"
                )
            encode_prompt(self.spec.tokenizer, row["prompt"])

    def _plan(self, rows: Sequence[Row]) -> Any:
        own = {k: v for k, v in self.training.items() if k not in OF_FIT}
        data = [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows]
        return sft(data, **own)

    def restart(self) -> None:
        self.model = None

    def train(self, rows: Sequence[Row], seed: int) -> None:
        """Fine-tune the model of the start."""
        settings = {k: v for k, v in self.training.items() if k in OF_FIT and k != "steps"}
        result = fit(
            self.spec,
            self._plan(rows),
            steps=self.training.get("steps"),
            seed=seed,
            console=self._console,
            **settings,
        )
        self.model = result.model

    def _current(self) -> LanguageModel:
        if self.model is None:
            self.model = self.spec.load()
        return self.model

    def _streams(self, seed: int) -> Streams:
        sampling = sampling_of(SamplingConfig(), self.eval_task)
        return Streams(self._current(), sampling, self.num_samples, seed)

    def inputs(
        self,
        names: Collection[str],
        candidates: Sequence[Row],
        labelled: Sequence[Row],
        seed: int,
    ) -> dict[str, Any]:
        """Numbers of the model as it is."""
        streams, made = self._streams(seed), {}
        for name in names:
            if name == "grades":
                made[name] = self._grades(streams, candidates)
            elif name == "answers":
                made[name] = [
                    [self.eval_task.extract(text) or text for text in texts]
                    for texts in streams.samples(candidates)
                ]
            elif name == "target_gradients":
                made[name] = streams.gradients(self._targets())
            elif name == "labelled_embeddings":
                made[name] = streams.embeddings(labelled)
            else:
                made[name] = getattr(streams, name)(candidates)
        return made

    def _targets(self) -> list[Row]:
        """Worked examples of the held-out task's other problems: what gradients should point to."""
        examples = self.eval_task.examples[self.num_examples :][:16]
        rows = [{"prompt": e.prompt, "completion": e.completion} for e in examples if e.completion]
        if not rows:
            raise DataError(
                "selector less: eval_task has no worked example behind the first num_examples "
                f"({self.num_examples}), which are held out; lower num_examples"
            )
        return rows

    def _grades(self, streams: Streams, candidates: Sequence[Row]) -> Any:
        assert self.task is not None
        examples = {example.id: example for example in self.task.examples}
        return np.array(
            [
                [self.task.score(text, examples[row["id"]]) for text in texts]
                for row, texts in zip(candidates, streams.samples(candidates), strict=True)
            ]
        )

    def outcomes(self) -> list[float]:
        """The verdict on each held-out problem."""
        measuring = measuring_of(
            self.spec,
            self._asked(),
            num_examples=self.num_examples,
            seed=EVALUATION_SEED,
            console=None,
        )
        try:
            evaluation = measuring.of(self._current())
        finally:
            measuring.close()
        return [float(np.mean(outcome.correct)) for outcome in evaluation.outcomes]

    def _asked(self) -> Task:
        return self.eval_task

    def embed(self, rows: Sequence[Row]) -> Any:
        return self._streams(0).embeddings(rows)

    def save(self, folder: Path) -> None:
        if self.model is not None:
            self.model.save(folder)


class DemonstrationLearner(LanguageLearner):
    """Rows of prompt and completion that stand before each held-out problem; nothing is trained.

    All labelled rows are shown, in the order in which they were labelled. `training` may set
    separator, which stands between a prompt and the next.
    """

    def _check_training(self) -> None:
        for name in self.training:
            if name != "separator":
                raise ConfigError(
                    f"training: {name!r} is not read by use 'demonstrations', which trains "
                    "nothing; separator is"
                )
        self.shown: list[Row] = []

    def restart(self) -> None:
        self.shown = []

    def train(self, rows: Sequence[Row], seed: int) -> None:
        self.shown = list(rows)

    def _asked(self) -> Task:
        examples = [
            dataclasses.replace(example, prompt=self._with_demonstrations(example))
            for example in self.eval_task.examples
        ]
        return dataclasses.replace(self.eval_task, examples=examples)

    def _with_demonstrations(self, example: Example) -> Any:
        if isinstance(example.prompt, str):
            end = self.training.get("separator", "\n")
            before = [f"{row['prompt']}{row['completion']}{end}" for row in self.shown]
            return "".join([*before, example.prompt])
        turns: list[Any] = []
        for row in self.shown:
            own = row["prompt"]
            turns += [{"role": "user", "content": own}] if isinstance(own, str) else own
            turns.append({"role": "assistant", "content": row["completion"]})
        return [*turns, *example.prompt]

    def save(self, folder: Path) -> None:
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in self.shown)
        (folder / "demonstrations.jsonl").write_text(text, encoding="utf-8")
