"""A weighted sum of registered losses, each averaged by global counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from posttrain import registry
from posttrain.averages import Averages
from posttrain.config import Component
from posttrain.data.forest import Batch, Forest, TokenSequence
from posttrain.errors import ConfigError
from posttrain.inputs import LANGUAGE_MODEL, LOSS_INPUTS, TEACHER, base_of, missing_inputs
from posttrain.losses.inputs import policy_weight, sequence_inputs
from posttrain.losses.reduce import Aggregation, Totals, target_weights
from posttrain.models.vocabulary import DERIVED, DISTRIBUTIONS

Per = Literal["token", "sequence", "pair", "group", "batch"]


@dataclass(frozen=True, slots=True)
class Term:
    """One loss of an objective, bound to its settings."""

    name: str
    function: Callable[..., Any]
    inputs: tuple[str, ...]
    per: Per
    weight: float
    aggregation: Aggregation


class Objective:
    """What is minimised: sum over terms of weight * average of the term's loss.

    Args:
        components: losses by name with settings, weight and aggregation.
        aggregation: the default average. max_length: tokens, for the aggregation fixed_length.
        temperature: the policy is softmax(logits / temperature), the distribution that rollouts
        were sampled from.
        accuracy: tell the share of targets that are the model's likeliest token, which means
        something on given text (of a
            pair: on the chosen completion).
        roles: what the sequences of each tree are, in order, such as ("chosen", "rejected"); ()
        where a tree may hold any.
        groups: a tree holds the completions of one prompt that are compared with each other, so
        that it stays whole.
        tail_weight: of the tokens by which a completion of a pair is longer than the other, in its
        log-probability (LD-DPO).
        on_policy_weight: multiply losses of pairs by how likely the policy is to write them (WPO),
        held constant.
        measure_idle: metrics of tokens are means over all sampled tokens of a step, those of trees
        without
            a gradient included (see `training.idle`). If false they are means over the trees that
            train, and their names end in "/informative_groups".
        carries: inputs that the source carries (see `posttrain.inputs`); a loss that asks for
        another is refused here, before weights load. None: it is refused in the first step.
    """

    def __init__(
        self,
        components: Sequence[Component],
        *,
        aggregation: Aggregation = "token_mean",
        max_length: int | None = None,
        temperature: float = 1.0,
        accuracy: bool = False,
        roles: tuple[str, ...] = (),
        groups: bool = False,
        tail_weight: float = 1.0,
        on_policy_weight: bool = False,
        measure_idle: bool = True,
        carries: frozenset[str] | None = None,
    ) -> None:
        if not components:
            raise ConfigError("losses: at least one loss is needed; see `posttrain ls losses`")
        self.terms = [_term(c, aggregation) for c in components]
        lone = [term.name for term in self.terms if term.per == "pair"]
        if lone and "rejected" not in roles:
            raise ConfigError(
                f"losses: {lone[0]!r} compares a chosen with a rejected completion; it belongs to "
                "method dpo"
            )
        lone = [term.name for term in self.terms if term.per == "group"]
        if lone and not groups:
            raise ConfigError(
                f"losses: {lone[0]!r} compares the completions of a prompt, which this method "
                "does not group"
            )
        self.max_length = max_length
        self.measure_idle = measure_idle
        self.temperature = temperature
        self.accuracy, self.roles = accuracy, roles
        self.tail_weight, self.on_policy_weight = tail_weight, on_policy_weight
        asked = {name for term in self.terms for name in term.inputs}
        for name in missing_inputs(asked, carries, roles) if carries is not None else ():
            self._refuse(name)
        asked |= {base for name in asked for base in (base_of(name, roles),) if base}
        asked |= {"logprobs", "log_collision"} if on_policy_weight else set()
        if asked & (LANGUAGE_MODEL | TEACHER):
            # Entropy is told in any case; only where a loss trains it does it have to carry a
            # gradient.
            asked |= {"logprobs", "entropy"} | (
                {"entropy_gradient"} if "entropy" in asked else set()
            )
        self.needs = frozenset(asked)
        per = {term.per for term in self.terms}
        self.whole: Literal["tree", "batch"] | None = (
            "batch"
            if "batch" in per
            else "tree"
            if roles or groups or per & {"pair", "group"}
            else None
        )

    @property
    def needs_reference(self) -> bool:
        """Whether a frozen reference model is asked for."""
        wanted = {d for name in self.needs for d in DERIVED.get(name, (name,))}
        return not wanted.isdisjoint({"ref_logprobs", "ref_distribution"})

    @property
    def keeps_zero_advantage(self) -> bool:
        """Whether a sequence with advantage 0 still has a gradient, by a term that ignores
        advantages.
        """
        return any(
            {"advantages", "given"}.isdisjoint(term.inputs) and term.weight for term in self.terms
        )

    def check_weights(self, sequences: Sequence[TokenSequence]) -> None:
        """Refuse rows with weights where a loss has no value a token that they could multiply.

        Raises:
            ConfigError: names the loss.
        """
        weighted = (
            s
            for s in sequences
            if "weights" in s.streams and (s.streams["weights"][s.loss_mask] != 1).any()
        )
        wholes = [term for term in self.terms if term.per != "token"]
        if wholes and (found := next(weighted, None)) is not None:
            raise ConfigError(
                f"losses: {wholes[0].name!r} has one value a {wholes[0].per}, which the weight of "
                f"row {found.row} (how much "
                "its tokens count) does not change; leave the column weight out, or take losses "
                "of tokens"
            )

    def denominators(self, batch: Batch) -> Totals:
        """Global counts of the whole optimiser step."""
        weights = batch.stream_total("weights")
        tokens = float(batch.num_targets) if weights is None else weights
        whole = Totals(tokens=tokens, sequences=batch.num_sequences, groups=batch.num_trees)
        if batch.stream_total("given") is None:
            return whole
        sampled, given = (_counts(batch, of) for of in (0.0, 1.0))
        return replace(whole, tokens=sampled.tokens, sequences=sampled.sequences, given=given)

    def __call__(
        self, outputs: Mapping[str, Tensor], micro: Forest, totals: Totals
    ) -> tuple[Tensor, Averages]:
        """The micro-batch's share of the step's loss (shares add up), and its metrics."""
        inputs = self._inputs(outputs, micro)
        metrics = Averages()
        shares = []
        for term in self.terms:
            values, told = self._values(term, inputs, outputs)
            if term.per == "pair" and self.on_policy_weight:
                values = values * policy_weight(
                    inputs, micro.sequence, micro.num_sequences, self.roles
                )
            if term.per == "batch":
                share = values.sum() / max(values.numel(), 1)
            elif term.per != "token":
                share = values.sum() / max(
                    totals.sequences if term.per == "sequence" else totals.groups, 1
                )
            else:
                weights = target_weights(
                    term.aggregation,
                    micro.sequence,
                    micro.num_sequences,
                    totals.given if totals.given is not None and "given" in term.inputs else totals,
                    _counting(micro, "given" in term.inputs),
                    self.max_length,
                    values.dtype,
                )
                share = (weights * values).sum()
            shares.append(term.weight * share)
            for name, numbers in told.items():
                _tell(metrics, name, _sampled(numbers.detach(), micro))
            if len(self.terms) > 1:
                metrics.total(f"loss/{term.name}", share.detach())
        loss = torch.stack(shares).sum()
        metrics.total("loss", loss.detach())
        if "entropy" in outputs:
            _tell(metrics, "entropy", _sampled(outputs["entropy"].detach(), micro))
        for side in self.roles:
            if side in inputs:
                metrics.add(f"logps/{side}", inputs[side].detach().sum(), inputs[side].numel())
        if self.accuracy and "correct" in outputs:
            correct = (
                outputs["correct"][micro.sequence % len(self.roles) == 0]
                if self.roles
                else outputs["correct"]
            )
            metrics.add("mean_token_accuracy", correct.sum(), correct.numel())
        self._engine_gap(outputs, micro, metrics)
        return loss, metrics if self.measure_idle else metrics.renamed("/informative_groups")

    @staticmethod
    def _values(
        term: Term, inputs: Mapping[str, Any], outputs: Mapping[str, Any]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The term's values and what else it tells; where it asks for whole distributions,
        chunk by chunk.
        """
        if DISTRIBUTIONS.isdisjoint(term.inputs):
            result = term.function(*(inputs[name] for name in term.inputs))
        else:
            result = outputs["vocabulary"].apply(term.function, term.inputs, inputs)
        return result if isinstance(result, tuple) else (result, {})

    def _inputs(self, outputs: Mapping[str, Any], micro: Forest) -> dict[str, Any]:
        inputs: dict[str, Any] = {
            **micro.streams,
            **micro.values,
            **outputs,
            "target": micro.target,
            "sequence": micro.sequence,
            "num_sequences": micro.num_sequences,
            "group": micro.tree,
        }
        if "old_logprobs" in self.needs and "old_logprobs" not in inputs:
            # No update has happened since the rollouts were sampled, so the current policy is the
            # old one.
            inputs["old_logprobs"] = outputs["logprobs"].detach()
        asked = {name for term in self.terms for name in term.inputs}
        if asked - inputs.keys() - DISTRIBUTIONS or self.roles:
            inputs |= sequence_inputs(
                inputs, micro.sequence, micro.num_sequences, self.roles, self.tail_weight
            )
        for name in sorted(asked - inputs.keys() - DISTRIBUTIONS):
            self._refuse(name)
        return inputs

    def _refuse(self, name: str) -> None:
        users = [term.name for term in self.terms if name in term.inputs]
        described = LOSS_INPUTS[name]
        raise ConfigError(
            f"losses: {users[0]!r} needs {name!r}, which this method's data do not carry "
            f"({described.meaning}; produced by: {described.producer})"
        )

    def _engine_gap(self, outputs: Mapping[str, Tensor], micro: Forest, metrics: Averages) -> None:
        """How far the sampler's log-probs are from the trainer's at the start of the step (TRL's
        metric names).

        0 up to rounding when in step. Of several updates the first one's policy is compared in all
        of them, so that the change by training is not counted as a difference between engines.
        """
        if "engine_logprobs" not in micro.streams or not micro.num_targets:
            return
        start = micro.streams.get("old_logprobs", outputs["logprobs"].detach())
        gap = _sampled((start - micro.streams["engine_logprobs"]).abs(), micro)
        if gap.numel():
            _tell(metrics, "sampling/sampling_logp_difference/mean", gap)
            metrics.largest("sampling/sampling_logp_difference/max", gap.max())


