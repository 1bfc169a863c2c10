"""From rows to training sequences, with a count of everything that was cut or left out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from posttrain.data.forest import TokenSequence
from posttrain.data.formats import RowFormat, detect_format, normalise
from posttrain.data.item import Item
from posttrain.data.templates import Tokenized, TrainOn, encode_messages, encode_pair, encode_step, encode_text
from posttrain.errors import DataError
from posttrain.memory import without_collection
from posttrain.types import Message, Text

_BATCH = 1024  # rows tokenised at a time

Truncation = Literal["drop", "keep_start", "keep_end", "error"]


@dataclass(slots=True)
class Encoded:
    """Sequences and what became of the rows.

    groups: the sequences that are compared with each other, where there are such: pairs, triples, lists. roles: of each
    group's sequences. truncated: rows that were cut. dropped: rows that were too long. masked: rows left out, without any
    trained token or, of groups, with nothing to compare.
    """

    sequences: list[TokenSequence]
    form: RowFormat
    num_rows: int = 0
    truncated: int = 0
    dropped: int = 0
    masked: list[str] = field(default_factory=list)
    groups: list[list[TokenSequence]] = field(default_factory=list)
    roles: tuple[str, ...] = ()

    def add_group(self, members: list[TokenSequence]) -> None:
        """Sequences that are compared with each other."""
        self.groups.append(members)
        self.sequences += members

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence."""
        return np.array([len(s.ids) for s in self.sequences])

    @property
    def num_trained(self) -> int:
        """Tokens that count, over all sequences."""
        return int(sum(s.loss_mask.sum() for s in self.sequences))


@without_collection()
def encode_rows(
    rows: Sequence[dict[str, Any]],
    tokenizer: Any,
    *,
    train_on: TrainOn = "auto",
    max_length: int = 1024,
    truncation: Truncation = "keep_start",
    max_masked: float = 0.1,
    values: Callable[[Item], dict[str, float]] | None = None,
    rationale_weight: float = 0.0,
) -> Encoded:
    """Rows of any known format that has completions, as training sequences.

    A column `weight` says how much the tokens of a row count (1 where it is empty).

    Args:
        rationale_weight: above 0, rows with a column `rationale` become two: see `with_rationales`.
        train_on: "auto" trains completions and assistant turns, and all of a plain text. max_length: tokens.
        max_masked: share of rows without a trained token (after truncation) above which everything is refused.
        values: numbers that each row's sequence carries.
    Raises:
        DataError: unknown format, a row without a completion, too many rows without a trained token.
    """
    form = detect_format(rows)
    encoded = Encoded([], form, num_rows=len(rows))
    items: Iterable[Item] = (normalise(row, form, str(row.get("id", number))) for number, row in enumerate(rows))
    if rationale_weight:
        items = with_rationales(items, rationale_weight)
    weighted = rationale_weight > 0 or any(row.get("weight") is not None for row in rows) or _has_weights(rows)
    for item, sequence in encode_items(items, tokenizer, train_on):
        name = item.row
        if values is not None:
            sequence.values = values(item)
        if weighted:
            _weigh(sequence, item)
        if len(sequence.ids) > max_length:
            if truncation == "error":
                raise DataError(
                    f"row {name} has {len(sequence.ids)} tokens, max_length is {max_length}; raise it, or set truncation"
                )
            if truncation == "drop":
                encoded.dropped += 1
                continue
            encoded.truncated += 1
            sequence = cut(sequence, max_length, truncation)
        if item.label is not None:
            sequence.values["label"] = float(item.label)
        if sequence.loss_mask.any():
            encoded.sequences.append(sequence)
        else:
            encoded.masked.append(name)
    _refuse_masked(encoded, max_length, max_masked)
    return encoded


