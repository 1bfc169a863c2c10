"""What the server answers when it cannot do what was asked, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Refusal(Exception):
    """A request that is answered with an error.

    Attributes:
        status: HTTP status. message: names the value, the rule and the way out.
        param: the field of the request that is wrong, or None. code: a word for programs.
        headers: further headers of the answer, such as Retry-After.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """`{"error": {"message", "type", "param", "code"}}`."""
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, _type_of(self.status)),
                "param": self.param,
                "code": self.code,
            }
        }


_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def _type_of(status: int) -> str:
    return "invalid_request_error" if status < 500 else "server_error"


def unsupported(param: str, message: str) -> Refusal:
    """A field, or a value of it, that this server does not support: 400."""
    return Refusal(400, message, param=param, code="unsupported_value")


def too_many(message: str, *, seconds: int = 1) -> Refusal:
    """The queue or a key's share of it is full: 429 with Retry-After."""
    return Refusal(429, message, code="queue_full", headers={"Retry-After": str(seconds)})
