"""Dark experience replay: old rows with what the model said of them when it had learnt them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posttrain.averages import Averages
from posttrain.data.forest import Batch, Forest, TokenSequence, Tree
from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.models.vocabulary import Vocabulary
from posttrain.registry import retentions
from posttrain.retentions.base import MAX_TOKENS, Retention, Stage, sequences_of, steps_of
from posttrain.training.plan import Learner, Plan


@dataclass(frozen=True, slots=True)
class Remembered:
    """A row with a model's next-token log-probs at its M targets.

    Attributes:
        stage: number of the stage that learnt it. ids, loss_mask: [L], as of a `TokenSequence`.
        tokens: int64 [M, k], ids of the k likeliest tokens; [M, 0] where all are held, in order.
        logprobs: float32 [M, k], theirs, or [M, V].
    """

    stage: int
    ids: Tensor
    loss_mask: Tensor
    tokens: Tensor
    logprobs: Tensor

    def tree(self) -> Tree:
        """The row as a tree of its own."""
        return Tree.build([TokenSequence(self.ids.numpy(), self.loss_mask.numpy())])


def distributions(model: LanguageModel, forest: Forest) -> Vocabulary:
    """The next-token distributions of a forest's targets, with gradient."""
    return Vocabulary({"distribution": model.predictions(forest)})


