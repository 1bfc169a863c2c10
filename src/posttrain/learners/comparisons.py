"""Learn which of two completions is better: an ensemble of reward models on compared pairs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from posttrain.data.rows import rows_of
from posttrain.data.scored import encode_completions
from posttrain.errors import ConfigError, DataError
from posttrain.labellers.base import Row
from posttrain.learners.base import Learner
from posttrain.methods.fit import fit
from posttrain.methods.objects import Rows, data_of
from posttrain.methods.reward_model import reward_model
from posttrain.models.language_model import LanguageModel
from posttrain.models.named import NamedModel
from posttrain.models.score_model import ScoreModel
from posttrain.models.scoring import scored
from posttrain.models.spec import ModelSpec
from posttrain.rewards.model import MAX_TOKENS, RewardModel

OF_FIT = ("steps", "max_grad_norm", "weight_decay", "warmup_steps", "max_tokens_per_micro_batch")
"""Settings of a round's training that are those of `fit`; the others are of the method."""


class ComparisonLearner(Learner):
    """Rows of prompt and completions; a label says whether the first of two is better (1 or 0).

    Members of the ensemble train on rows drawn with replacement (bagging), each with a seed of its
    own.

    Args:
        spec: a folder or hub id; each round begins at its weights.
        eval_data: held-out rows of prompt, chosen and rejected.
        training: settings of `pt.reward_model`, and steps. num_members: of the ensemble.
    """

    column = "better"
    selects = "pair"
    carries = frozenset({"ensemble_rewards", "prompt_entropies"})

    def __init__(
        self,
        spec: ModelSpec,
        eval_data: Rows,
        *,
        training: Mapping[str, Any] | None = None,
        num_members: int = 3,
    ) -> None:
        if not isinstance(spec, NamedModel):
            raise ConfigError(
                "model: each round begins at the weights of the start, so active learning takes a "
                "folder or hub id, and not a model in memory"
            )
        self.spec, self.held_out = spec, rows_of(data_of(eval_data))
        self.training, self.num_members = dict(training or {}), num_members
        self.members: list[ScoreModel] = []
        self._policy: LanguageModel | None = None
        self._console = Console(quiet=True)
        self._plan([{"prompt": "a", "chosen": "b", "rejected": "c"}])

    def check(self, pool: Sequence[Row]) -> None:
        """Refuse prompts with one completion, and rewards that do not fit."""
        for row in pool:
            count = len(row.get("completions") or ())
            rewards = row.get("rewards")
            if not row.get("prompt") or count < 2:
                raise DataError(
                    f"active: row {row['id']} has {count} completions; a pool of preferences is "
                    "rows of prompt and at least 2 completions"
                )
            if rewards is not None and len(rewards) != count:
                raise DataError(
                    f"active: row {row['id']} has {len(rewards)} rewards for {count} completions"
                )
        if not all({"prompt", "chosen", "rejected"} <= row.keys() for row in self.held_out):
            raise DataError("eval_data: rows need prompt, chosen and rejected")

    def pair(self, row: Row, first: int, second: int) -> Row:
        """The question whether the first completion is better, with gold where rewards are."""
        question = {
            "id": f"{row['id']}:{first}:{second}",
            "prompt": row["prompt"],
            "first": row["completions"][first],
            "second": row["completions"][second],
        }
        if row.get("rewards") is not None:
            question["better"] = int(row["rewards"][first] >= row["rewards"][second])
        return question

    def _plan(self, rows: Sequence[Row]) -> Any:
        return reward_model(rows, **{k: v for k, v in self.training.items() if k not in OF_FIT})

    def restart(self) -> None:
        self.members = []

    def train(self, rows: Sequence[Row], seed: int) -> None:
        """Train each member of the ensemble from the model of the start."""
        settings = {k: v for k, v in self.training.items() if k in OF_FIT and k != "steps"}
        compared = [_compared(row) for row in rows]
        self.members = []
        for member in range(self.num_members):
            draw = np.random.default_rng((seed, member, 43))
            drawn = [compared[int(i)] for i in draw.integers(len(compared), size=len(compared))]
            result = fit(
                self.spec,
                self._plan(drawn),
                steps=self.training.get("steps"),
                seed=seed * 31 + member,
                console=self._console,
                **settings,
            )
            self.members.append(result.model)

    def _scores(self, prompts: Sequence[Any], completions: Sequence[Any]) -> Any:
        """Scores by each member: [E, B]."""
        return np.array(
            [RewardModel(member, level="sequence")(prompts, completions) for member in self.members]
        )

    def inputs(
        self,
        names: Collection[str],
        candidates: Sequence[Row],
        labelled: Sequence[Row],
        seed: int,
    ) -> dict[str, Any]:
        """Rewards of all completions by all members."""
        count = min(len(row["completions"]) for row in candidates)
        prompts = [row["prompt"] for row in candidates for _ in range(count)]
        completions = [text for row in candidates for text in row["completions"][:count]]
        scores = self._scores(prompts, completions)
        rewards = np.nan_to_num(scores.T.reshape(len(candidates), count, -1))
        made: dict[str, Any] = {"ensemble_rewards": rewards}
        if "prompt_entropies" in names:
            made["prompt_entropies"] = self._entropies(prompts, completions, count)
        return made

    def _entropies(self, prompts: Sequence[Any], completions: Sequence[Any], count: int) -> Any:
        """Mean of -log p per token of a prompt's completions under the model of the start: [P]."""
        if self._policy is None:
            self._policy = self.spec.load()
        sequences = encode_completions(prompts, completions, self.spec.tokenizer)
        pairs = scored(self._policy, [[s] for s in sequences], {"logprobs"}, max_tokens=MAX_TOKENS)
        means = {id(s): -float(numbers["logprobs"].mean()) for s, numbers in pairs}
        return np.array([means[id(s)] for s in sequences]).reshape(-1, count).mean(1)

    def outcomes(self) -> list[float]:
        prompts = [row["prompt"] for row in self.held_out]
        chosen = self._scores(prompts, [row["chosen"] for row in self.held_out]).mean(0)
        rejected = self._scores(prompts, [row["rejected"] for row in self.held_out]).mean(0)
        return [float(c > r) + 0.5 * float(c == r) for c, r in zip(chosen, rejected, strict=True)]

    def save(self, folder: Path) -> None:
        for number, member in enumerate(self.members):
            member.save(folder / f"member-{number}")


def _compared(row: Row) -> Row:
    better, worse = ("first", "second") if int(row["better"]) else ("second", "first")
    return {"prompt": row["prompt"], "chosen": row[better], "rejected": row[worse]}
