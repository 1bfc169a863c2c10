"""Rewards that a model gives: trained scores, alone or several together, and those that a
policy implies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.data.scored import PieceTexts, encode_completions, scored_places
from posttrain.errors import ConfigError
from posttrain.models.forest_model import ForestModel, evaluating
from posttrain.models.language_model import LanguageModel
from posttrain.models.load import load_config, load_model, load_score_model, score_level
from posttrain.models.score_model import ScoreModel
from posttrain.registry import rewards
from posttrain.types import Text

Numbers = NDArray[np.float64]
MAX_TOKENS = 8192  # of a forward pass

_loaded: dict[tuple[str, ...], Any] = {}


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
        level: Literal["sequence", "token"],
        aggregation: Literal["last", "min", "prod", "mean"] = "last",
        separator: str | None = "\n",
    ) -> None:
        self.model, self.level, self.aggregation = model, level, aggregation
        self.separator = separator if level == "token" else None

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text]) -> list[float]:
        """One number a completion."""
        return [self._aggregated(x) for x in self.scores(prompts, completions)]

    def scores(self, prompts: Sequence[Text], completions: Sequence[Text]) -> list[Numbers]:
        """Raw scores: of a completion, or of each of its steps."""
        texts = PieceTexts(self.model.tokenizer)
        sequences = encode_completions(prompts, completions, self.model.tokenizer)
        for s in sequences:
            s.loss_mask = np.isin(np.arange(len(s.ids)), scored_places(s, self.separator, texts))
        limit = self.model.context_length
        kept = [
            [s for s in tree if limit is None or len(s.ids) <= limit]
            for tree in _trees(prompts, sequences)
        ]
        kept = [tree for tree in kept if tree]
        found = dict(
            zip(
                (s.row for tree in kept for s in tree),
                (x for tree in self.model.score(kept, MAX_TOKENS) for x in tree),
                strict=True,
            )
        )
        return [found.get(s.row, np.array([math.nan])) for s in sequences]

    def _aggregated(self, scores: Numbers) -> float:
        if self.level == "sequence":
            return float(scores[-1])
        p = np.exp(-np.logaddexp(0, -scores))
        return float(
            {"last": p[-1], "min": p.min(), "prod": p.prod(), "mean": p.mean()}[self.aggregation]
        )


@rewards.register
def reward_model(
    prompts,
    completions,
    *,
    path: str | list[str],
    aggregation: Literal["last", "min", "prod", "mean"] = "last",
    step_separator: str = "\n",
    ensemble: Literal["mean", "min", "uncertainty"] = "mean",
    uncertainty_weight: float = 1.0,
    device: str = "auto",
) -> list[float]:
    """The score of a trained reward model, outcome model or process model; of several, what they
    agree on.

    path: a folder or hub id that transformers loads for sequence or token classification with one
    label; or several. A score of a whole sequence is given as it is; of steps the probability that
    they are right, aggregated: last (of the final step, arXiv 2408.03314), min, prod (arXiv
    2305.20050) or mean. step_separator: what ends a step. Several models: mean, min (worst case),
    or uncertainty: mean - uncertainty_weight * standard deviation (arXiv 2310.02743), which are
    harder to exploit.
    """
    models = [_score_model(p, device) for p in _listed(path)]
    table = np.array(
        [
            RewardModel(m, level=level, aggregation=aggregation, separator=step_separator)(
                prompts, completions
            )
            for m, level in models
        ]
    )
    return [float(x) for x in combined(table, ensemble, uncertainty_weight)]


def combined(
    table: Numbers, ensemble: Literal["mean", "min", "uncertainty"], uncertainty_weight: float = 1.0
) -> Numbers:
    """Scores of several models, [models, completions] -> [completions]."""
    if ensemble == "min":
        return np.asarray(table.min(axis=0))
    mean = np.asarray(table.mean(axis=0))
    return mean if ensemble == "mean" else mean - uncertainty_weight * table.std(axis=0)


def _check_models(*, path: str | list[str], **_: Any) -> None:
    """What can be told of reward models before their weights are read."""
    if not _listed(path):
        raise ConfigError(
            "rewards: reward_model: path is an empty list; name at least one folder or hub id"
        )
    for place in _listed(path):
        score_level(place)


@rewards.register(per="step")
def process_model(
    prompts,
    completions,
    *,
    path: str,
    device: str = "auto",
) -> list[list[float] | None]:
    """The probability that each step is right, by a trained process reward model (arXiv
    2305.20050).

    p_t = 1 / (1 + e^-score) at the last token of each step, one number per line that is not blank:
    what advantages of steps, such as group_process and reward_to_go, read (reward_model aggregates
    them to one number). A completion that the model's context cannot hold has no reward. path: a
    folder or hub id that transformers loads for token classification with one label, such as the
    result of method reward_model on step labels, which ends steps at line breaks too.
    """
    model, level = _score_model(path, device)
    steps: list[list[float] | None] = []
    for text, scores in zip(
        completions, RewardModel(model, level=level).scores(prompts, completions), strict=True
    ):
        content = text if isinstance(text, str) else str(text[-1]["content"])
        if np.isnan(scores).any():
            steps.append(None)
        else:
            probabilities = np.exp(-np.logaddexp(0, -scores))
            steps.append(probabilities.tolist() if content.strip() else [])
    return steps


def _check_process_model(*, path: str, **_: Any) -> None:
    if score_level(path) != "token":
        raise ConfigError(
            f"rewards: process_model: {path} has one score for a whole sequence; name a process "
            "model, which has a "
            "score at every token, or take the reward reward_model"
        )


@rewards.register
def implicit_reward(
    prompts,
    completions,
    *,
    path: str,
    ref_path: str,
    beta: float = 0.1,
    aggregation: Literal["sum", "last", "min", "mean"] = "sum",
    step_separator: str = "\n",
    device: str = "auto",
) -> list[float]:
    """The reward that a policy implies over its reference: beta log pi(y | x) / ref(y | x) (arXiv
    2305.18290).

    The policy may be one trained with DPO, or on outcomes alone, which makes it a process model too
    (arXiv 2412.01981): with q_t = sum_{i <= t} beta log pi / ref, a step's reward is q at its end
    minus q at its start. aggregation: sum of the steps (the whole completion's reward), last, min
    or mean. path, ref_path: language models with one vocabulary.
    """
    steps = implicit_step_rewards(
        _language_model(path, device),
        _language_model(ref_path, device),
        prompts,
        completions,
        beta=beta,
        separator=step_separator,
    )
    choose: dict[str, Callable[[Numbers], Any]] = {
        "sum": np.sum,
        "last": lambda x: x[-1],
        "min": np.min,
        "mean": np.mean,
    }
    return [float(choose[aggregation](x)) for x in steps]


def implicit_step_rewards(
    policy: LanguageModel,
    reference: LanguageModel,
    prompts: Sequence[Text],
    completions: Sequence[Text],
    *,
    beta: float,
    separator: str,
) -> list[Numbers]:
    """q_t - q_{t-1} of each step of each completion, which sum to beta log pi(y | x) / ref(y | x),
    nats.

    A completion that the context of either model cannot hold has one step, NaN.
    """
    texts = PieceTexts(policy.tokenizer)
    sequences = encode_completions(prompts, completions, policy.tokenizer)
    limit = min(
        (m.context_length for m in (policy, reference) if m.context_length is not None),
        default=math.inf,
    )
    trees = [[s for s in tree if len(s.ids) <= limit] for tree in _trees(prompts, sequences)]
    trees = [tree for tree in trees if tree]
    ours, theirs = (_logprobs(model, trees) for model in (policy, reference))
    found = []
    for sequence in sequences:
        if sequence.row not in ours:
            found.append(np.array([math.nan]))
            continue
        a, b = ours[sequence.row], theirs[sequence.row]
        q = np.concatenate([[0.0], beta * np.cumsum(a - b)])
        tokens = np.flatnonzero(sequence.loss_mask)
        ends = np.searchsorted(tokens, scored_places(sequence, separator, texts), side="right")
        ends[-1] = len(tokens)  # what follows the last step, such as EOS, is its own
        found.append(np.diff(q[[0, *ends]]))
    return found


def _check_policy(*, path: str, ref_path: str, **_: Any) -> None:
    vocabularies = [
        load_config(p).get_text_config(decoder=True).vocab_size for p in (path, ref_path)
    ]
    if vocabularies[0] != vocabularies[1]:
        raise ConfigError(
            f"rewards: implicit_reward: {path} has {vocabularies[0]} tokens and {ref_path} "
            f"{vocabularies[1]}; a policy and its "
            "reference have one vocabulary"
        )


reward_model.check = _check_models  # type: ignore[attr-defined]
reward_model.close = _loaded.clear  # type: ignore[attr-defined]
process_model.check = _check_process_model  # type: ignore[attr-defined]
process_model.close = _loaded.clear  # type: ignore[attr-defined]
implicit_reward.check = _check_policy  # type: ignore[attr-defined]
implicit_reward.close = _loaded.clear  # type: ignore[attr-defined]


def _listed(path: str | list[str]) -> list[str]:
    return [path] if isinstance(path, str) else list(path)


def _score_model(path: str, device: str) -> tuple[ScoreModel, Literal["sequence", "token"]]:
    level = score_level(path)
    return _kept(
        ("score", path, device), lambda: load_score_model(path, per=level, device=device)
    ), level


def _language_model(path: str, device: str) -> LanguageModel:
    found: LanguageModel = _kept(
        ("language", path, device), lambda: load_model(path, device=device)
    )
    return found


def _kept(key: tuple[str, ...], load: Callable[[], ForestModel]) -> Any:
    """A model that is loaded once, at its first use, and frozen."""
    if key not in _loaded:
        _loaded[key] = load()
        _loaded[key].hf.requires_grad_(False)
    return _loaded[key]


def _trees(
    prompts: Sequence[Text], sequences: Sequence[TokenSequence]
) -> list[list[TokenSequence]]:
    """Sequences of equal prompts that stand side by side, together."""
    trees: list[list[TokenSequence]] = []
    for number, sequence in enumerate(sequences):
        if number and prompts[number] == prompts[number - 1]:
            trees[-1].append(sequence)
        else:
            trees.append([sequence])
    return trees


def _logprobs(model: LanguageModel, trees: Sequence[Sequence[TokenSequence]]) -> dict[str, Numbers]:
    """Log-probs of the targets of each sequence, by its row."""
    found: dict[str, Numbers] = {}
    if not trees:
        return found
    with evaluating(model.hf), torch.no_grad():
        for forest in Batch([Tree.build(tree) for tree in trees]).split(MAX_TOKENS):
            logprobs = model.forward(forest, frozenset({"logprobs"}))["logprobs"].double().cpu()
            counts = torch.bincount(forest.sequence, minlength=forest.num_sequences).tolist()
            found |= {
                row: part.numpy()
                for row, part in zip(forest.rows, logprobs.split(counts), strict=True)
            }
    return found