def with_rationales(items: Iterable[Item], weight: float) -> Iterator[Item]:
    """Distilling step by step (arXiv 2305.02301): a row with a rationale becomes two tasks, told apart by their prompts.

    "[label] " and the prompt lead to the completion, whose tokens count 1; "[rationale] " and the prompt to the rationale,
    whose tokens count `weight`. With the usual mean over tokens that is L_label + weight L_rationale up to a common factor,
    where both are sums over tokens.

    Raises:
        DataError: a row without a rationale, or without a prompt to put the word before.
    """
    for item in items:
        rationale = item.columns.get("rationale")
        if not isinstance(rationale, str) or not rationale.strip():
            raise DataError(f"row {item.row} has no text in the column 'rationale', which data.rationale_weight needs")
        told: dict[str, Text] = {"label": item.completion or "", "rationale": rationale}
        for task, completion in told.items():
            if isinstance(item.prompt, str):
                prompt: Text = f"[{task}] {item.prompt}"
            elif item.prompt and item.prompt[-1]["role"] == "user":
                prompt = [*item.prompt[:-1], {**item.prompt[-1], "content": f"[{task}] {item.prompt[-1]['content']}"}]
                completion = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
            else:
                raise DataError(f"row {item.row} has no prompt, which a rationale needs; use the columns prompt and completion")
            share = weight if task == "rationale" else 1.0
            columns = {**item.columns, "weight": share * _row_weight(item)}
            yield replace(item, prompt=prompt, completion=completion, columns=columns, row=f"{item.row} {task}")


