"""From rows to sequences whose scores are learnt: which token is scored, and what is known of
it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from posttrain.data.encode import encode_items, refuse_row_weights
from posttrain.data.encoded import Encoded, Limits, Truncation
from posttrain.data.forest import TokenSequence
from posttrain.data.formats import RowFormat, detect_format, normalise
from posttrain.data.item import Item
from posttrain.errors import DataError
from posttrain.memory import without_collection
from posttrain.types import Text

Kind = Literal["pairs", "listwise", "rewarded", "labelled", "process"]
"""What is known: a better and a worse completion, several in order, a number, right or wrong,
or that of each step.
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
    """Sequences whose targets are the scored tokens. trees: those that are compared, or share a
    prompt, stand together.
    """

    kind: Kind = "pairs"
    trees: list[list[TokenSequence]] = field(default_factory=list)


def reshaped(rows: Sequence[dict[str, Any]], kind: Kind) -> list[dict[str, Any]]:
    """Rows of prompt, completion and reward as rows of another kind; the completions of a prompt
    are put together.

    pairs: the best with the worst, the second best with the second worst, and so on while their
    rewards differ. listwise: all of a prompt. labelled: right or wrong, by rewards of 1 and 0. Rows
    without a reward are left out.

    Raises:
        DataError: a reward that is neither 1 nor 0 where it should be a label; no two completions
        to compare.
    """
    refuse_row_weights(rows)
    known = [row for row in rows if row.get("reward") is not None]
    if kind == "rewarded":
        return known
    if kind == "labelled":
        if wrong := [row["reward"] for row in known if row["reward"] not in (0, 1)]:
            raise DataError(
                f"a reward is {wrong[0]!r}; where rewards are labels they must be 0 or 1 (else "
                "use loss regression)"
            )
        return [
            {"prompt": r["prompt"], "completion": r["completion"], "label": bool(r["reward"])}
            for r in known
        ]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in known:
        groups.setdefault(json.dumps(row["prompt"]), []).append(row)
    made: list[dict[str, Any]] = []
    for group in groups.values():
        ordered = sorted(group, key=lambda row: -float(row["reward"]))
        if ordered[0]["reward"] == ordered[-1]["reward"]:
            continue
        prompt, name = group[0]["prompt"], str(group[0].get("id", len(made)))
        if kind == "listwise":
            texts, rewards = [r["completion"] for r in group], [r["reward"] for r in group]
            made.append({"prompt": prompt, "completions": texts, "rewards": rewards, "id": name})
            continue
        for good, bad in zip(ordered, ordered[::-1], strict=True):
            if good["reward"] <= bad["reward"]:
                break
            made.append(
                {
                    "prompt": prompt,
                    "chosen": good["completion"],
                    "rejected": bad["completion"],
                    "id": name,
                }
            )
    if not made:
        raise DataError(
            "no prompt has two completions with different rewards, so that nothing can be compared"
        )
    return made


