"""Functions of whole next-token distributions, in bounded memory.

A loss that asks for `distribution` (the trained model's), `ref_distribution` or
`teacher_distribution` is given log-probabilities [m, V] of a chunk of targets at a time. In the
backward pass each chunk is computed again, so that neither logits nor probabilities of all targets
are ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from posttrain.errors import ModelError
from posttrain.models.logprobs import Head

FOREIGN = "foreign_distribution"  # a teacher's over another vocabulary: it has a length of its own
DISTRIBUTIONS = frozenset({"distribution", "ref_distribution", "teacher_distribution", FOREIGN})

# Numbers per target that follow from whole distributions, and which.
DERIVED: dict[str, tuple[str, ...]] = {
    "forward_kl": ("distribution", "ref_distribution"),
    "reverse_kl": ("distribution", "ref_distribution"),
    "log_collision": ("distribution",),
}


class Vocabulary:
    """The next-token distributions of M targets under one or several models.

    Args:
        rows: name of a distribution -> (hidden states [M, D] that predict the targets, vocabulary
        projection).
        temperature: what logits are divided by. chunk_bytes: most bytes of one chunk of
        log-probabilities.
    Raises:
        ModelError: the models' vocabularies differ by more than padding.
    """

    def __init__(
        self,
        rows: Mapping[str, tuple[Tensor, Head]],
        temperature: float = 1.0,
        *,
        chunk_bytes: int | None = None,
    ) -> None:
        self.rows = dict(rows)
        self.temperature = temperature
        sizes = {
            name: head.weight.shape[0] for name, (_, head) in self.rows.items() if name != FOREIGN
        }
        # Some model families pad their embeddings to other round sizes; ids beyond the smallest are
        # padding.
        self.vocab_size = min(sizes.values())
        if max(sizes.values()) - self.vocab_size > 0.02 * self.vocab_size:
            raise ModelError(
                f"the vocabularies differ ({sizes}); distributions can be compared over one "
                "vocabulary only"
            )
        hidden, _ = next(iter(self.rows.values()))
        on_cpu = hidden.device.type == "cpu"
        budget = chunk_bytes or (1 << 24 if on_cpu else 1 << 28)
        self.chunk = max(
            1, budget // (4 * sum(head.weight.shape[0] for _, head in self.rows.values()))
        )

    def apply(
        self, function: Callable[..., Any], names: Sequence[str], inputs: Mapping[str, Tensor]
    ) -> Any:
        """Call a loss chunk by chunk and put its results together.

        Args:
            function: takes arrays in the order of `names`: distributions as log-probs [m, V],
            others as [m].
            inputs: [M] each, of the names that are not distributions.
        Returns:
            what the function returns, over all targets: [M], or ([M], {name: [M]}).
        """
        total = len(next(iter(self.rows.values()))[0])
        fixed = [n for n in names if n not in self.rows]

        def part(start: int, *chunks: Tensor) -> Any:
            by_name = dict(zip(fixed, chunks, strict=True))
            stop = min(start + self.chunk, total)
            return function(
                *(by_name[n] if n in by_name else self._logprobs(n, start, stop) for n in names)
            )

        results = []
        for start in range(0, total, self.chunk):
            chunks = [inputs[n][start : start + self.chunk] for n in fixed]
            if torch.is_grad_enabled():
                results.append(
                    checkpoint(part, start, *chunks, use_reentrant=False, preserve_rng_state=False)
                )
            else:
                results.append(part(start, *chunks))
        if not results:  # a micro-batch without targets
            empty = {
                n: hidden.new_zeros(0, head.weight.shape[0])
                for n, (hidden, head) in self.rows.items()
            }
            return function(*(empty[n] if n in empty else inputs[n] for n in names))
        if not isinstance(results[0], tuple):
            return torch.cat(results)
        return torch.cat([d[0] for d in results]), {
            k: torch.cat([d[1][k] for d in results]) for k in results[0][1]
        }

    def at(self, targets: Tensor) -> Vocabulary:
        """The distributions at some of the targets, by their places int64 [m]."""
        rows = {name: (hidden[targets], head) for name, (hidden, head) in self.rows.items()}
        part = Vocabulary(rows, self.temperature)
        part.chunk = self.chunk
        return part

    def derived(self, name: str) -> Tensor:
        """Numbers per target [M]: see `DERIVED`; log_collision carries no gradient."""
        functions: list[Callable[..., Tensor]] = [forward_kl, reverse_kl, log_collision]
        return self.apply({f.__name__: f for f in functions}[name], DERIVED[name], {})

    def _logprobs(self, name: str, start: int, stop: int) -> Tensor:
        hidden, head = self.rows[name]
        logits = head.logits(hidden[start:stop])
        logits = logits if name == FOREIGN else logits[:, : self.vocab_size]
        return torch.log_softmax(logits / self.temperature, dim=-1)


def forward_kl(distribution: Tensor, ref_distribution: Tensor) -> Tensor:
    """KL(ref || pi) = sum_v ref_v (log ref_v - log pi_v) of log-probs [m, V] -> [m], nats."""
    return (ref_distribution.exp() * (ref_distribution - distribution)).sum(-1)


def reverse_kl(distribution: Tensor, ref_distribution: Tensor) -> Tensor:
    """KL(pi || ref) = sum_v pi_v (log pi_v - log ref_v) of log-probs [m, V] -> [m], nats."""
    return (distribution.exp() * (distribution - ref_distribution)).sum(-1)


def log_collision(distribution: Tensor) -> Tensor:
    """log sum_v pi_v^2 of log-probs [m, V] -> [m], nats: how likely two draws agree. Without
    gradient.
    """
    return torch.logsumexp(2 * distribution.detach(), dim=-1)
