"""Plain data as JSON."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import json
import socket
from typing import Any

import pytest

from posttrain.sandbox.guest.values import Channel, NotPlain, decoded, encoded

VALUES: list[Any] = [
    None,
    True,
    0,
    -(10**6000),
    1.5,
    float("inf"),
    "é\ud800",
    [1, [2, (3,)]],
    {"a": 1, 2: {3.0: ()}},
    {1, 2},
    frozenset({(1, 2)}),
    collections.deque([1]),
    b"\x00\xff",
    bytearray(b"a"),
    2 - 3j,
    range(1, 9, 2),
    fractions.Fraction(1, 3),
    decimal.Decimal("1.10"),
    datetime.datetime(2020, 1, 2, 3, 4, 5),
    datetime.date(2020, 1, 2),
    datetime.time(1, 2),
    datetime.timedelta(days=1, microseconds=5),
    int,
    ValueError,
]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_a_value_comes_back(value: Any) -> None:
    back = decoded(json.loads(json.dumps(encoded(value))))
    assert back == value and type(back) is type(value)


class Liar(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__

    def __repr__(self) -> str:
        return "42"

    def __index__(self) -> int:
        return 42


class LyingList(list):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter([42])


def test_subclasses_stand_for_what_they_hold() -> None:
    assert decoded(encoded(Liar(7))) == 7
    assert decoded(encoded(LyingList([1]))) == [1]
    point = collections.namedtuple("point", "x y")(1, 2)
    assert decoded(encoded(point)) == (1, 2)
    assert decoded(encoded(collections.OrderedDict(a=1))) == {"a": 1}


def test_what_is_no_plain_data_is_refused_or_referred_to() -> None:
    with pytest.raises(NotPlain):
        encoded([object()])
    assert encoded([object()], lambda value: 5) == [{"t": "reference", "v": 5}]
    assert decoded([{"t": "reference", "v": 5}], lambda number: number * 2) == [10]
    value: list[Any] = []
    for _ in range(1000):
        value = [value]
    with pytest.raises(NotPlain):
        encoded(value)


@pytest.mark.parametrize(
    "message",
    [
        {"t": "eval", "v": "1"},
        {"t": "type", "v": "open"},
        {"t": "reference", "v": 1},
        {"t": "set", "v": [[1]]},
        {"v": 1},
        {"t": "int", "v": None},
    ],
)
def test_forged_messages_are_refused(message: Any) -> None:
    with pytest.raises(NotPlain):
        decoded(message)


def test_a_channel_has_a_longest_message() -> None:
    left, right = socket.socketpair()
    with left, right:
        Channel(left).send({"a": [1]})
        assert Channel(right).receive() == {"a": [1]}
        with pytest.raises(NotPlain):
            Channel(left, 10).send("a" * 20)
        Channel(left).send("a" * 20)
        with pytest.raises(EOFError):
            Channel(right, 10).receive()
        left.close()


def test_a_closed_channel_ends() -> None:
    left, right = socket.socketpair()
    left.close()
    with right, pytest.raises(EOFError):
        Channel(right).receive()