def _has_weights(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether a message anywhere has a weight: then every sequence needs the stream."""
    lists = (value for row in rows for value in row.values() if isinstance(value, list))
    return any(isinstance(m, dict) and "role" in m and m.get("weight") is not None for value in lists for m in value)


def refuse_row_weights(rows: Sequence[dict[str, Any]]) -> None:
    """Refuse a column `weight` where completions are compared or scored as wholes: no such loss reads it.

    Raises:
        DataError: a row whose weight is not 1 (an empty one is).
    """
    for number, row in enumerate(rows):
        if row.get("weight") not in (None, 1):
            raise DataError(
                f"row {row.get('id', number)}: weight {row['weight']!r} says how much a row's tokens count, but losses of "
                "whole completions, pairs and lists count each row once; leave the column out, and repeat or drop rows instead"
            )


def _row_weight(item: Item) -> float:
    weight = item.columns.get("weight")
    if weight is None:
        return 1.0
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise DataError(f"row {item.row}: weight {weight!r} says how much the row's tokens count; a number, 0 or above")
    return float(weight)


def _weigh(sequence: TokenSequence, item: Item) -> None:
    """Multiply the weights of a sequence's tokens by its row's; a row of weight 0 is not trained on."""
    factor = _row_weight(item)
    ones = np.ones(len(sequence.ids), dtype=np.float32)
    sequence.streams["weights"] = sequence.streams.get("weights", ones) * np.float32(factor)
    if factor == 0:
        sequence.loss_mask = np.zeros_like(sequence.loss_mask)


def encode_items(items: Iterable[Item], tokenizer: Any, train_on: TrainOn = "auto") -> Iterator[tuple[Item, TokenSequence]]:
    """Each item with its training sequence; plain text is tokenised many rows at a time."""
    for some in _batched(items, _BATCH):
        plain = (t for item in some for t in (item.text, item.prompt, item.completion) if isinstance(t, str))
        known = Tokenized.of(tokenizer, plain)
        for item in some:
            yield item, encode_item(item, tokenizer, train_on, known)


def encode_item(item: Item, tokenizer: Any, train_on: TrainOn = "auto", known: Tokenized | None = None) -> TokenSequence:
    """One row as a training sequence. known: the ids of its plain texts, where they have been made already."""
    if item.text is not None:
        return encode_text(tokenizer, item.text, row=item.row, known=known)
    if item.completion is None:
        raise DataError(f"row {item.row} has no completion to learn from; method sft needs one (columns prompt, completion)")
    if isinstance(item.completion, str):
        everything = train_on == "everything"
        texts = known if isinstance(item.prompt, str) else None
        return encode_pair(tokenizer, str(item.prompt), item.completion, everything=everything, row=item.row, known=texts)
    prompt: list[Message] = [] if item.prompt is None or isinstance(item.prompt, str) else item.prompt
    chosen: TrainOn = "all_assistant" if train_on == "auto" else train_on
    if item.prompt is not None and train_on in ("auto", "completion"):
        # What the prompt says, its assistant turns included, is given and not learnt.
        prompt = [{**m, "train": False} for m in prompt]
        chosen = "all_assistant"
    elif train_on == "completion":
        chosen = "last"
    return encode_messages(tokenizer, [*prompt, *item.completion], tools=item.tools, train_on=chosen, row=item.row)


@without_collection()
def encode_pairs(
    rows: Sequence[dict[str, Any]],
    tokenizer: Any,
    *,
    max_length: int = 1024,
    truncation: Truncation = "keep_start",
    max_masked: float = 0.1,
) -> Encoded:
    """Rows of a preference format: groups of a chosen and a rejected sequence, and of a triple its reference text, "gold".

    A pair is left out, and counted in `masked`, when both completions are the same or one has no token left to compare.
    A column margin becomes the value of that name. Of a step preference, the prompt and the steps before are given.

    Raises:
        DataError: not a preference format, a pair without a prompt, a row's weight, too many pairs left out.
    """
    form = detect_format(rows)
    if "preference" not in form.name or "unpaired" in form.name:
        raise DataError(
            f"the rows are of format {form.name} ({form.reason}); pairs need the columns chosen and rejected, and a prompt"
        )
    roles = ("chosen", "rejected", "gold") if form.name == "triple preference" else ("chosen", "rejected")
    refuse_row_weights(rows)
    encoded = Encoded([], form, num_rows=len(rows), roles=roles)
    for number, row in enumerate(rows):
        name = str(row.get("id", number))
        item = normalise(row, form, name)
        if item.prompt is None:
            raise DataError(f"row {name} has no prompt; add a column prompt, or write chosen and rejected as messages")
        texts = dict(zip(roles, (item.chosen, item.rejected, item.reference)))
        pair = _fitted(_completions(item, texts, tokenizer), name, encoded, max_length, truncation)
        if pair is None:
            continue
        if item.margin is not None:
            for sequence in pair:
                sequence.values["margin"] = item.margin
        if all(s.loss_mask.any() for s in pair) and not np.array_equal(pair[0].ids, pair[1].ids):
            encoded.add_group(pair)
        else:
            encoded.masked.append(name)
    _refuse_masked(encoded, max_length, max_masked, "have equal completions or one without a token to compare")
    lacking = [group[0].row for group in encoded.groups if "margin" not in group[0].values]
    if 0 < len(lacking) < len(encoded.groups):
        raise DataError(f"row {lacking[0].split()[0]} has no margin but others have; give it to every row or to none")
    return encoded


@without_collection()
def encode_labelled(
    rows: Sequence[dict[str, Any]],
    tokenizer: Any,
    *,
    max_length: int = 1024,
    truncation: Truncation = "keep_start",
    max_masked: float = 0.1,
) -> Encoded:
    """Single completions with the value "label", 1 desirable or 0: rows {prompt, completion, label}, or pairs taken apart.

    Raises:
        DataError: another format, a row's weight, too many rows without a trained token.
    """
    form = detect_format(rows)
    bounds: dict[str, Any] = {"max_length": max_length, "truncation": truncation, "max_masked": max_masked}
    if "unpaired" in form.name:
        refuse_row_weights(rows)
        return encode_rows(rows, tokenizer, **bounds)
    if "preference" not in form.name:
        raise DataError(
            f"the rows are of format {form.name} ({form.reason}); wanted are the columns prompt, completion and label, or pairs"
        )
    encoded = encode_pairs(rows, tokenizer, **bounds)
    for group in encoded.groups:
        for sequence, role in zip(group, encoded.roles, strict=True):
            sequence.values = {"label": float(role != "rejected")}
    return replace(encoded, groups=[], roles=())


@without_collection()
def encode_lists(
    rows: Sequence[dict[str, Any]],
    tokenizer: Any,
    *,
    max_length: int = 1024,
    truncation: Truncation = "keep_start",
    max_masked: float = 0.1,
) -> Encoded:
    """Rows {prompt, completions, scores or ranks} as groups of sequences; the value "reward" of each is its score.

    A group is left out, and counted in `masked`, when fewer than two completions have a token, or all scores are equal.

    Raises:
        DataError: not a listwise format, a row's weight, too many groups left out.
    """
    form = detect_format(rows)
    if form.name != "listwise":
        raise DataError(
            f"the rows are of format {form.name} ({form.reason}); "
            "lists need the columns prompt, completions and scores (or ranks)"
        )
    refuse_row_weights(rows)
    encoded = Encoded([], form, num_rows=len(rows))
    for number, row in enumerate(rows):
        name = str(row.get("id", number))
        item = normalise(row, form, name)
        texts = {str(i): text for i, text in enumerate(item.completions)}
        group = _fitted(_completions(item, texts, tokenizer), name, encoded, max_length, truncation) if texts else []
        if group is None:
            continue
        for sequence, score in zip(group, item.rewards, strict=True):
            sequence.values["reward"] = score
        group = [s for s in group if s.loss_mask.any()]
        if len({s.values["reward"] for s in group}) > 1:
            encoded.add_group(group)
        else:
            encoded.masked.append(name)
    _refuse_masked(encoded, max_length, max_masked, "have fewer than two completions with a token, or equal scores")
    return encoded


def _completions(item: Item, texts: dict[str, Any], tokenizer: Any) -> list[TokenSequence]:
    """Several completions of a row's prompt, by name, as sequences."""
    if item.prefix is not None and item.prompt is not None:
        rows = {name: f"{item.row} {name}" for name in texts}
        return [encode_step(tokenizer, item.prompt, item.prefix, str(t), row=rows[name]) for name, t in texts.items()]
    halves = [replace(item, completion=text, row=f"{item.row} {name}") for name, text in texts.items()]
    return [sequence for _, sequence in encode_items(halves, tokenizer)]


def _fitted(
    group: list[TokenSequence], name: str, encoded: Encoded, max_length: int, truncation: Truncation
) -> list[TokenSequence] | None:
    """A row's sequences within max_length; None where the row is dropped, which is counted."""
    longest = max(len(s.ids) for s in group)
    if longest <= max_length:
        return group
    if truncation == "error":
        raise DataError(f"row {name} has {longest} tokens, max_length is {max_length}; raise it, or set truncation")
    if truncation == "drop":
        encoded.dropped += 1
        return None
    encoded.truncated += 1
    return [cut(s, max_length, truncation) if len(s.ids) > max_length else s for s in group]


def _batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while some := list(itertools.islice(rest, size)):
        yield some


def cut(sequence: TokenSequence, max_length: int, truncation: Truncation) -> TokenSequence:
    """At most max_length tokens of a sequence, from its start or its end."""
    part = slice(None, max_length) if truncation == "keep_start" else slice(-max_length, None)
    mask = sequence.loss_mask[part].copy()
    mask[0] = False
    streams = {k: v[part] for k, v in sequence.streams.items()}
    return TokenSequence(sequence.ids[part], mask, streams, sequence.values, sequence.row)


def _refuse_masked(encoded: Encoded, max_length: int, max_masked: float, what: str = "have every label masked") -> None:
    share = len(encoded.masked) / max(encoded.num_rows, 1)
    if encoded.sequences and share <= max_masked:
        return
    why = f"{encoded.truncated} rows were cut to max_length {max_length}, {encoded.dropped} were dropped as too long"
    if not encoded.sequences:
        raise DataError(
            f"no row has a trained token: of {encoded.num_rows} rows {len(encoded.masked)} {what}; {why}. "
            "Raise max_length, or look at the rows with `posttrain preview`"
        )
    raise DataError(
        f"{len(encoded.masked)} of {encoded.num_rows} rows {what} (first: {', '.join(encoded.masked[:5])}); "
        f"{why}. Raise max_length, or accept it with max_masked: {share:.2f}"
    )
