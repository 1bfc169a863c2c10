"""A weighted sum of registered losses, each averaged by global counts.

How a step's loss is formed:

1. `denominators` counts the targets, sequences and trees of the whole step, for each `on` that a
   term names. Micro-batches are divided by these counts, so their shares of a loss add up to the
   same average however the step is cut.
2. `needs` names what the forward pass has to compute: what the terms' functions ask for, what that
   is made from, and what the metrics show.
3. `whole` says what a micro-batch must not cut: a tree for losses of pairs and groups, the batch
   for losses that compare all sequences.
4. The objective, called on a micro-batch, calls each term's function on the targets that the term
   is averaged on (`training.selection`), and adds weight * average.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from posttrain.averages import Averages
from posttrain.config import Component
from posttrain.data.forest import Batch, Forest, TokenSequence, Tree
from posttrain.errors import ConfigError
from posttrain.inputs import LANGUAGE_MODEL, LOSS_INPUTS, TEACHER, base_of, missing_inputs
from posttrain.losses.inputs import policy_weight, sequence_inputs
from posttrain.losses.reduce import Aggregation, Totals, target_weights
from posttrain.models.vocabulary import DERIVED, DISTRIBUTIONS
from posttrain.training.selection import Selection, counts, everything, is_split, select, selected
from posttrain.training.terms import Per as Per
from posttrain.training.terms import Term as Term
from posttrain.training.terms import check_marks, check_rows, labelled, term_of


class Objective:
    """What is minimised: sum over terms of weight * average of the term's loss.

    Args:
        components: losses by name or function with settings, weight, aggregation and `on`.
        aggregation: the default average.
        max_length: tokens, for the aggregation fixed_length.
        temperature: the policy is softmax(logits / temperature), the distribution that rollouts
            were sampled from.
        accuracy: log the share of targets that are the model's likeliest token (of a pair: on the
            chosen completion). It is meaningful on given text only.
        roles: what the sequences of each tree are, in order, such as ("chosen", "rejected"); ()
            where a tree may hold any. In a batch with rows of other kinds, terms of pairs name the
            pairs by `on`.
        groups: a tree holds the completions of one prompt that are compared with each other, so
            that it stays whole.
        tail_weight: of the tokens by which a completion of a pair is longer than the other, in its
            log-probability (LD-DPO).
        on_policy_weight: multiply losses of pairs by how likely the policy is to write them (WPO),
            held constant.
        measure_idle: metrics of tokens are means over all sampled tokens of a step, those of trees
            without a gradient included (see `training.idle`). If false they are means over the
            trees that train, and their names end in "/informative_groups".
        marks: streams that tell rows of the batches apart, such as "given" beside rollouts. A
            term's `on` is one of these, "all" or "sampled".
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
        marks: Collection[str] = (),
        carries: frozenset[str] | None = None,
    ) -> None:
        if not components:
            raise ConfigError("losses: at least one loss is needed; see `posttrain ls losses`")
        self._arguments = {k: v for k, v in locals().items() if k != "self"}
        self.terms = labelled([term_of(c, aggregation) for c in components])
        self.marks = frozenset(marks)
        check_marks(self.terms, self.marks)
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
        inputs = {name for term in self.terms for name in term.inputs}
        for name in missing_inputs(inputs, carries, roles) if carries is not None else ():
            self._refuse(name)
        inputs |= {base for name in inputs for base in (base_of(name, roles),) if base}
        inputs |= {"logprobs", "log_collision"} if on_policy_weight else set()
        if inputs & (LANGUAGE_MODEL | TEACHER):
            # Entropy is logged in any case; only where a loss trains it does it have to carry a
            # gradient.
            inputs |= {"logprobs", "entropy"} | (
                {"entropy_gradient"} if "entropy" in inputs else set()
            )
        self.needs = frozenset(inputs)
        per = {term.per for term in self.terms}
        self.whole: Literal["tree", "batch"] | None = (
            "batch"
            if "batch" in per
            else "tree"
            if roles or groups or per & {"pair", "group"}
            else None
        )

    def with_term(self, component: Component, *, carries: Collection[str] = ()) -> Objective:
        """The same objective with one more loss.

        Args:
            carries: inputs that come with it, beside those of the source.
        """
        arguments = dict(self._arguments)
        arguments["components"] = [*arguments["components"], component]
        if arguments["carries"] is not None:
            arguments["carries"] = arguments["carries"] | frozenset(carries)
        return Objective(**arguments)

    @property
    def needs_reference(self) -> bool:
        """Whether a frozen reference model is asked for."""
        streams = {d for name in self.needs for d in DERIVED.get(name, (name,))}
        return not streams.isdisjoint({"ref_logprobs", "ref_distribution"})

    def learns(self, tree: Tree) -> bool:
        """Whether any term may have a gradient on a tree of rollouts.

        A term that reads advantages has none where all of them are 0; it is averaged over those
        targets all the same.
        """
        for term in self.terms:
            if not term.weight:
                continue
            if "advantages" in term.inputs:
                learns = bool(tree.stream("advantages").any())
            else:
                learns = term.on in ("all", "sampled") or bool(selected(term.on, tree).any())
            if learns:
                return True
        return False

    def check_weights(self, sequences: Sequence[TokenSequence]) -> None:
        """Refuse rows with weights where a loss has no value a token that they could multiply.

        Raises:
            ConfigError: names the loss.
        """
        coarse = next((term for term in self.terms if term.per != "token"), None)
        if coarse is None:
            return
        for sequence in sequences:
            weights = sequence.streams.get("weights")
            if weights is not None and (weights[sequence.loss_mask] != 1).any():
                raise ConfigError(
                    f"losses: {coarse.name!r} has one value per {coarse.per}, which the weight of "
                    f"row {sequence.row} (how much its tokens count) does not change; leave the "
                    "column weight out, or take losses of tokens"
                )

    def denominators(self, batch: Batch) -> Totals:
        """Counts of the whole optimiser step, which its averages are divided by.

        Raises:
            DataError: a term reads a stream that some of its rows lack, or compares pairs in rows
                that are none.
        """
        check_rows(self.terms, batch, len(self.roles))
        weights = batch.stream_total("weights")
        return Totals(
            tokens=float(batch.num_targets) if weights is None else weights,
            sequences=batch.num_traces,
            groups=batch.num_trees,
            # "sampled" is counted in any case: metrics are of sampled targets.
            parts={
                on: counts(on, batch)
                for on in sorted({"sampled", *(term.on for term in self.terms)})
                if is_split(on, batch)
            },
        )

    def __call__(
        self, outputs: Mapping[str, Any], micro: Forest, totals: Totals
    ) -> tuple[Tensor, Averages]:
        """The micro-batch's share of the step's loss (shares add up), and its metrics."""
        metrics = Averages()
        views: dict[tuple[str, bool], tuple[Selection, dict[str, Any]]] = {}

        def view(on: str, by_trees: bool) -> tuple[Selection, dict[str, Any]]:
            """The targets that `on` names with the inputs of losses there, made once."""
            is_part = on in totals.parts
            key = (on, by_trees) if is_part else ("all", False)
            if key not in views:
                rows = (
                    select(on, micro, outputs, trees=by_trees)
                    if is_part
                    else everything(micro, outputs)
                )
                views[key] = rows, {} if rows.is_empty else self._inputs(rows)
            return views[key]

        shares = []
        for term in self.terms:
            rows, inputs = view(term.on, term.by_trees)
            share = (
                _zero(outputs)
                if rows.is_empty
                else self._share(term, rows, inputs, totals.on(term.on), metrics)
            )
            shares.append(term.weight * share)
            if len(self.terms) > 1:
                metrics.total(f"loss/{term.label}", share.detach())
        loss = torch.stack(shares).sum()
        metrics.total("loss", loss.detach())
        self._measure(view("sampled", False)[0], metrics)
        if self.roles:
            pairs = next((term for term in self.terms if term.per == "pair"), self.terms[0])
            self._measure_roles(*view(pairs.on, pairs.by_trees), metrics)
        elif self.accuracy and "correct" in outputs:
            correct = outputs["correct"]
            metrics.add("mean_token_accuracy", correct.sum(), correct.numel())
        return loss, metrics if self.measure_idle else metrics.renamed("/informative_groups")

    def _share(
        self,
        term: Term,
        rows: Selection,
        inputs: Mapping[str, Any],
        divisors: Totals,
        metrics: Averages,
    ) -> Tensor:
        """What these rows contribute to a term's average over the step."""
        for name in term.inputs:
            if name not in inputs and name not in DISTRIBUTIONS:
                self._refuse(name)
        values, logged = self._values(term, inputs, rows.outputs)
        for name, numbers in logged.items():
            _log(metrics, name, numbers.detach())
        if term.per == "batch":
            return values.sum() / max(values.numel(), 1)
        if term.per == "pair" and self.on_policy_weight:
            values = values * policy_weight(inputs, rows.sequence, rows.num_sequences, self.roles)
        if term.per != "token":
            count = divisors.sequences if term.per == "sequence" else divisors.groups
            return values.sum() / max(count, 1)
        weights = target_weights(
            term.aggregation,
            rows.sequence,
            rows.num_sequences,
            divisors,
            rows.streams.get("weights"),
            self.max_length,
            values.dtype,
        )
        return rows.total(weights * values)

    @staticmethod
    def _values(
        term: Term, inputs: Mapping[str, Any], outputs: Mapping[str, Any]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The term's values, and what else it logs. A function of whole distributions is called
        with chunks of targets.
        """
        if DISTRIBUTIONS.isdisjoint(term.inputs):
            result = term.function(*(inputs[name] for name in term.inputs))
        else:
            result = outputs["vocabulary"].apply(term.function, term.inputs, inputs)
        return result if isinstance(result, tuple) else (result, {})

    def _inputs(self, rows: Selection) -> dict[str, Any]:
        """Everything that the terms may ask for by name, on these rows."""
        inputs: dict[str, Any] = {
            **rows.streams,
            **rows.values,
            **rows.outputs,
            "target": rows.target,
            "sequence": rows.sequence,
            "num_sequences": rows.num_sequences,
            "group": rows.group,
        }
        if "old_logprobs" in self.needs and "old_logprobs" not in inputs:
            # No update has happened since the rollouts were sampled, so the current policy is the
            # old one.
            inputs["old_logprobs"] = rows.outputs["logprobs"].detach()
        names = {name for term in self.terms for name in term.inputs}
        if names - inputs.keys() - DISTRIBUTIONS or self.roles:
            # In a batch of several kinds of rows not every tree is a pair.
            in_roles = bool(self.roles) and rows.holds_only(len(self.roles))
            inputs |= sequence_inputs(
                inputs,
                rows.sequence,
                rows.num_sequences,
                self.roles if in_roles else (),
                self.tail_weight if in_roles or not self.roles else 1.0,
            )
        return inputs

    def _refuse(self, name: str) -> None:
        users = [term.name for term in self.terms if name in term.inputs]
        described = LOSS_INPUTS[name]
        raise ConfigError(
            f"losses: {users[0]!r} needs {name!r}, which this method's data do not carry "
            f"({described.meaning}; produced by: {described.producer})"
        )

    def _measure(self, rows: Selection, metrics: Averages) -> None:
        """Metrics of sampled targets: the entropy, and how far the sampler's log-probs are from
        the trainer's at the start of the step (TRL's names).

        The gap is 0 up to rounding when both have the same weights. Of several updates the first
        one's policy is compared in all of them, so that the change by training is not counted.
        """
        if "entropy" in rows.outputs:
            _log(metrics, "entropy", rows.outputs["entropy"].detach())
        if "engine_logprobs" not in rows.streams or not rows.num_targets:
            return
        start = rows.streams.get("old_logprobs")
        if start is None:
            start = rows.outputs["logprobs"].detach()
        gap = (start - rows.streams["engine_logprobs"]).abs()
        gap = gap[~gap.isnan()]  # rows of another kind have no log-probs of a sampler
        if gap.numel():
            _log(metrics, "sampling/sampling_logp_difference/mean", gap)
            metrics.largest("sampling/sampling_logp_difference/max", gap.max())

    def _measure_roles(self, rows: Selection, inputs: Mapping[str, Any], metrics: Averages) -> None:
        """Metrics of pairs: log-probs of each side, and accuracy on the first."""
        for side in self.roles:
            if side in inputs:
                metrics.add(f"logps/{side}", inputs[side].detach().sum(), inputs[side].numel())
        if self.accuracy and "correct" in rows.outputs:
            correct = rows.outputs["correct"][rows.sequence % len(self.roles) == 0]
            metrics.add("mean_token_accuracy", correct.sum(), correct.numel())


def _zero(outputs: Mapping[str, Any]) -> Tensor:
    """0, as a function of the model, for a micro-batch that has no target of a term."""
    tensors = [x for x in outputs.values() if isinstance(x, Tensor) and x.is_floating_point()]
    trained = next((x for x in tensors if x.requires_grad), tensors[0])
    return trained[:0].sum()


def _log(metrics: Averages, name: str, numbers: Tensor) -> None:
    """Add numbers to a metric, which is their mean, or their extreme if its name says so."""
    if not name.startswith(("min_", "max_")):
        metrics.add(name, numbers.sum(), numbers.numel())
    elif numbers.numel() and name.startswith("min_"):
        metrics.smallest(name, numbers.min())
    elif numbers.numel():
        metrics.largest(name, numbers.max())


def held_out(model: Any, objective: Objective, batch: Batch, max_tokens: int) -> dict[str, float]:
    """An objective's loss and metrics on a batch that is not trained on, as "eval_NAME"."""
    model.eval()
    totals = objective.denominators(batch)
    averages = Averages()
    with torch.no_grad():
        for micro in batch.split(max_tokens, share_trunks=True):
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
        for micro in batch.split(max_tokens, share_trunks=True):
            logprobs = model.forward(micro, frozenset({"logprobs"}))["logprobs"]
            total -= float(logprobs.double().sum())
    model.train()
    return total / max(batch.num_targets, 1)
