"""Rewards that trained models give: scores of whole completions or of steps, of one or several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from posttrain.data.forest import TokenSequence
from posttrain.data.scored import encode_completions
from posttrain.data.steps import PieceTexts, scored_places
from posttrain.errors import ConfigError
from posttrain.models.load import load_score_model, score_level
from posttrain.models.score_model import ScoreModel
from posttrain.registry import rewards
from posttrain.rewards.reward import LoadedModels, made_by
from posttrain.types import Text

Numbers = NDArray[np.float64]
MAX_TOKENS = 8192  # of a forward pass

Level = Literal["sequence", "token"]
Aggregation = Literal["last", "min", "prod", "mean"]
Ensemble = Literal["mean", "min", "uncertainty"]


class RewardModel:
    """Prompts and completions in, one number each out; every prompt is computed once for its
    completions.

    A model with a score for a whole sequence gives its raw score at the last token. One with a
    score at every token gives probabilities p_t = 1 / (1 + e^-score) of its steps, aggregated:
    last, min, prod or mean; a single step where separator is None. Completions are taken as ended.
    One that the model's context cannot hold has no score (NaN).
    """

    def __init__(
        self,
        model: ScoreModel,
        *,
        level: Level,
        aggregation: Aggregation = "last",
        separator: str | None = "\n",
    ) -> None:
        self.model, self.level, self.aggregation = model, level, aggregation
        self.separator = separator if level == "token" else None

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text]) -> list[float]:
        """One number per completion."""
        return [self._aggregated(x) for x in self.scores(prompts, completions)]

    def scores(self, prompts: Sequence[Text], completions: Sequence[Text]) -> list[Numbers]:
        """Raw scores: of a completion, or of each of its steps."""
        texts = PieceTexts(self.model.tokenizer)
        sequences = encode_completions(prompts, completions, self.model.tokenizer)
        for s in sequences:
            s.loss_mask = np.isin(np.arange(len(s.ids)), scored_places(s, self.separator, texts))
        limit = self.model.context_length
        trees = []
        for tree in prompt_trees(prompts, sequences):
            fitting = [s for s in tree if limit is None or len(s.ids) <= limit]
            if fitting:
                trees.append(fitting)
        by_row: dict[str, Numbers] = {}
        for tree, scores in zip(trees, self.model.score(trees, MAX_TOKENS), strict=True):
            by_row |= {s.row: x for s, x in zip(tree, scores, strict=True)}
        return [by_row.get(s.row, np.array([math.nan])) for s in sequences]

    def _aggregated(self, scores: Numbers) -> float:
        if self.level == "sequence":
            return float(scores[-1])
        p = np.exp(-np.logaddexp(0, -scores))
        return float(
            {"last": p[-1], "min": p.min(), "prod": p.prod(), "mean": p.mean()}[self.aggregation]
        )


class _ScoreModels:
    """Score models by place or as objects, loaded at their first use."""

    def __init__(
        self, reward: str, models: LoadedModels, path: Any, model: Any, device: str
    ) -> None:
        self.reward, self.models, self.device = reward, models, device
        self.places: list[str] = [path] if isinstance(path, str) else list(path or ())
        objects = model if isinstance(model, list | tuple) else [model]
        self.objects = [m for m in objects if m is not None]

    def check(self) -> None:
        """Refuse places and objects that give no score, without reading weights."""
        if bool(self.places) == bool(self.objects):
            raise ConfigError(
                f"rewards: {self.reward}: set path to at least one folder or hub id, or model to a "
                "loaded ScoreModel, and not both"
            )
        for model in self.objects:
            if not isinstance(model, ScoreModel):
                raise ConfigError(
                    f"rewards: {self.reward}: model is {type(model).__name__}; it must be a loaded "
                    "ScoreModel. A folder or hub id is the setting path"
                )
        for place in self.places:
            score_level(place)

    def __call__(self) -> list[tuple[ScoreModel, Level]]:
        self.check()
        models = [(m, level_of(m)) for m in self.objects]
        for place in self.places:
            level = score_level(place)
            key = ("score", place, self.device)
            models.append((self.models.get(key, self._loader(place, level)), level))
        return models

    def _loader(self, place: str, level: Level) -> Any:
        def load() -> ScoreModel:
            model = load_score_model(place, per=level, device=self.device)
            model.hf.requires_grad_(False)
            return model

        return load


def level_of(model: ScoreModel) -> Level:
    """Whether a loaded model has one score per sequence or one per token."""
    per_token = type(model.pretrained).__name__.endswith("TokenClassification")
    return "token" if per_token else "sequence"


class ModelReward:
    """The reward `reward_model` with its settings: a `Reward` that holds its models."""

    def __init__(
        self,
        models: LoadedModels,
        *,
        path: str | list[str] | None = None,
        model: Any = None,
        aggregation: Aggregation = "last",
        step_separator: str = "\n",
        ensemble: Ensemble = "mean",
        uncertainty_weight: float = 1.0,
        device: str = "auto",
    ) -> None:
        self.models = _ScoreModels("reward_model", models, path, model, device)
        self.aggregation, self.separator = aggregation, step_separator
        self.ensemble, self.uncertainty_weight = ensemble, uncertainty_weight
        self._spread = (0.0, 0)

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text]) -> list[float]:
        """One number per completion."""
        rows = []
        for model, level in self.models():
            score = RewardModel(
                model, level=level, aggregation=self.aggregation, separator=self.separator
            )
            rows.append(score(prompts, completions))
        table = np.array(rows)
        if len(table) > 1:
            finite = [float(x) for x in table.std(axis=0) if math.isfinite(x)]
            total, count = self._spread
            self._spread = (total + math.fsum(finite), count + len(finite))
        return [float(x) for x in combined(table, self.ensemble, self.uncertainty_weight)]

    def take_spread(self) -> tuple[float, int]:
        """Sum over completions of the standard deviation of the models' scores, and the number of
        completions, since the last call; (0, 0) of one model.
        """
        taken, self._spread = self._spread, (0.0, 0)
        return taken

    def check(self) -> None:
        """See `Reward.check`."""
        self.models.check()

    def close(self) -> None:
        """Nothing: the models belong to the set of rewards, or to the caller."""


class ProcessReward:
    """The reward `process_model` with its settings: a `Reward` that holds its model."""

    def __init__(
        self,
        models: LoadedModels,
        *,
        path: str | None = None,
        model: Any = None,
        device: str = "auto",
    ) -> None:
        self.models = _ScoreModels("process_model", models, path, model, device)

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text]
    ) -> list[list[float] | None]:
        """One number per step of each completion; None where the context cannot hold it."""
        self.check()
        ((model, level),) = self.models()
        all_scores = RewardModel(model, level=level).scores(prompts, completions)
        steps: list[list[float] | None] = []
        for text, scores in zip(completions, all_scores, strict=True):
            content = text if isinstance(text, str) else str(text[-1]["content"])
            if np.isnan(scores).any():
                steps.append(None)
            else:
                probabilities = np.exp(-np.logaddexp(0, -scores))
                steps.append(probabilities.tolist() if content.strip() else [])
        return steps

    def check(self) -> None:
        """See `Reward.check`."""
        self.models.check()
        names: list[tuple[str, Level]] = [(p, score_level(p)) for p in self.models.places]
        names += [("model", level_of(m)) for m in self.models.objects]
        if len(names) > 1:
            raise ConfigError("rewards: process_model: name one model, not several")
        if names[0][1] != "token":
            raise ConfigError(
                f"rewards: process_model: {names[0][0]} has one score for a whole sequence; name a "
                "process model, which has a score at every token, or take the reward reward_model"
            )

    def close(self) -> None:
        """Nothing: the model belongs to the set of rewards, or to the caller."""


@rewards.register
@made_by(ModelReward)
def reward_model(
    prompts,
    completions,
    *,
    path: str | list[str] | None = None,
    model: Any = None,
    aggregation: Literal["last", "min", "prod", "mean"] = "last",
    step_separator: str = "\n",
    ensemble: Literal["mean", "min", "uncertainty"] = "mean",
    uncertainty_weight: float = 1.0,
    device: str = "auto",
) -> list[float]:
    """The score of a trained reward model, outcome model or process model; of several, combined.

    A score of a whole sequence is given as it is. Scores of steps become the probability that the
    steps are right, aggregated: last (of the final step, arXiv 2408.03314), min, prod (arXiv
    2305.20050) or mean.

    path: a folder or hub id that transformers loads for sequence or token classification with one
    label; or several. model: a loaded ScoreModel in its place, or several (in Python).
    step_separator: what ends a step. ensemble, of several models: mean, min (worst case), or
    uncertainty: mean - uncertainty_weight * standard deviation (arXiv 2310.02743); the latter two
    are harder to exploit.

    Called by hand with `path`, the function loads the models at each call.
    """
    reward = ModelReward(
        LoadedModels(),
        path=path,
        model=model,
        aggregation=aggregation,
        step_separator=step_separator,
        ensemble=ensemble,
        uncertainty_weight=uncertainty_weight,
        device=device,
    )
    return reward(prompts, completions)


@rewards.register(per="step")
@made_by(ProcessReward)
def process_model(
    prompts,
    completions,
    *,
    path: str | None = None,
    model: Any = None,
    device: str = "auto",
) -> list[list[float] | None]:
    """The probability that each step is right, by a trained process reward model (arXiv
    2305.20050).

    p_t = 1 / (1 + e^-score) at the last token of each step, one number per line that is not blank:
    what advantages of steps, such as group_process and reward_to_go, read (reward_model aggregates
    them to one number). A completion that the model's context cannot hold has no reward.

    path: a folder or hub id that transformers loads for token classification with one label, such
    as the result of method reward_model on step labels, which ends steps at line breaks too.
    model: a loaded ScoreModel in its place (in Python).
    """
    return ProcessReward(LoadedModels(), path=path, model=model, device=device)(
        prompts, completions
    )


def combined(table: Numbers, ensemble: Ensemble, uncertainty_weight: float = 1.0) -> Numbers:
    """Scores of several models, [models, completions] -> [completions]."""
    if ensemble == "min":
        return np.asarray(table.min(axis=0))
    mean = np.asarray(table.mean(axis=0))
    return mean if ensemble == "mean" else mean - uncertainty_weight * table.std(axis=0)


def prompt_trees(
    prompts: Sequence[Text], sequences: Sequence[TokenSequence]
) -> list[list[TokenSequence]]:
    """Sequences grouped by prompt, where equal prompts stand side by side."""
    trees: list[list[TokenSequence]] = []
    for number, sequence in enumerate(sequences):
        if number and prompts[number] == prompts[number - 1]:
            trees[-1].append(sequence)
        else:
            trees.append([sequence])
    return trees
