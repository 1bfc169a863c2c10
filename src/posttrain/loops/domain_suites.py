"""What is measured of each domain: its held-out part, and the places of its keywords."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.config import DataConfig
from posttrain.data.account import Account
from posttrain.data.domains import Domain, Split, documents, text_of
from posttrain.data.encoded import Encoded
from posttrain.data.forest import TokenSequence
from posttrain.data.training_data import encode_stream
from posttrain.evaluation.keywords import keyword_rows
from posttrain.evaluation.next_token import next_token
from posttrain.models.spec import ModelSpec

_SAMPLED = 200  # documents of each domain that its vector and keywords are made from
_CHARACTERS = 2000  # of each of them

Values = dict[str, dict[str, float]]
"""Measure -> domain -> value."""

Suites = dict[str, dict[str, Sequence[TokenSequence]]]
"""Measure -> domain -> held-out sequences."""


def suites_of(
    spec: ModelSpec, domains: Sequence[Domain], splits: Mapping[str, Split], num_keywords: int
) -> Suites:
    """The held-out sequences of all domains.

    Keywords are left out unless the held-out part of each domain has some.

    Args:
        num_keywords: of each domain; 0 = none.
    """
    account, context = Account(), spec.context_length()
    probes = keyword_rows(
        {name: sampled(DataConfig(str(split.train))) for name, split in splits.items()},
        {name: sampled(DataConfig(str(split.held_out))) for name, split in splits.items()},
        num_keywords,
    )
    suites: Suites = {"nats": {}}
    for domain in domains:
        name, data = domain.name, part_of(domain.data, splits[domain.name].held_out)
        suites["nats"][name] = encode_stream(
            data, spec.tokenizer, context, account=account, key=f"held_out.{name}"
        ).sequences
        if all(probes.values()):
            length = data.max_length
            rows = DataConfig.of(probes[name], max_length=length, truncation="keep_end", max_cut=1)
            key = f"keywords.{name}"
            encoded = encode_stream(rows, spec.tokenizer, context, account=account, key=key)
            eos = spec.tokenizer.eos_token_id
            suites.setdefault("keyword_rank", {})[name] = _without_ends(encoded, eos)
    return suites


def measured(model: Any, suites: Suites) -> Values:
    """Every measure of every domain."""
    values: Values = {}
    for measure, by_domain in suites.items():
        for name, sequences in by_domain.items():
            result = next_token(model, sequences)
            if measure == "nats":
                values.setdefault("nats", {})[name] = result.nats
                values.setdefault("rank", {})[name] = result.rank
            else:
                values.setdefault(measure, {})[name] = result.rank
    return values


def sampled(data: DataConfig) -> list[str]:
    """The beginnings of the first documents."""
    rows = documents(dataclasses.replace(data, limit=_SAMPLED))
    return [text_of(row)[:_CHARACTERS] for row in rows]


def part_of(data: DataConfig, file: Path) -> DataConfig:
    """A part of a domain, read as the domain is."""
    return dataclasses.replace(
        data,
        path=str(file),
        rows=None,
        subset=None,
        split="train",
        limit=None,
        columns={},
        document="paragraph",
    )


def _without_ends(encoded: Encoded, eos: int | None) -> list[TokenSequence]:
    """The sequences without the EOS behind a completion as a target."""
    sequences = []
    for sequence in encoded.sequences:
        mask = sequence.loss_mask.copy()
        mask[-1] &= int(sequence.ids[-1]) != eos
        sequences.append(dataclasses.replace(sequence, loss_mask=mask))
    return sequences
