"""The program's side of a test: its functions are called, its values are sent as plain data."""

from __future__ import annotations

from typing import Any

from posttrain.sandbox.guest.values import Channel, NotPlain, decoded, encoded

_ITERATED = 10_000
"""Most items of an iterator that a function may return."""


class CallServer:
    """Answers requests for the names of a program, one after the other.

    Requests are [kind, ...]: "name" (a global name), "call" (an object, arguments), "get" and "set"
    (an attribute), "item", "list" (what an iterable gives), "operation" (a method). An answer is
    {"value": ...} or {"error": [type, text]}.

    Args:
        names: the program's global names.
    """

    def __init__(self, channel: Channel, names: dict[str, Any]) -> None:
        self.channel = channel
        self.names = names
        self._objects: dict[int, Any] = {}

    def serve(self) -> None:
        """Answer until the other side ends."""
        while True:
            try:
                request = self.channel.receive()
            except EOFError:
                return
            try:
                value = self._answer(*request)
                answer = {"value": encoded(value, self._number)}
                self.channel.send(answer)
            except Exception as error:
                text = "" if isinstance(error, NotPlain) else _text(error)
                self.channel.send({"error": [type(error).__name__[:100], text]})

    def _number(self, value: Any) -> int:
        self._objects[id(value)] = value
        return id(value)

    def _value(self, part: Any) -> Any:
        return decoded(part, self._objects.__getitem__)

    def _answer(self, kind: str, target: Any, *rest: Any) -> Any:
        if kind == "name":
            return self.names[target]
        owner = self._value(target)
        if kind == "call":
            arguments, keywords = rest
            return owner(
                *[self._value(a) for a in arguments],
                **{name: self._value(a) for name, a in keywords.items()},
            )
        if kind == "get":
            return getattr(owner, rest[0])
        if kind == "set":
            return setattr(owner, rest[0], self._value(rest[1]))
        if kind == "list":
            return [item for _, item in zip(range(_ITERATED), owner, strict=False)]
        raise NotPlain(kind)


def _text(error: BaseException) -> str:
    try:
        return str(error)[:1000]
    except Exception:
        return ""
