"""A registered loss on a few rows, in one call: for notebooks and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posttrain.config import Component, ComponentLike
from posttrain.data.comparisons import encode_labelled, encode_lists, encode_pairs
from posttrain.data.encode import encode_rows
from posttrain.data.encoded import Encoded
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.data.item import Item
from posttrain.errors import ConfigError, ModelError
from posttrain.inputs import SCORE_MODEL, TEACHER, base_of
from posttrain.models.forest_model import evaluating
from posttrain.models.language_model import LanguageModel
from posttrain.models.scoring import scored
from posttrain.registry import Entry, losses
from posttrain.sources.unpaired import UnpairedSource, mismatched
from posttrain.training.objective import Objective

# Rows are taken whole: what does not fit is an error.
_WHOLE: dict[str, Any] = {
    "max_length": 1 << 30,
    "truncation": "error",
    "max_masked": 0.0,
    "max_cut": 0.0,
    "max_unusable": 0.0,
}
_MAX_TOKENS = 1 << 14  # distinct tokens of a forward pass without gradient


@dataclass(frozen=True, slots=True)
class LossResult:
    """What `compute_loss` returns.

    Attributes:
        loss: the average that training minimises, a scalar with gradient.
        values: what the loss function returned, with gradient: [M] per token, [S] per sequence or
            [Q] per pair or group, in the order of the rows.
        metrics: what training would log for these rows.
        target: [M], the token ids that were predicted. sequence: [M], the index of the sequence
            that each of them is in; of a pair, the chosen one comes first.
    """

    loss: Tensor
    values: Tensor
    metrics: dict[str, float]
    target: Tensor
    sequence: Tensor


def compute_loss(
    model: LanguageModel,
    rows: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
    loss: ComponentLike,
    *,
    reference: LanguageModel | None = None,
    **settings: Any,
) -> LossResult:
    """A loss on rows, as in a training step on just these rows, with dropout off.

    >>> row = {"prompt": "2+2=", "chosen": " 4", "rejected": " 5"}
    >>> compute_loss(model, row, "dpo", beta=0.1).loss        # log 2 before training

    Args:
        rows: one row or several, in any format that training reads: texts, prompt and completion,
            chosen and rejected, labels, or completions with rewards. A column `advantage` gives
            each token of the completion that advantage, `reward` the completion its reward.
        loss: a name, a declared function, or a mapping with `name` and settings.
        reference: the frozen model to compare with. None: the model's own reference, or the model
            as it is now where it has none, so that all log-ratios are 0.
        settings: of the loss.
    Raises:
        ConfigError: an unknown loss or setting, or an input that these rows do not carry.
        DataError: rows of another format than the loss compares.
    """
    component = Component.of(loss)
    component = replace(component, settings={**component.settings, **settings})
    entry = losses.entry_of(component)
    encoded = _encode(_as_rows(rows), entry, model.tokenizer)
    groups = encoded.groups or [[sequence] for sequence in encoded.sequences]
    objective = _objective(component, entry, encoded.roles, groups, model)
    if "ref_logprobs" in objective.needs and (reference is not None or not _has_reference(model)):
        reference = reference or model
        _add_reference(reference, groups)
    elif reference is not None and objective.needs_reference:
        raise ConfigError(
            f"loss {entry.name!r} compares whole distributions with the model's own reference; "
            "leave `reference` out"
        )
    if {"kl", "shift"} & objective.needs:
        _measure_step(model, reference, groups, objective)

    batch = Batch([Tree.build(group) for group in groups], whole="batch")
    (micro,) = batch.split()
    micro = micro.to(model.device)
    recorded = _record_values(objective)
    with evaluating(model.hf):
        outputs = model.forward(micro, objective.needs)
    total, averages = objective(outputs, micro, objective.denominators(batch))
    return LossResult(total, torch.cat(recorded), averages.means(), micro.target, micro.sequence)


def _as_rows(rows: Any) -> list[dict[str, Any]]:
    several = [rows] if isinstance(rows, str | Mapping) else list(rows)
    if not several:
        raise ConfigError("rows: there is none; give a row such as {'prompt': ..., 'chosen': ...}")
    return [{"text": row} if isinstance(row, str) else dict(row) for row in several]


def _encode(rows: list[dict[str, Any]], entry: Entry, tokenizer: Any) -> Encoded:
    """Rows as sequences, in the groups that the loss compares."""
    pair = ("chosen", "rejected", "gold")
    bases = {base_of(name, pair) or name for name in entry.inputs}
    if bases & SCORE_MODEL:
        raise ConfigError(
            f"loss {entry.name!r} reads {', '.join(sorted(bases & SCORE_MODEL))}, which a language "
            "model does not compute; train it with the methods reward_model, ppo or offline"
        )
    if entry.per == "pair" or any(name.endswith(pair) for name in entry.inputs):
        return encode_pairs(rows, tokenizer, **_WHOLE)
    if entry.per == "group":
        return encode_lists(rows, tokenizer, **_WHOLE)
    if "label" in entry.inputs:
        return encode_labelled(rows, tokenizer, **_WHOLE)
    encoded = encode_rows(rows, tokenizer, values=_numbers, **_WHOLE)
    for sequence in encoded.sequences:
        if (advantage := sequence.values.pop("advantage", None)) is not None:
            sequence.streams["advantages"] = np.full(len(sequence.ids), advantage, np.float32)
    return encoded


def _numbers(item: Item) -> dict[str, float]:
    columns = {"reward": item.reward, "advantage": item.columns.get("advantage")}
    return {name: float(value) for name, value in columns.items() if value is not None}


def _objective(
    component: Component,
    entry: Entry,
    roles: tuple[str, ...],
    groups: Sequence[Sequence[TokenSequence]],
    model: LanguageModel,
) -> Objective:
    """The loss as an objective, which refuses what these rows and this model do not carry."""
    members = [sequence for group in groups for sequence in group]
    carried = {"old_logprobs"}  # before the first update they are the log-probs
    carried |= set.intersection(*({*s.values, *s.streams} for s in members))
    carried |= {"kl", "shift"} if "label" in carried else set()
    carried |= TEACHER if model.teacher is not None or model.foreign is not None else set()
    return Objective(
        [component],
        roles=roles,
        groups=entry.per == "group",
        accuracy=True,
        carries=frozenset(carried),
    )


def _has_reference(model: LanguageModel) -> bool:
    try:
        with model.reference():
            return True
    except ModelError:
        return False


def _add_reference(reference: LanguageModel, groups: Sequence[Sequence[TokenSequence]]) -> None:
    """Give each sequence its log-probs under the reference."""
    for sequence, numbers in scored(reference, groups, ("logprobs",), max_tokens=_MAX_TOKENS):
        stream = np.zeros(len(sequence.ids), dtype=np.float32)
        stream[sequence.loss_mask] = numbers["logprobs"]
        sequence.streams["ref_logprobs"] = stream


def _measure_step(
    model: LanguageModel,
    reference: LanguageModel | None,
    groups: Sequence[Sequence[TokenSequence]],
    objective: Objective,
) -> None:
    """Give each sequence the values that are the same for all of a step: kl and shift."""
    sequences = [sequence for group in groups for sequence in group]
    names = {"kl", "shift"} & objective.needs
    partners = mismatched(sequences, seed=0, max_length=1 << 30) if "kl" in names else {}
    if partners and reference is not None:
        _add_reference(reference, [[partner] for partner in partners.values()])
    source = UnpairedSource(
        sequences,
        partners,
        model=model,
        wanted=names,
        batch_size=len(sequences),
        seed=0,
        max_tokens=_MAX_TOKENS,
    )
    next(source.batches(0))


def _record_values(objective: Objective) -> list[Tensor]:
    """A list that receives what the loss function returns; of whole distributions, in chunks."""
    recorded: list[Tensor] = []
    (term,) = objective.terms

    def function(*inputs: Any) -> Any:
        result = term.function(*inputs)
        recorded.append(result[0] if isinstance(result, tuple) else result)
        return result

    objective.terms = [replace(term, function=function)]
    return recorded