def _counts(batch: Batch, given: float) -> Totals:
    """Counts of the targets that were given (1) or sampled (0)."""
    tokens, sequences = 0.0, 0
    for tree in (*batch.trees, *batch.idle):
        own = tree.streams["given"] == given
        tokens += (
            float(tree.streams["weights"][own].sum())
            if "weights" in tree.streams
            else float(own.sum())
        )
        sequences += len(set(tree.sequence[own].tolist()))
    return Totals(tokens=tokens, sequences=sequences)


def _counting(micro: Forest, given: bool) -> Tensor | None:
    """How much each target counts [M]: its weight where it has one, and 0 if it is given and
    the loss of the sampled ones.
    """
    weights = micro.streams.get("weights")
    if "given" not in micro.streams:
        return weights
    own = micro.streams["given"] if given else 1 - micro.streams["given"]
    return own if weights is None else own * weights


def _sampled(numbers: Tensor, micro: Forest) -> Tensor:
    """Of numbers per target those of sampled ones, where some were given; any others as they
    are.
    """
    given = micro.streams.get("given")
    return numbers if given is None or numbers.shape != given.shape else numbers[given == 0]


def _tell(metrics: Averages, name: str, numbers: Tensor) -> None:
    if not name.startswith(("min_", "max_")):
        metrics.add(name, numbers.sum(), numbers.numel())
    elif numbers.numel() and name.startswith("min_"):
        metrics.smallest(name, numbers.min())
    elif numbers.numel():
        metrics.largest(name, numbers.max())


