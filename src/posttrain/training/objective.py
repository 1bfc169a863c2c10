"""A weighted sum of registered losses, each averaged by global counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from posttrain import registry
from posttrain.averages import Averages
from posttrain.config import Component
from posttrain.data.forest import Batch, Forest
from posttrain.errors import ConfigError
from posttrain.losses.inputs import MODEL_INPUTS
from posttrain.losses.reduce import Aggregation, Totals, sequence_sum, target_weights


@dataclass(frozen=True, slots=True)
class Term:
    """One loss of an objective, bound to its settings."""

    name: str
    function: Callable[..., Any]
    inputs: tuple[str, ...]
    per: Literal["token", "sequence", "pair"]
    weight: float
    aggregation: Aggregation


class Objective:
    """What is minimised: sum over terms of weight * average of the term's loss.

    Args:
        components: losses by name with settings, weight and aggregation.
        aggregation: the default average. max_length: tokens, for the aggregation fixed_length.
        temperature: the policy is softmax(logits / temperature), the distribution that rollouts were sampled from.
        accuracy: tell the share of targets that are the model's likeliest token, which means something on given text (of a
            pair: on the chosen completion).
        pairs: sequences 2i and 2i + 1 of every micro-batch are a chosen and a rejected completion.
    """

    def __init__(
        self,
        components: Sequence[Component],
        *,
        aggregation: Aggregation = "token_mean",
        max_length: int | None = None,
        temperature: float = 1.0,
        accuracy: bool = False,
        pairs: bool = False,
    ) -> None:
        if not components:
            raise ConfigError("losses: at least one loss is needed; see `posttrain ls losses`")
        self.terms = [_term(c, aggregation) for c in components]
        lone = [term.name for term in self.terms if term.per == "pair"]
        if lone and not pairs:
            raise ConfigError(f"losses: {lone[0]!r} compares a chosen with a rejected completion; it belongs to method dpo")
        self.max_length = max_length
        self.temperature = temperature
        self.accuracy, self.pairs = accuracy, pairs
        asked = {name for term in self.terms for name in term.inputs}
        asked |= {"ref_logprobs"} if any(name.startswith("ref_") for name in asked) else set()
        # Entropy is told in any case; only where a loss trains it does it have to carry a gradient.
        self.needs = frozenset(asked | {"logprobs", "entropy"} | ({"entropy_gradient"} if "entropy" in asked else set()))

    @property
    def needs_reference(self) -> bool:
        """Whether a frozen reference model is asked for."""
        return "ref_logprobs" in self.needs

    @property
    def keeps_zero_advantage(self) -> bool:
        """Whether a sequence with advantage 0 still has a gradient, by a term that ignores advantages."""
        return any("advantages" not in term.inputs and term.weight for term in self.terms)

    def denominators(self, batch: Batch) -> Totals:
        """Global counts of the whole optimiser step."""
        weights = batch.stream_total("weights")
        return Totals(tokens=float(batch.num_targets) if weights is None else weights, sequences=batch.num_sequences)

    def __call__(self, outputs: Mapping[str, Tensor], micro: Forest, totals: Totals) -> tuple[Tensor, Averages]:
        """The micro-batch's share of the step's loss (shares add up), and its metrics."""
        inputs = self._inputs(outputs, micro)
        metrics = Averages()
        loss = outputs["logprobs"].new_zeros(())
        for term in self.terms:
            result = term.function(*(inputs[name] for name in term.inputs))
            values, told = result if isinstance(result, tuple) else (result, {})
            if term.per != "token":
                share = values.sum() / max(totals.sequences // (2 if term.per == "pair" else 1), 1)
            else:
                weights = target_weights(
                    term.aggregation,
                    micro.sequence,
                    micro.num_sequences,
                    totals,
                    micro.streams.get("weights"),
                    self.max_length,
                    values.dtype,
                )
                share = (weights * values).sum()
            loss = loss + term.weight * share
            for name, numbers in told.items():
                metrics.add(name, numbers.detach().sum(), numbers.numel())
            if len(self.terms) > 1:
                metrics.total(f"loss/{term.name}", share.detach())
        metrics.total("loss", loss.detach())
        if "entropy" in outputs:
            metrics.add("entropy", outputs["entropy"].detach().sum(), outputs["entropy"].numel())
        for side in ("chosen", "rejected"):
            if side in inputs:
                metrics.add(f"logps/{side}", inputs[side].detach().sum(), inputs[side].numel())
        if self.accuracy and "correct" in outputs:
            correct = outputs["correct"][micro.sequence % 2 == 0] if self.pairs else outputs["correct"]
            metrics.add("mean_token_accuracy", correct.sum(), correct.numel())
        self._engine_gap(outputs, micro, metrics)
        return loss, metrics

    def _inputs(self, outputs: Mapping[str, Tensor], micro: Forest) -> dict[str, Any]:
        inputs: dict[str, Any] = {
            **micro.streams,
            **outputs,
            "sequence": micro.sequence,
            "num_sequences": micro.num_sequences,
        }
        if "old_logprobs" in self.needs and "old_logprobs" not in inputs:
            # No update has happened since the rollouts were sampled, so the current policy is the old one.
            inputs["old_logprobs"] = outputs["logprobs"].detach()
        if any(term.per == "pair" for term in self.terms):
            inputs |= _pair_inputs(outputs, micro)
        for name in sorted(self.needs - inputs.keys() - MODEL_INPUTS - {"entropy_gradient"}):
            users = [t.name for t in self.terms if name in t.inputs]
            raise ConfigError(f"the loss {users[0]!r} needs {name!r}, which this method's data does not carry")
        return inputs

    def _engine_gap(self, outputs: Mapping[str, Tensor], micro: Forest, metrics: Averages) -> None:
        """How far the sampler's log-probs are from the trainer's (TRL's metric names). 0 up to rounding when in step."""
        if "engine_logprobs" not in micro.streams or not micro.num_targets:
            return
        gap = (outputs["logprobs"].detach() - micro.streams["engine_logprobs"]).abs()
        metrics.add("sampling/sampling_logp_difference/mean", gap.sum(), gap.numel())
        metrics.largest("sampling/sampling_logp_difference/max", gap.max())


def _term(item: Component, default: Aggregation) -> Term:
    entry = registry.losses.entry(item.name)
    function = registry.losses.bind(item.name, item.settings)
    aggregation: Any = item.aggregation or default
    per: Any = next((kind for kind in ("pair", "sequence") if f"Per{kind.title()}" in entry.returns), "token")
    if per != "token" and item.aggregation is not None:
        raise ConfigError(f"losses: {item.name!r} has one value a {per}, whose mean is taken; leave its aggregation out")
    return Term(item.name, function, entry.inputs, per, item.weight, aggregation)


def _pair_inputs(outputs: Mapping[str, Tensor], micro: Forest) -> dict[str, Tensor]:
    """Sums over the targets of sequences 2i (chosen) and 2i + 1 (rejected), and their counts; [P] each."""
    found: dict[str, Tensor] = {}
    ones = torch.ones_like(outputs["logprobs"])
    for prefix, suffix, values in (("", "", "logprobs"), ("ref_", "", "ref_logprobs"), ("", "_length", None)):
        if values is None or values in outputs:
            sums = sequence_sum(ones if values is None else outputs[values], micro.sequence, micro.num_sequences)
            found[f"{prefix}chosen{suffix}"], found[f"{prefix}rejected{suffix}"] = sums.view(-1, 2).unbind(1)
    return found


def held_out(model: Any, objective: Objective, batch: Batch, max_tokens: int) -> dict[str, float]:
    """An objective's loss and metrics on a batch that is not trained on, as "eval_NAME"."""
    model.eval()
    totals = objective.denominators(batch)
    averages = Averages()
    with torch.no_grad():
        for micro in batch.split(max_tokens):
            micro = micro.to(model.device)
            outputs = model.forward(micro, objective.needs, temperature=objective.temperature)
            averages.merge(objective(outputs, micro, totals)[1])
    model.train()
    return {f"eval_{name}": value for name, value in averages.means().items()}


def mean_loss(model: Any, batch: Batch, max_tokens: int) -> float:
    """Mean negative log-likelihood over all targets of a batch, in nats: the held-out loss."""
    model.eval()
    total = 0.0
    with torch.no_grad():
        for micro in batch.split(max_tokens):
            logprobs = model.forward(micro, frozenset({"logprobs"}))["logprobs"]
            total -= float(logprobs.double().sum())
    model.train()
    return total / max(batch.num_targets, 1)
