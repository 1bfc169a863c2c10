"""What methods that learn from comparisons share: rows to sequences, facts, held-out loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console

from posttrain.config import DataConfig
from posttrain.data import training_data
from posttrain.data.account import Account
from posttrain.data.encoded import Encoded
from posttrain.data.forest import TokenSequence, Tree
from posttrain.data.templates import template_facts
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError, DataError
from posttrain.models.language_model import LanguageModel
from posttrain.models.spec import ModelSpec
from posttrain.terminal import write
from posttrain.training.objective import Objective, held_out
from posttrain.training.plan import Facts, Measure
from posttrain.training.reference import add_ref_logprobs, as_reference
from posttrain.types import Request, Sampling

Groups = list[list[TokenSequence]]


def encode_data(
    spec: ModelSpec,
    data: DataConfig,
    encode: Callable[..., Encoded],
    *,
    account: Account,
    key: str = "data",
) -> Encoded:
    """The rows of `data` as sequences that are compared, by one of `data.encode`'s functions.

    Raises:
        ConfigError, DataError: a setting of `data` that cannot be; rows that cannot be compared.
    """
    if data.train_on != "auto":
        raise ConfigError(
            f"{key}.train_on: {data.train_on!r}; whole completions are compared, so leave it out"
        )
    return training_data.encode_data(
        data, spec.tokenizer, spec.context_length(), encode, account=account, key=key
    )


def check_carried(
    objective: Objective,
    sequences: Sequence[TokenSequence],
    roles: tuple[str, ...] = (),
    *,
    where: str = "data",
) -> None:
    """Refuse losses that ask for what the data do not have: a margin, or the third text of a
    triple.
    """
    for term in objective.terms:
        if "margin" in term.inputs and "margin" not in sequences[0].values:
            raise ConfigError(f"losses: {term.name!r} needs a column margin in {where}")
        if "gold" not in roles and any("gold" in name for name in term.inputs):
            raise ConfigError(
                f"losses: {term.name!r} needs a column reference (the third text of a triple) in "
                f"{where}"
            )


def comparison_facts(spec: ModelSpec, encoded: Encoded, objective: Objective, what: str) -> Facts:
    """What a check shows of data and losses. what: a group's name in the plural."""
    groups = encoded.groups or [[s] for s in encoded.sequences]
    tokens = int(encoded.lengths.sum())
    distinct = sum(Tree.build(group).num_tokens for group in groups)
    frozen = " (with a frozen reference)" if objective.needs_reference else ""
    return [
        ("format", f"{encoded.form.name} ({encoded.form.reason})"),
        (
            what,
            f"{len(groups)} of {encoded.num_rows} rows; {encoded.truncated} cut, "
            f"{encoded.dropped} dropped as too long, {len(encoded.masked)} with nothing to compare "
            "or learn",
        ),
        (
            "tokens",
            f"{tokens}, of which {distinct} distinct; longest completion with prompt "
            f"{int(encoded.lengths.max())}",
        ),
        ("losses", losses_text(objective) + frozen),
        *template_facts(spec.tokenizer),
    ]


def losses_text(objective: Objective) -> str:
    """The losses with their weights."""
    return ", ".join(f"{term.name} x {term.weight:g}" for term in objective.terms)


def held_out_measure(objective: Objective, batch: Callable[[Any], Any]) -> Measure:
    """Loss and rewards on held-out rows. batch: source -> the batch of these rows."""

    def measure(model: Any, source: Any, max_tokens: int) -> dict[str, float]:
        return held_out(model, objective, batch(source), max_tokens)

    return measure


def within_perplexity(
    model: LanguageModel,
    groups: Groups,
    percentile: float,
    num_samples: int,
    seed: int,
    max_tokens: int,
    console: Console,
) -> tuple[Groups, int]:
    """The pairs whose completions are as likely as the reference's own, and how many are left out.

    PP(y) = exp(-1/T sum_t log ref(y_t)) must be at most the percentile of PP over num_samples
    completions that the reference writes for the data's prompts.

    Raises:
        DataError: no pair is left.
    """
    add_ref_logprobs(model, groups, max_tokens=max_tokens)
    perplexities = _perplexities(model, groups, num_samples, seed)
    bound = float(np.percentile(perplexities, percentile))

    def likely(sequence: TokenSequence) -> bool:
        logprobs = sequence.streams["ref_logprobs"][sequence.loss_mask]
        return float(np.exp(-logprobs.mean())) <= bound

    likely_groups = [group for group in groups if all(likely(s) for s in group[:2])]
    for sequence in (s for group in groups for s in group):
        del sequence.streams["ref_logprobs"]
    dropped = len(groups) - len(likely_groups)
    text = (
        f"{dropped} of {len(groups)} pairs are above perplexity {bound:.2f}, {percentile:g} % of "
        "the reference's own samples'"
    )
    if not likely_groups:
        raise DataError(
            f"perplexity_percentile: {text}; raise it, or fine-tune on the chosen completions first"
        )
    write(console, text)
    return likely_groups, dropped


def _perplexities(model: LanguageModel, groups: Groups, num_samples: int, seed: int) -> list[float]:
    """Of completions that the reference writes for prompts drawn from the data."""
    draw = np.random.default_rng((seed, 11))
    places = draw.choice(len(groups), num_samples, replace=num_samples > len(groups))
    sequences = [groups[i][0] for i in places]
    prompts = [tuple(int(t) for t in s.ids[: int(np.argmax(s.loss_mask))]) for s in sequences]
    longest = max(int(s.loss_mask.sum()) for group in groups for s in group)
    room = (model.context_length or 1 << 30) - max(len(p) for p in prompts)
    sampling = Sampling(max_tokens=min(longest, room))
    seeds = draw.integers(0, 2**62, len(prompts))
    requests = [
        Request(p, sampling, seed=int(number)) for p, number in zip(prompts, seeds, strict=True)
    ]
    with as_reference(model), torch.no_grad():
        samples = [s for row in TorchEngine(model).generate(requests) for s in row if s.ids]
    return [float(np.exp(-np.mean(sample.raw_logprobs))) for sample in samples]
