"""The reward that a policy implies over its reference."""

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
from posttrain.models.forest_model import evaluating
from posttrain.models.language_model import LanguageModel
from posttrain.models.load import load_config, load_model
from posttrain.registry import rewards
from posttrain.rewards.model import MAX_TOKENS, prompt_trees
from posttrain.rewards.reward import LoadedModels, made_by
from posttrain.types import Text

Numbers = NDArray[np.float64]

_CHOICES: dict[str, Callable[[Numbers], Any]] = {
    "sum": np.sum,
    "last": lambda x: x[-1],
    "min": np.min,
    "mean": np.mean,
}


class ImplicitReward:
    """The reward `implicit_reward` with its settings: a `Reward` that holds its two models."""

    def __init__(
        self,
        models: LoadedModels,
        *,
        path: str | None = None,
        ref_path: str | None = None,
        model: Any = None,
        ref_model: Any = None,
        beta: float = 0.1,
        aggregation: Literal["sum", "last", "min", "mean"] = "sum",
        step_separator: str = "\n",
        device: str = "auto",
    ) -> None:
        self.models, self.device = models, device
        self.policy, self.reference = (path, model), (ref_path, ref_model)
        self.beta, self.aggregation, self.separator = beta, aggregation, step_separator

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text]) -> list[float]:
        """One number per completion, nats times beta."""
        self._check_sources()
        steps = implicit_step_rewards(
            self._model(*self.policy),
            self._model(*self.reference),
            prompts,
            completions,
            beta=self.beta,
            separator=self.separator,
        )
        return [float(_CHOICES[self.aggregation](x)) for x in steps]

    def check(self) -> None:
        """See `Reward.check`: two language models with one vocabulary."""
        self._check_sources()
        sizes = []
        for path, model in (self.policy, self.reference):
            config = load_config(str(path)) if model is None else model.config
            sizes.append(config.get_text_config(decoder=True).vocab_size)
        if sizes[0] != sizes[1]:
            names = [path or "model" for path, _ in (self.policy, self.reference)]
            raise ConfigError(
                f"rewards: implicit_reward: {names[0]} has {sizes[0]} tokens and {names[1]} "
                f"{sizes[1]}; a policy and its reference have one vocabulary"
            )

    def close(self) -> None:
        """Nothing: the models belong to the set of rewards, or to the caller."""

    def _check_sources(self) -> None:
        for names, (path, model) in (
            (("path", "model"), self.policy),
            (("ref_path", "ref_model"), self.reference),
        ):
            if (path is None) == (model is None):
                raise ConfigError(
                    f"rewards: implicit_reward: set {names[0]} to a folder or hub id, or "
                    f"{names[1]} to a loaded LanguageModel, and not both"
                )
            if model is not None and not isinstance(model, LanguageModel):
                raise ConfigError(
                    f"rewards: implicit_reward: {names[1]} is {type(model).__name__}; it must be a "
                    f"loaded LanguageModel. A folder or hub id is the setting {names[0]}"
                )

    def _model(self, path: str | None, model: LanguageModel | None) -> LanguageModel:
        if model is not None:
            return model

        def load() -> LanguageModel:
            loaded = load_model(str(path), device=self.device)
            loaded.hf.requires_grad_(False)
            return loaded

        shared: LanguageModel = self.models.get(("language", str(path), self.device), load)
        return shared


@rewards.register
@made_by(ImplicitReward)
def implicit_reward(
    prompts,
    completions,
    *,
    path: str | None = None,
    ref_path: str | None = None,
    model: Any = None,
    ref_model: Any = None,
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
    or mean.

    path, ref_path: folders or hub ids of language models with one vocabulary. model, ref_model:
    loaded LanguageModels in their place (in Python).
    """
    reward = ImplicitReward(
        LoadedModels(),
        path=path,
        ref_path=ref_path,
        model=model,
        ref_model=ref_model,
        beta=beta,
        aggregation=aggregation,
        step_separator=step_separator,
        device=device,
    )
    return reward(prompts, completions)


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
    trees = [[s for s in tree if len(s.ids) <= limit] for tree in prompt_trees(prompts, sequences)]
    trees = [tree for tree in trees if tree]
    policy_logprobs, ref_logprobs = (_logprobs(m, trees) for m in (policy, reference))
    step_rewards: list[Numbers] = []
    for sequence in sequences:
        if sequence.row not in policy_logprobs:
            step_rewards.append(np.array([math.nan]))
            continue
        gained = policy_logprobs[sequence.row] - ref_logprobs[sequence.row]
        q = np.concatenate([[0.0], beta * np.cumsum(gained)])
        tokens = np.flatnonzero(sequence.loss_mask)
        ends = np.searchsorted(tokens, scored_places(sequence, separator, texts), side="right")
        ends[-1] = len(tokens)  # what follows the last step, such as EOS, is its own
        step_rewards.append(np.diff(q[[0, *ends]]))
    return step_rewards


def _logprobs(model: LanguageModel, trees: Sequence[Sequence[TokenSequence]]) -> dict[str, Numbers]:
    """Log-probs of the targets of each sequence, by its row."""
    by_row: dict[str, Numbers] = {}
    if not trees:
        return by_row
    with evaluating(model.hf), torch.no_grad():
        for forest in Batch([Tree.build(tree) for tree in trees]).split(MAX_TOKENS):
            logprobs = model.forward(forest, frozenset({"logprobs"}))["logprobs"].double().cpu()
            counts = torch.bincount(forest.sequence, minlength=forest.num_sequences).tolist()
            by_row |= {
                row: part.numpy()
                for row, part in zip(forest.rows, logprobs.split(counts), strict=True)
            }
    return by_row
