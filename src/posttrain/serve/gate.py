"""What stands before every route: the key, the size of the body, the count of the answer.

It is plain ASGI, so that a request without a key is answered before its body is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Protocol

from posttrain.serve.metrics import Metrics
from posttrain.serve.refusal import Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_LOG = logging.getLogger(__name__)

DISCARD_SECONDS, DISCARD_BYTES = 1.0, 64 << 20
"""What is read of a body that is too large, before it is refused."""

BODY_SECONDS = 60.0
"""How long a client may take to send a body."""

SEND_SECONDS = 60.0
"""How long a client may leave an answer unread."""

FAILED = "the server failed; its log says why"

_CLOSE = {"Connection": "close"}

OPEN_PATHS = frozenset({"/health"})
"""Answered without a key: they say nothing about the model or its users."""


class Owners(Protocol):
    """Whose requests are accepted."""

    def owner(self, header: bytes | None) -> str | None:
        """A name for the key in an Authorization header; None where it is not accepted."""
        ...


class Keys:
    """The keys that are accepted. Only their digests are held.

    Comparing takes the same time whichever key is wrong, and wherever it differs.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def owner(self, header: bytes | None) -> str | None:
        """A name for the key in an Authorization header; None where it is not accepted.

        Without any keys everybody is the same owner.
        """
        if not self._digests:
            return ""
        scheme, _, key = (header or b"").partition(b" ")
        given = _digest(key.strip())
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        if scheme.lower() != b"bearer" or True not in matches:
            return None
        return f"key {matches.index(True) + 1}"


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class Gate:
    """Lets requests through to an app.

    It puts the owner of the key into `scope["state"]["owner"]`.

    Args:
        max_body_bytes: of a body, whether or not its length is announced.
    """

    def __init__(self, app: App, keys: Owners, max_body_bytes: int, metrics: Metrics) -> None:
        self.app = app
        self._keys = keys
        self._max_body_bytes = max_body_bytes
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def counted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._count(scope, int(message["status"]))
            async with asyncio.timeout(SEND_SECONDS):
                await send(message)

        try:
            self._check(scope)
            body = await self._body(receive)
            if body is not None:
                await self.app(scope, _replayed(body, receive), counted)
        except Refusal as refusal:
            if not started:
                if refusal.status == 413:
                    await _discard(receive)
                await respond(refusal, counted)
        except TimeoutError:
            _LOG.warning("a client has not read its answer for %g seconds", SEND_SECONDS)
        except Exception:
            _LOG.exception("%s %s failed", scope["method"], scope["path"])
            if not started:
                await respond(Refusal(500, FAILED), counted)

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body, whether or not its length is announced; None if the client is gone."""
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    more = message.get("more_body", False)
                    if size > self._max_body_bytes:
                        raise too_large(self._max_body_bytes)
        except TimeoutError:
            raise Refusal(
                408, f"the body did not come within {BODY_SECONDS:g} seconds", headers=_CLOSE
            ) from None
        return b"".join(parts)

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        owner = self._keys.owner(headers.get(b"authorization"))
        if owner is None and scope["path"] not in OPEN_PATHS:
            raise Refusal(
                401,
                "the header `Authorization: Bearer KEY` is missing or its key is not accepted",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        scope.setdefault("state", {})["owner"] = owner or ""
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18:
            raise Refusal(400, "the header Content-Length is not a number")
        if int(length) > self._max_body_bytes:
            raise too_large(self._max_body_bytes)

    def _count(self, scope: Scope, status: int) -> None:
        # Only paths of routes are labels: of others there is no end.
        path = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.add(path=path, status=str(status))


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` of a body that has been read."""
    is_read = False

    async def replayed() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def _discard(receive: Receive) -> None:
    """Read a part of what a client still sends: it loses the answer to a connection that is closed
    meanwhile.
    """
    size, more = 0, True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            while more and size < DISCARD_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                size += len(message.get("body", b""))
                more = message.get("more_body", False)


def too_large(limit: int) -> Refusal:
    """413 for a body above the limit."""
    return Refusal(
        413,
        f"the body is larger than {limit} bytes, which is this server's limit",
        code="body_too_large",
        headers=_CLOSE,
    )


async def respond(refusal: Refusal, send: Send) -> None:
    """Send a refusal."""
    content = json.dumps(refusal.body).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        *((name.lower().encode(), value.encode()) for name, value in refusal.headers.items()),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