def _term(item: Component, default: Aggregation) -> Term:
    entry = registry.losses.entry_of(item)
    function = registry.losses.bind_of(item)
    aggregation: Any = item.aggregation or default
    per: Per = entry.per
    if per != "token" and item.aggregation is not None:
        raise ConfigError(
            f"losses: {item.name!r} has one value a {per}, whose mean is taken; leave its "
            "aggregation out"
        )
    if entry.settings or per == "pair":
        _try_settings(item.name, function, entry.inputs)
    return Term(item.name, function, entry.inputs, per, item.weight, aggregation)


def _try_settings(name: str, function: Callable[..., Any], inputs: tuple[str, ...]) -> None:
    """Call a loss with no numbers, so that it refuses settings that cannot be before weights
    load.
    """
    indices = ("target", "sequence", "group", "step")
    known: dict[str, Any] = {i: torch.zeros(0, dtype=torch.long) for i in indices}
    known |= {"num_sequences": 0, **{d: torch.zeros(0, 2) for d in DISTRIBUTIONS}}
    try:
        function(*(known.get(i, torch.zeros(0)) for i in inputs))
    except ValueError as error:
        raise ConfigError(f"losses: {name!r}: {error}") from error
    except (
        Exception
    ):  # a user's loss may ask for at least one number; if it is wrong, it fails in training
        return


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