def remembered(model: LanguageModel, row: TokenSequence, stage: int, top_k: int) -> Remembered:
    """A row with what the model says of its targets now.

    Args:
        top_k: tokens per target; 0 = the whole vocabulary.
    """

    def likeliest(distribution: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        k = min(top_k, distribution.shape[-1])
        values, tokens = distribution.topk(k, dim=-1)
        return values, {"tokens": tokens}

    forest = Forest.pack([Tree.build([row])]).to(model.device)
    with torch.no_grad():
        vocabulary = distributions(model, forest)
        if top_k:
            values, extra = vocabulary.apply(likeliest, ("distribution",), {})
            tokens = extra["tokens"]
        else:
            values = vocabulary.apply(lambda distribution: distribution, ("distribution",), {})
            tokens = torch.zeros(len(values), 0, dtype=torch.long)
    ids, mask = torch.from_numpy(row.ids.copy()), torch.from_numpy(row.loss_mask.copy())
    return Remembered(stage, ids, mask, tokens.cpu(), values.float().cpu())


def squared_distance(distribution: Tensor, tokens: Tensor, logprobs: Tensor) -> Tensor:
    """Mean over the held tokens of (log p - log p_old)^2.

    Args:
        distribution: log-probs [m, V]. tokens, logprobs: as in `Remembered`, [m, k].
    Returns:
        [m].
    """
    held = distribution.gather(-1, tokens) if tokens.shape[-1] else distribution
    return (held.float() - logprobs).square().mean(-1)


def distinct(batches: Iterator[Batch], number: int) -> list[TokenSequence]:
    """The first different rows of some batches; fewer where a batch brings no new one."""
    rows: dict[bytes, TokenSequence] = {}
    for batch in batches:
        before = len(rows)
        for row in sequences_of(iter([batch])):
            if len(rows) < number:
                rows.setdefault(row.ids.tobytes() + row.loss_mask.tobytes(), row)
        if len(rows) in (before, number):
            break
    return list(rows.values())


class LogitReplay(Retention):
    """A buffer of rows of all earlier stages, of one size however many stages there are.

    Args:
        alpha: weight of the distance to the old log-probs. beta: of the old rows' cross-entropy.
        batch_size: rows of the buffer per step and term. buffer_size: rows of all stages together.
        top_k: log-probs that are held per target; 0 = the whole vocabulary.
    """

    def __init__(
        self, alpha: float, beta: float, batch_size: int, buffer_size: int, top_k: int
    ) -> None:
        self.alpha, self.beta = alpha, beta
        self.batch_size, self.buffer_size, self.top_k = batch_size, buffer_size, top_k
        self.buffer: list[Remembered] = []
        self._seed = 0

    def begin(self, stage: Stage) -> Plan:
        """The plan with the buffer's loss."""
        self._seed = stage.seed + stage.number
        objective = stage.plan.objective
        judged = objective.roles or any("advantages" in t.inputs for t in objective.terms)
        if self.beta and judged:
            raise ConfigError(
                f"der_plus_plus: it imitates rows of earlier stages, and those of "
                f"{stage.plan.method!r} are good or bad; take der, which holds what the model said"
            )
        if not self.buffer:
            return stage.plan
        return replace(stage.plan, rules=(*stage.plan.rules, self.rehearse))

    def rehearse(self, learner: Learner, step: int) -> Averages:
        """Add the gradient of alpha * distance + beta * cross-entropy to that of the loss."""
        metrics, total = Averages(), 0.0
        for place, (name, weight) in enumerate((("distance", self.alpha), ("nll", self.beta))):
            if not weight:
                continue
            draw = np.random.default_rng((self._seed, step, 13, place))
            size = min(self.batch_size, len(self.buffer))
            chosen = [self.buffer[i] for i in draw.choice(len(self.buffer), size, replace=False)]
            count = sum(len(row.logprobs) for row in chosen)
            value = 0.0
            for rows in _parts(chosen, learner.max_tokens):
                loss = self._loss(learner.model, rows, name) / count
                learner.model.backward(weight * loss)
                value += float(loss.detach())
            metrics.total(f"der/{name}", value)
            total += weight * value
        metrics.total("loss", total)
        return metrics

    @staticmethod
    def _loss(model: LanguageModel, rows: Sequence[Remembered], name: str) -> Tensor:
        """The sum over the targets of some rows of the distance or the cross-entropy."""
        forest = Forest.pack([row.tree() for row in rows]).to(model.device)
        if name == "nll":
            logprobs: Tensor = model.forward(forest, frozenset({"logprobs"}))["logprobs"]
            return -logprobs.sum()
        held = {
            "tokens": torch.cat([row.tokens for row in rows]).to(model.device),
            "logprobs": torch.cat([row.logprobs for row in rows]).to(model.device),
        }
        vocabulary = distributions(model, forest)
        distance: Tensor = vocabulary.apply(squared_distance, ("distribution", *held), held)
        return distance.sum()

    def end(self, stage: Stage) -> None:
        """Remember rows of the stage, as many as each earlier stage keeps."""
        share = max(1, self.buffer_size // (stage.number + 1))
        kept: list[Remembered] = []
        for number in range(stage.number):
            kept += [row for row in self.buffer if row.stage == number][:share]
        model = stage.model
        was_training = model.hf.training
        model.eval()  # dropout is none of what the model says
        rows = distinct(steps_of(stage), share)
        kept += [remembered(model, row, stage.number, self.top_k) for row in rows]
        model.train(was_training)
        self.buffer = kept[-self.buffer_size :]

    def state(self) -> dict[str, Tensor]:
        """The buffer."""
        return {
            f"{place}.{name}": getattr(row, name)
            for place, row in enumerate(self.buffer)
            for name in ("ids", "loss_mask", "tokens", "logprobs")
        } | {f"{place}.stage": torch.tensor(row.stage) for place, row in enumerate(self.buffer)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore the buffer."""
        self.buffer = []
        for place in range(len(state) // 5):
            parts: dict[str, Any] = {
                name: state[f"{place}.{name}"]
                for name in ("ids", "loss_mask", "tokens", "logprobs")
            }
            self.buffer.append(Remembered(int(state[f"{place}.stage"]), **parts))


def _parts(rows: Sequence[Remembered], max_tokens: int) -> list[list[Remembered]]:
    """Rows in order, cut where a part would hold more than max_tokens tokens."""
    parts: list[list[Remembered]] = []
    size = 0
    for row in rows:
        if not parts or size + len(row.ids) > min(max_tokens, MAX_TOKENS):
            parts.append([])
            size = 0
        parts[-1].append(row)
        size += len(row.ids)
    return parts


def _made(
    name: str, alpha: float, beta: float, batch_size: int, buffer_size: int, top_k: int
) -> LogitReplay:
    for key, value in (("alpha", alpha), ("beta", beta)):
        if not value >= 0:
            raise ConfigError(f"{name}: {key} is {value}; it must not be negative")
    for key, number in (("batch_size", batch_size), ("buffer_size", buffer_size)):
        if number < 1:
            raise ConfigError(f"{name}: {key} is {number}; it must be at least 1")
    if top_k < 0:
        raise ConfigError(f"{name}: top_k is {top_k}; it must not be negative, 0 holds all tokens")
    return LogitReplay(alpha, beta, batch_size, buffer_size, top_k)


@retentions.register
def der(
    *, alpha: float = 0.5, batch_size: int = 16, buffer_size: int = 256, top_k: int = 64
) -> Retention:
    """Dark experience replay (arXiv 2004.07211).

    L + alpha mean_t 1/k sum_v (log p(v) - log p_k(v))^2

    Rows of earlier stages are held with the log-probs of the model that had just learnt them, p_k.
    Log-probs stand for the paper's logits, from which they differ by a constant per target that
    changes no probability. The buffer has one size over all stages, which keep equal parts.

    Args:
        alpha: weight of the distance.
        batch_size: rows of the buffer per step.
        buffer_size: rows of all stages together.
        top_k: likeliest tokens whose log-probs are held, per target; 0 = the whole vocabulary.
    """
    return _made("der", alpha, 0.0, batch_size, buffer_size, top_k)


@retentions.register
def der_plus_plus(
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    batch_size: int = 16,
    buffer_size: int = 256,
    top_k: int = 64,
) -> Retention:
    """DER++ (arXiv 2004.07211): `der`, and the old rows' own cross-entropy.

    L + alpha mean_t 1/k sum_v (log p(v) - log p_k(v))^2 + beta mean_t -log p(y_t)

    The two terms draw different rows of the buffer.

    Args:
        alpha: weight of the distance.
        beta: weight of the cross-entropy.
        batch_size: rows of the buffer per step, for each term.
        buffer_size: rows of all stages together.
        top_k: likeliest tokens whose log-probs are held, per target; 0 = the whole vocabulary.
    """
    return _made("der_plus_plus", alpha, beta, batch_size, buffer_size, top_k)
