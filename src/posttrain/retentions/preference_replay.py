"""COPR: the optimal policies of earlier preferences as constraints of later ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posttrain.averages import Averages
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.errors import ConfigError
from posttrain.losses.continual import two_way_kl
from posttrain.models.language_model import LanguageModel
from posttrain.registry import retentions
from posttrain.retentions.base import MAX_TOKENS, Retention, Stage, steps_of
from posttrain.training.plan import Learner, Plan


@dataclass(frozen=True, slots=True)
class Preference:
    """A pair of an earlier stage with the log-odds of its optimal policy.

    Attributes:
        stage: its number. rows: chosen and rejected. target: log P*(chosen) - log P*(rejected).
    """

    stage: int
    rows: tuple[TokenSequence, TokenSequence]
    target: float


def log_odds(model: LanguageModel, pairs: Sequence[Preference]) -> Tensor:
    """log pi(chosen) - log pi(rejected) [P] of pairs, with gradient."""
    trees = [Tree.build(list(pair.rows)) for pair in pairs]
    (forest,) = Batch(trees, whole="batch").split(None)
    forest = forest.to(model.device)
    logprobs: Tensor = model.forward(forest, frozenset({"logprobs"}))["logprobs"]
    sums = logprobs.new_zeros(2 * len(pairs)).index_add(0, forest.sequence, logprobs)
    return sums[0::2] - sums[1::2]


class PreferenceReplay(Retention):
    """A buffer of pairs of all earlier stages, of one size however many stages there are."""

    def __init__(self, weight: float, beta: float, batch_size: int, buffer_size: int) -> None:
        self.weight, self.beta = weight, beta
        self.batch_size, self.buffer_size = batch_size, buffer_size
        self.buffer: list[Preference] = []
        self._own: list[Preference] = []
        self._seed = 0

    def begin(self, stage: Stage) -> Plan:
        """The plan with the constraints; the stage's own targets follow from the weights now."""
        if "rejected" not in stage.plan.objective.roles:
            raise ConfigError(
                f"copr: it holds preferences, and the stage is by {stage.plan.method!r}; take "
                "method dpo, or another retention method"
            )
        self._seed = stage.seed + stage.number
        share = max(1, self.buffer_size // (stage.number + 1))
        self._own = self._preferences(stage, share)
        if not self.buffer:
            return stage.plan
        return replace(stage.plan, rules=(*stage.plan.rules, self.constrain))

    def _preferences(self, stage: Stage, number: int) -> list[Preference]:
        """Pairs of a stage with the log-odds of its optimal policy, whose reference is the model
        as the stage begins.
        """
        trees: dict[bytes, Tree] = {}
        for batch in steps_of(stage):
            before = len(trees)
            for tree in batch.trees:
                key = b"".join(s.ids.tobytes() for s in tree.sequences[:2])
                if len(trees) < number:
                    trees.setdefault(key, tree)
            if len(trees) in (before, number):
                break
        pairs = []
        was_training = stage.model.hf.training
        stage.model.eval()
        for tree in trees.values():
            rows = tree.sequences[0], tree.sequences[1]
            rows = tuple(TokenSequence(s.ids, s.loss_mask) for s in rows)  # type: ignore[assignment]
            pair = Preference(stage.number, rows, 0.0)
            with torch.no_grad():
                target = float(log_odds(stage.model, [pair])[0]) + 1 / self.beta
            pairs.append(replace(pair, target=target))
        stage.model.train(was_training)
        return pairs

    def constrain(self, learner: Learner, step: int) -> Averages:
        """Add the gradient of weight * mean KL(s(d) || s(z)) on pairs of the buffer."""
        draw = np.random.default_rng((self._seed, step, 23))
        size = min(self.batch_size, len(self.buffer))
        chosen = [self.buffer[i] for i in draw.choice(len(self.buffer), size, replace=False)]
        total = 0.0
        for pairs in _parts(chosen, min(learner.max_tokens, MAX_TOKENS)):
            odds = log_odds(learner.model, pairs)
            loss = two_way_kl(odds, odds.new_tensor([p.target for p in pairs])).sum() / size
            learner.model.backward(self.weight * loss)
            total += float(loss.detach())
        metrics = Averages()
        metrics.total("copr/constraint", total)
        metrics.total("loss", self.weight * total)
        return metrics

    def end(self, stage: Stage) -> None:
        """Keep pairs of the stage, as many as each earlier stage keeps."""
        share = max(1, self.buffer_size // (stage.number + 1))
        kept: list[Preference] = []
        for number in range(stage.number):
            kept += [pair for pair in self.buffer if pair.stage == number][:share]
        self.buffer = [*kept, *self._own][-self.buffer_size :]
        self._own = []

    def state(self) -> dict[str, Tensor]:
        """The buffer."""
        state: dict[str, Tensor] = {}
        for place, pair in enumerate(self.buffer):
            state[f"{place}.pair"] = torch.tensor([pair.stage, pair.target], dtype=torch.float64)
            for side, row in enumerate(pair.rows):
                state[f"{place}.{side}.ids"] = torch.from_numpy(row.ids.copy())
                state[f"{place}.{side}.mask"] = torch.from_numpy(row.loss_mask.copy())
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore the buffer."""
        self.buffer = []
        for place in range(len(state) // 5):
            number, target = state[f"{place}.pair"].tolist()
            rows: Any = tuple(
                TokenSequence(
                    state[f"{place}.{side}.ids"].numpy(), state[f"{place}.{side}.mask"].numpy()
                )
                for side in (0, 1)
            )
            self.buffer.append(Preference(int(number), rows, target))


def _parts(pairs: Sequence[Preference], max_tokens: int) -> list[list[Preference]]:
    """Pairs in order, cut where a part would hold more than max_tokens tokens."""
    parts: list[list[Preference]] = []
    size = 0
    for pair in pairs:
        tokens = sum(len(row.ids) for row in pair.rows)
        if not parts or size + tokens > max_tokens:
            parts.append([])
            size = 0
        parts[-1].append(pair)
        size += tokens
    return parts


@retentions.register
def copr(
    *, weight: float = 1.0, beta: float = 0.1, batch_size: int = 16, buffer_size: int = 256
) -> Retention:
    """Continual optimal policy regularisation (arXiv 2310.15694), for sequences of preferences.

    L + weight mean_{pairs of i < t} KL(s(d) || s(z_i)),  z_i = d_{i-1} + 1 / beta

    d = log pi(chosen) - log pi(rejected). z_i are the log-odds of the optimal policy of stage i,
    whose reference is the model that stage i - 1 left (d_{i-1}). With losses: [copr] in the plans
    a stage itself is fitted to its optimal policy. The paper steers the weight by Lagrange
    multipliers; here it is fixed.

    Args:
        weight: of the constraints.
        beta: how near an optimal policy stays to its reference, that of the stages' own loss.
        batch_size: pairs of the buffer per step.
        buffer_size: pairs of all stages together.
    """
    if not weight >= 0:
        raise ConfigError(f"copr: weight is {weight}; it must not be negative")
    if not beta > 0:
        raise ConfigError(f"copr: beta is {beta}; it must be above 0")
    for name, value in (("batch_size", batch_size), ("buffer_size", buffer_size)):
        if value < 1:
            raise ConfigError(f"copr: {name} is {value}; it must be at least 1")
    return PreferenceReplay(weight, beta, batch_size, buffer_size)
