"""The tokens of numbers under a tokenizer: one per digit, or one per integer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.data.number_text import SEPARATOR, NumberFormat
from posttrain.data.templates import bos_id
from posttrain.errors import ModelError

Ids = NDArray[np.int64]
_WHOLE = (3, 2, 4)  # numbers of digits that are tried as one token


@dataclass(frozen=True, slots=True)
class NumberTokens:
    """How a tokenizer writes the numbers of a series.

    Attributes:
        digits: of a number. per_digit: whether each digit is a token, else each integer is one.
        ids: int64 [10] of the digits, or [10^digits] of the integers. separator: id of the comma.
        begin: id that begins a sequence, or None.
    """

    digits: int
    per_digit: bool
    ids: Ids
    separator: int
    begin: int | None

    @property
    def per_number(self) -> int:
        """Tokens of a number, without its comma."""
        return self.digits if self.per_digit else 1

    def encode(self, integers: ArrayLike) -> Ids:
        """Integers [T] -> ids [T, tokens per number + 1], each row with its comma."""
        numbers = np.asarray(integers, dtype=np.int64)
        commas = np.full((len(numbers), 1), self.separator, dtype=np.int64)
        if not self.per_digit:
            return np.concatenate([self.ids[numbers][:, None], commas], 1)
        powers = 10 ** np.arange(self.digits - 1, -1, -1)
        return np.concatenate([self.ids[numbers[:, None] // powers % 10], commas], 1)

    @classmethod
    def of(cls, tokenizer: Any, digits: int | None = None) -> NumberTokens:
        """Read from a tokenizer how it writes numbers between commas.

        Args:
            digits: of a number. None: 3, or 2 or 4 where only these are one token each.

        Raises:
            ModelError: it joins digits to tokens of several lengths, or digits with commas.
        """
        begin = bos_id(tokenizer)
        for count in (digits,) if digits is not None else _WHOLE:
            rows = _encoded(tokenizer, [f"{n:0{count}d}" for n in range(10**count)], probe=True)
            if rows is not None and {len(row) for row in rows[1]} == {1}:
                ids = np.array([row[0] for row in rows[1]], dtype=np.int64)
                if len(set(ids.tolist())) == len(ids):
                    return cls(count, False, ids, rows[0], begin)
        count = digits or NumberFormat().digits
        rows = _encoded(tokenizer, [str(d) for d in range(10)])
        if rows is not None and {len(row) for row in rows[1]} == {1}:
            tokens = cls(
                count, True, np.array([row[0] for row in rows[1]], dtype=np.int64), rows[0], begin
            )
            numbers = [0, 10**count - 1, 10 ** (count - 1)]
            written = _encoded(tokenizer, [f"{n:0{count}d}" for n in numbers])
            if written is not None and np.array_equal(
                [[*row, rows[0]] for row in written[1]], tokens.encode(numbers)
            ):
                return tokens
        raise ModelError(
            f"this tokenizer writes numbers of {count} digits with tokens of several lengths; "
            "dynamics need a token per digit or per integer, so take such a model "
            '("embedded-dynamics" is one) or another number of digits'
        )


def _encoded(
    tokenizer: Any, numbers: list[str], *, probe: bool = False
) -> tuple[int, list[list[int]]] | None:
    """The id of the comma, and the ids of each number between commas; None where they mix.

    probe: give up at the first few numbers that are not one token.
    """
    if probe:
        few = _encoded(tokenizer, [numbers[0], numbers[-1], numbers[len(numbers) // 3]])
        if few is None or {len(row) for row in few[1]} != {1}:
            return None
    texts = [SEPARATOR + number + SEPARATOR for number in numbers]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    comma = rows[0][-1]
    if any(len(row) < 3 or row[-1] != comma for row in rows):
        return None
    unknown = tokenizer.unk_token_id
    # A tokenizer of words may put a mark before the first comma, which is no part of the number.
    inner = []
    for row in rows:
        start = row.index(comma) + 1 if comma in row[:-1] else 1
        inner.append(list(row[start:-1]))
    if any(not row or (unknown is not None and unknown in row) for row in inner):
        return None
    return comma, inner
