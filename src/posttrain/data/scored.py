"""Rows whose completions are scored, as sequences: which tokens are scored, and their labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from posttrain.data.encode import encode_items, usable_items
from posttrain.data.encoded import Encoded, Limits, Truncation
from posttrain.data.forest import TokenSequence
from posttrain.data.formats import RowFormat, detect_format
from posttrain.data.item import Item
from posttrain.data.steps import PieceTexts, scored_places, step_texts
from posttrain.data.weights import refuse_row_weights
from posttrain.errors import DataError
from posttrain.memory import without_collection
from posttrain.types import Text

Kind = Literal["pairs", "listwise", "rewarded", "labelled", "process"]
"""What rows say of completions: which of two is better (pairs), their order (listwise), a number
(rewarded), right or wrong (labelled), or right or wrong by step (process).
"""

_KINDS: dict[str, Kind] = {
    "preference": "pairs",
    "alpaca preference": "pairs",
    "sharegpt preference": "pairs",
    "listwise": "listwise",
    "rewarded": "rewarded",
    "unpaired preference": "labelled",
    "alpaca unpaired preference": "labelled",
    "stepwise": "process",
}


@dataclass(slots=True)
class EncodedScores(Encoded):
    """Sequences whose targets are the scored tokens.

    Attributes:
        kind: what the rows say of completions.
        trees: sequences that are compared, or share a prompt.
    """

    kind: Kind = "pairs"
    trees: list[list[TokenSequence]] = field(default_factory=list)


def reshaped(rows: Sequence[dict[str, Any]], kind: Kind) -> list[dict[str, Any]]:
    """Rows {prompt, completion, reward} as rows of another kind.

    pairs: the best completion of a prompt with the worst, the second best with the second worst,
    and so on while their rewards differ. listwise: all completions of a prompt. labelled: right or
    wrong, by rewards of 1 and 0. Rows without a reward are left out.

    Raises:
        DataError: a reward is neither 1 nor 0 where it should be a label, or no prompt has two
            completions to compare.
    """
    refuse_row_weights(rows)
    rewarded = [row for row in rows if row.get("reward") is not None]
    if kind == "rewarded":
        return rewarded
    if kind == "labelled":
        return _labelled(rewarded)
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rewarded:
        groups.setdefault(json.dumps(row["prompt"]), []).append(row)
    compared: list[dict[str, Any]] = []
    for group in groups.values():
        ordered = sorted(group, key=lambda row: -float(row["reward"]))
        if ordered[0]["reward"] == ordered[-1]["reward"]:
            continue
        first = {"prompt": group[0]["prompt"], "id": str(group[0].get("id", len(compared)))}
        if kind == "listwise":
            texts, rewards = [r["completion"] for r in group], [r["reward"] for r in group]
            compared.append({**first, "completions": texts, "rewards": rewards})
            continue
        for good, bad in zip(ordered, ordered[::-1], strict=True):
            if good["reward"] <= bad["reward"]:
                break
            texts_of_pair = {"chosen": good["completion"], "rejected": bad["completion"]}
            compared.append({**first, **texts_of_pair})
    if not compared:
        raise DataError(
            "no prompt has two completions with different rewards, so there is nothing to compare"
        )
    return compared


def _labelled(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    for row in rows:
        if row["reward"] not in (0, 1):
            raise DataError(
                f"a reward is {row['reward']!r}; where rewards are labels they must be 0 or 1 "
                "(else use loss regression)"
            )
    return [
        {"prompt": r["prompt"], "completion": r["completion"], "label": bool(r["reward"])}
        for r in rows
    ]


def kind_of(form: RowFormat) -> Kind:
    """What rows of a format say of completions.

    Raises:
        DataError: nothing; lists the formats that do.
    """
    if form.name not in _KINDS:
        raise DataError(
            f"the rows are of format {form.name} ({form.reason}), which says nothing about which "
            "completion is good. Accepted are chosen, rejected; prompt, completion, label; prompt, "
            "completion, reward; prompt, completions, labels (of steps); prompt, completions, "
            "rewards (or ranks)"
        )
    return _KINDS[form.name]


@without_collection()
def encode_scores(
    rows: Sequence[dict[str, Any]],
    tokenizer: Any,
    *,
    every_token: bool = False,
    separator: str = "\n",
    max_length: int = 1024,
    truncation: Truncation = "auto",
    max_masked: float = 0.1,
    max_cut: float = 0.1,
    context: int | None = None,
    max_unusable: float = 0.1,
) -> EncodedScores:
    """Rows that say how good completions are, as sequences that end in the last scored token.

    A completion is scored at its last token, EOS included. With every_token it is scored at each
    of its tokens, which then carry its label in the stream "labels". A stepwise row is scored at
    the last token of each step. All but stepwise rows carry the value "completion_length", the
    tokens without the prompt, EOS included. A row is left out, and counted in `masked`, when its
    completions are the same, have equal rewards, or have no token left to score.

    Args:
        separator: text between the steps of a stepwise row; it belongs to the step before it.
        max_length, truncation, max_masked, max_cut, context, max_unusable: see `Limits`.
    Raises:
        DataError: the format says nothing about completions, a row has a weight, all labels are
            the same, or too many rows are lost.
    """
    form = detect_format(rows)
    refuse_row_weights(rows)
    limits = Limits(max_length, truncation, max_masked, max_cut, context, max_unusable)
    encoded = EncodedScores([], form, kind=kind_of(form))
    parts: list[list[Item]] = []

    def check(item: Item) -> Item:
        parts.append(_parts(item, separator))
        return item

    for _ in usable_items(encoded, rows, check):
        pass
    sequences = encode_items((part for row in parts for part in row), tokenizer)
    pieces = PieceTexts(tokenizer)
    for of_row in parts:
        whole = [next(sequences) for _ in of_row]
        try:
            tree = [
                _score_at(sequence, item, encoded.kind, every_token, separator, pieces)
                for item, sequence in whole
            ]
        except DataError as error:
            encoded.skip(error)
            continue
        name = of_row[0].columns["row"]
        tree = encoded.fitted(name, tree, limits)
        if tree and _comparable(tree, encoded.kind):
            _add_tree(encoded, tree, every_token)
        elif tree:
            encoded.masked.append(name)
    encoded.refuse_losses(
        limits, "have equal completions, equal rewards, or one without a token to score"
    )
    _refuse_one_label(encoded)
    return encoded


def _add_tree(encoded: EncodedScores, tree: list[TokenSequence], every_token: bool) -> None:
    """Add the sequences of a row, with masks of the scored tokens."""
    if encoded.kind != "process":
        for sequence in tree:  # counted before the mask becomes the last token alone
            sequence.values["completion_length"] = float(sequence.loss_mask.sum())
        if not every_token:
            tree = [_last_alone(sequence) for sequence in tree]
    encoded.trees.append(tree)
    for sequence in tree:
        encoded.add(sequence)


def encode_completions(
    prompts: Sequence[Text], completions: Sequence[Text], tokenizer: Any
) -> list[TokenSequence]:
    """Prompts with their completions as sequences that end where the completion ends; the mask is
    the completion.
    """
    items = [
        Item(str(i), prompt=p, completion=c)
        for i, (p, c) in enumerate(zip(prompts, completions, strict=True))
    ]
    return [_to_the_end(sequence) for _, sequence in encode_items(items, tokenizer)]


def _to_the_end(sequence: TokenSequence) -> TokenSequence:
    """The sequence up to the last token of its completion, without what a template writes after
    it, so that the completion's last token is scored.
    """
    stop = int(np.flatnonzero(sequence.loss_mask)[-1]) + 1
    return TokenSequence(sequence.ids[:stop], sequence.loss_mask[:stop], row=sequence.row)


def _parts(item: Item, separator: str) -> list[Item]:
    """One item per completion. columns: "row", its name, and "verdict", what the row says of it."""
    parts = []
    verdicts = _verdicts(item, separator)
    for number, (text, verdict) in enumerate(verdicts):
        shape: dict[str, Any] = {"completion": text}
        if item.prompt is None and isinstance(text, str):  # a whole dialogue in one text
            shape = {"text": text, "completion": None}
        elif isinstance(item.prompt, list) and isinstance(text, str):
            shape = {"completion": [{"role": "assistant", "content": text}]}
        name = item.row if len(verdicts) == 1 else f"{item.row} {number}"
        if item.chosen is not None:
            name = f"{item.row} {('chosen', 'rejected')[number]}"
        columns = {"row": item.row, "verdict": verdict}
        parts.append(replace(item, chosen=None, rejected=None, row=name, columns=columns, **shape))
    if not parts:
        raise DataError(f"row {item.row} has no completion")
    return parts


def _verdicts(item: Item, separator: str) -> list[tuple[Text, dict[str, Any]]]:
    """The completions of a row, each with what the row says of it."""
    if item.chosen is not None and item.rejected is not None:
        probability = 1.0 if item.probability is None else item.probability
        values = {"margin": item.margin or 0.0, "probability": probability}
        return [(item.chosen, values), (item.rejected, values)]
    if item.steps:
        return [(_joined(item, separator), {"steps": item.step_labels})]
    if item.completions:
        pairs = zip(item.completions, item.rewards, strict=True)
        return [(text, {"reward": reward}) for text, reward in pairs]
    assert item.completion is not None
    if item.label is not None:
        return [(item.completion, {"label": float(item.label)})]
    if item.reward is None:
        raise DataError(f"row {item.row} has no reward; leave it out, or give it a number")
    return [(item.completion, {"reward": item.reward})]


def _joined(item: Item, separator: str) -> str:
    steps = [step.removesuffix(separator) for step in item.steps]
    for number, step in enumerate(steps):
        if len(step_texts(step, separator)) != 1:
            raise DataError(
                f"row {item.row}: completions[{number}] contains the step separator "
                f"{separator!r}, so its label fits no step; set step_separator to a text that no "
                "step contains"
            )
    return separator.join(steps)


def _score_at(
    sequence: TokenSequence,
    item: Item,
    kind: Kind,
    every_token: bool,
    separator: str,
    pieces: PieceTexts,
) -> TokenSequence:
    """The sequence up to the end of its completion with the row's verdict. Its mask is the
    completion, or the ends of its steps.
    """
    if not sequence.loss_mask.any():
        return sequence
    sequence = _to_the_end(sequence)
    verdict = item.columns["verdict"]
    numbers = ("margin", "probability", "reward", "label")
    sequence.values = {k: float(v) for k, v in verdict.items() if k in numbers}
    if kind == "process":
        places = scored_places(sequence, separator, pieces)
        if len(places) != len(verdict["steps"]):
            raise DataError(
                f"row {item.row}: {len(verdict['steps'])} labels but {len(places)} steps between "
                f"separators {separator!r}; a step must be text that the tokenizer keeps"
            )
        sequence.loss_mask = np.isin(np.arange(len(sequence.ids)), places)
        labels = np.zeros(len(sequence.ids), dtype=np.float32)
        labels[places] = verdict["steps"]
        sequence.streams["labels"] = labels
    elif every_token and "label" in verdict:
        sequence.streams["labels"] = np.full(len(sequence.ids), verdict["label"], dtype=np.float32)
    return sequence


def _last_alone(sequence: TokenSequence) -> TokenSequence:
    mask = np.arange(len(sequence.ids)) == len(sequence.ids) - 1
    return TokenSequence(sequence.ids, mask, sequence.streams, sequence.values, sequence.row)


def _comparable(tree: list[TokenSequence], kind: Kind) -> bool:
    """Whether there is something to learn: tokens to score and, of several completions, texts
    and rewards that differ.
    """
    if not all(s.loss_mask.any() for s in tree):
        return False
    if len(tree) == 1:
        return kind != "listwise"
    rewards = {s.values["reward"] for s in tree if "reward" in s.values}
    return len(rewards) != 1 and any(not np.array_equal(tree[0].ids, s.ids) for s in tree[1:])


def _refuse_one_label(encoded: EncodedScores) -> None:
    """Refuse rows whose labels are all the same."""
    labels: set[float] = set()
    for sequence in encoded.sequences:
        if "labels" in sequence.streams:
            labels.update(map(float, sequence.streams["labels"][sequence.loss_mask]))
        elif "label" in sequence.values:
            labels.add(float(sequence.values["label"]))
    if len(labels) == 1:
        raise DataError(
            f"every label is {labels.pop():g}: nothing can be learnt from one class alone; add "
            "rows of the other"
        )