def kind_of(form: RowFormat) -> Kind:
    """What rows of a format tell a model of scores.

    Raises:
        DataError: they tell nothing; lists what would.
    """
    if form.name not in _KINDS:
        raise DataError(
            f"the rows are of format {form.name} ({form.reason}), which says nothing about which "
            "completion is good. Accepted "
            "are chosen, rejected; prompt, completion, label; prompt, completion, reward; prompt, "
            "completions, labels (of "
            "steps); prompt, completions, rewards (or ranks)"
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
) -> EncodedScores:
    """Rows of a format that tells good from bad, as sequences that end in the last token that is
    scored.

    The value "completion_length" of each, but of stepwise rows, is its tokens without the prompt,
    EOS included. A completion is scored at its last token, EOS included; with every_token at each
    of its tokens, which then carry the completion's label in the stream "labels"; a stepwise row at
    the last token of each step. A row is left out, and counted in
    `masked`, when its completions are the same, have equal rewards, or have no token left to score.

    Args:
        separator: what stands between the steps of a stepwise row, and belongs to the step before
        it.
    Raises:
        DataError: a format that tells nothing, a row's weight, labels that do not fit the steps,
        labels that are all the same.
    """
    form = detect_format(rows)
    refuse_row_weights(rows)
    limits = Limits(max_length, truncation, max_masked, max_cut, context)
    encoded = EncodedScores([], form, num_rows=len(rows), kind=kind_of(form))
    parts: list[list[Item]] = []
    for number, row in enumerate(rows):
        parts.append(_parts(normalise(row, form, str(row.get("id", number))), separator))
    sequences = encode_items((part for row in parts for part in row), tokenizer)
    texts = PieceTexts(tokenizer)
    for of_row in parts:
        tree = [
            _score_at(sequence, item, encoded.kind, every_token, separator, texts)
            for item, sequence in (next(sequences) for _ in of_row)
        ]
        name = of_row[0].columns["row"]
        tree = encoded.fitted(name, tree, limits)
        if not tree:
            continue
        if _comparable(tree, encoded.kind):
            for s in tree:  # the mask that knows it is about to go
                s.values |= (
                    {"completion_length": float(s.loss_mask.sum())}
                    if encoded.kind != "process"
                    else {}
                )
            tree = [s if encoded.kind == "process" or every_token else _last_alone(s) for s in tree]
            encoded.trees.append(tree)
            for sequence in tree:
                encoded.add(sequence)
        else:
            encoded.masked.append(name)
    encoded.refuse_losses(
        limits, "have equal completions, equal rewards, or one without a token to score"
    )
    _refuse_one_label(encoded)
    return encoded


class PieceTexts:
    """The text that each token id adds inside a longer text; "" for special tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def __call__(self, ids: Sequence[int]) -> list[str]:
        """The pieces of some ids."""
        fresh = sorted({int(i) for i in ids} - self._known.keys())
        if not fresh:
            return [self._known[int(i)] for i in ids]
        alone = self._tokenizer.batch_decode([[i] for i in fresh], skip_special_tokens=True)
        # Many tokenizers drop the space that a text begins with; behind its like a token keeps it.
        twice = self._tokenizer.batch_decode([[i, i] for i in fresh], skip_special_tokens=True)
        self._known |= {i: two[len(one) :] for i, one, two in zip(fresh, alone, twice, strict=True)}
        return [self._known[int(i)] for i in ids]


def step_ends(texts: Sequence[str], separator: str) -> list[int]:
    """Index of the last token of each step of a completion.

    A step ends with the token that completes the separator behind it, the last one with the
    completion's last token. What is white space alone is no step.

    Args:
        texts: what each token of the completion adds (`PieceTexts`).
    """
    whole = "".join(texts)
    char_ends = np.cumsum([len(t) for t in texts])
    ends: list[int] = []
    start = 0
    while start <= len(whole):
        place = whole.find(separator, start)
        if whole[start : place if place >= 0 else None].strip():
            last = len(texts) - 1  # tokens without text, such as EOS, belong to the last step
            ends.append(
                last if place < 0 else int(np.searchsorted(char_ends, place + len(separator)))
            )
        if place < 0:
            break
        start = place + len(separator)
    return ends


def step_texts(text: str, separator: str) -> list[str]:
    """The steps of a completion, which joined by the separator are its text again; those before
    it are part of a step.
    """
    steps, before = [], ""
    for part in text.split(separator):
        if part.strip():
            steps.append(before + part)
            before = ""
        else:
            before += part + separator
    return steps


def encode_completions(
    prompts: Sequence[Text], completions: Sequence[Text], tokenizer: Any
) -> list[TokenSequence]:
    """Prompts with their completions, as ended: sequences that stop where the completion does,
    whose mask is the completion.
    """
    items = [
        Item(str(i), prompt=p, completion=c)
        for i, (p, c) in enumerate(zip(prompts, completions, strict=True))
    ]
    return [_to_the_end(sequence) for _, sequence in encode_items(items, tokenizer)]


def scored_places(sequence: TokenSequence, separator: str | None, texts: PieceTexts) -> np.ndarray:
    """Where a sequence is scored: at its last token or, with a separator, at the last token of
    each step of its completion.
    """
    if separator is not None:
        first = int(np.flatnonzero(sequence.loss_mask)[0])
        ends = step_ends(texts(sequence.ids[first:].tolist()), separator)
        if ends:
            return first + np.array(ends)
    return np.array([len(sequence.ids) - 1])


def _to_the_end(sequence: TokenSequence) -> TokenSequence:
    """The sequence up to the last token of its completion: what a template writes behind it
    would be read in its stead.
    """
    stop = int(np.flatnonzero(sequence.loss_mask)[-1]) + 1
    return TokenSequence(sequence.ids[:stop], sequence.loss_mask[:stop], row=sequence.row)


def _parts(item: Item, separator: str) -> list[Item]:
    """One item a completion, with what is known of it in `columns`."""
    known: list[tuple[Text, dict[str, Any]]]
    if item.chosen is not None and item.rejected is not None:
        values = {
            "margin": item.margin or 0.0,
            "probability": 1.0 if item.probability is None else item.probability,
        }
        known = [(item.chosen, values), (item.rejected, values)]
    elif item.steps:
        known = [(_joined(item, separator), {"steps": item.step_labels})]
    elif item.completions:
        known = [
            (text, {"reward": reward})
            for text, reward in zip(item.completions, item.rewards, strict=True)
        ]
    else:
        assert item.completion is not None
        if item.label is None and item.reward is None:
            raise DataError(f"row {item.row} has no reward; leave it out, or give it a number")
        known = [
            (
                item.completion,
                {"label": float(item.label)} if item.label is not None else {"reward": item.reward},
            )
        ]
    parts = []
    for number, (text, values) in enumerate(known):
        shape: dict[str, Any] = {"completion": text}
        if item.prompt is None and isinstance(text, str):  # a whole dialogue in one text
            shape = {"text": text, "completion": None}
        elif isinstance(item.prompt, list) and isinstance(text, str):
            shape = {"completion": [{"role": "assistant", "content": text}]}
        name = item.row if len(known) == 1 else f"{item.row} {number}"
        if item.chosen is not None:
            name = f"{item.row} {('chosen', 'rejected')[number]}"
        parts.append(
            replace(
                item,
                chosen=None,
                rejected=None,
                row=name,
                columns={"row": item.row, "known": values},
                **shape,
            )
        )
    if not parts:
        raise DataError(f"row {item.row} has no completion")
    return parts


def _joined(item: Item, separator: str) -> str:
    steps = [step.removesuffix(separator) for step in item.steps]
    for number, step in enumerate(steps):
        if len(step_texts(step, separator)) != 1:
            raise DataError(
                f"row {item.row}: completions[{number}] holds the step separator {separator!r}, "
                "so that its label fits "
                "no step; set step_separator to a text that stands in no step"
            )
    return separator.join(steps)


def _score_at(
    sequence: TokenSequence,
    item: Item,
    kind: Kind,
    every_token: bool,
    separator: str,
    texts: PieceTexts,
) -> TokenSequence:
    """The sequence up to the end of its completion with what is known of it; its mask is the
    completion, or its steps' ends.
    """
    if not sequence.loss_mask.any():
        return sequence
    sequence = _to_the_end(sequence)
    known = item.columns["known"]
    sequence.values = {
        k: float(v) for k, v in known.items() if k in ("margin", "probability", "reward", "label")
    }
    if kind == "process":
        places = scored_places(sequence, separator, texts)
        if len(places) != len(known["steps"]):
            raise DataError(
                f"row {item.row}: {len(known['steps'])} labels but {len(places)} steps between "
                f"separators {separator!r}; a "
                "step must be text that the tokenizer keeps"
            )
        sequence.loss_mask = np.isin(np.arange(len(sequence.ids)), places)
        labels = np.zeros(len(sequence.ids), dtype=np.float32)
        labels[places] = known["steps"]
        sequence.streams["labels"] = labels
    elif every_token and "label" in known:
        sequence.streams["labels"] = np.full(len(sequence.ids), known["label"], dtype=np.float32)
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
    known = [
        v
        for s in encoded.sequences
        for v in (
            s.streams["labels"][s.loss_mask]
            if "labels" in s.streams
            else [s.values["label"]]
            if "label" in s.values
            else []
        )
    ]
    if known and len(set(map(float, known))) == 1:
        raise DataError(
            f"every label is {float(known[0]):g}: from one class alone nothing can be told apart; "
            "add rows of the other"
        )
