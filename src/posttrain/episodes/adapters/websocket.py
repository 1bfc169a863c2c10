"""A small client of the WebSocket protocol (RFC 6455): text messages, pings, a clean close."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import socket
import ssl
import struct
from typing import Any
from urllib.parse import urlsplit

from posttrain.errors import EpisodeError

MAX_MESSAGE = 64 << 20
"""Most bytes of one message."""

_KEY_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10


class WebSocket:
    """One connection. Messages are JSON.

    Args:
        url: ws:// or wss://. timeout_seconds: of connecting and of each message.

    Raises:
        EpisodeError: the server cannot be reached, or speaks no WebSocket.
    """

    def __init__(self, url: str, *, timeout_seconds: float = 60.0) -> None:
        self.url = url
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise EpisodeError(f"{url!r} is no WebSocket address; it begins with ws:// or wss://")
        port = parts.port or (443 if parts.scheme == "wss" else 80)
        try:
            connection = socket.create_connection((parts.hostname, port), timeout_seconds)
            if parts.scheme == "wss":
                context = ssl.create_default_context()
                connection = context.wrap_socket(connection, server_hostname=parts.hostname)
            self._socket = connection
            self._buffer = b""
            self._shake_hands(parts.netloc, parts.path or "/", parts.query)
        except OSError as error:
            raise EpisodeError(f"{url}: {error}. Start the server, or mend the address") from error

    def send(self, message: Any) -> None:
        """Send a message.

        Raises:
            EpisodeError: the connection is broken.
        """
        self._send(_TEXT, json.dumps(message).encode())

    def receive(self) -> Any:
        """The next message.

        Raises:
            EpisodeError: the connection is broken or closed, nothing came in time, or what came is
                no JSON.
        """
        whole = b""
        while True:
            final, kind, content = self._frame()
            if kind == _PING:
                self._send(_PONG, content)
            elif kind == _CLOSE:
                raise EpisodeError(f"{self.url} has closed the connection: {content[2:]!r:.200}")
            elif kind != _PONG:
                whole += content
                if len(whole) > MAX_MESSAGE:
                    raise EpisodeError(f"{self.url} sends more than {MAX_MESSAGE:,} bytes at once")
                if final:
                    break
        try:
            return json.loads(whole)
        except ValueError as error:
            raise EpisodeError(f"{self.url} sends no JSON: {whole[:100]!r}") from error

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(EpisodeError):
            self._send(_CLOSE, struct.pack("!H", 1000))
        self._socket.close()

    def _shake_hands(self, host: str, path: str, query: str) -> None:
        key = base64.b64encode(os.urandom(16))
        lines = [
            f"GET {path}{'?' if query else ''}{query} HTTP/1.1",
            f"Host: {host}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key.decode()}",
            "Sec-WebSocket-Version: 13",
        ]
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        while b"\r\n\r\n" not in self._buffer:
            self._fill()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        accepted = base64.b64encode(hashlib.sha1(key + _KEY_SUFFIX).digest())
        first = head.splitlines()[0]
        if b" 101" not in first or accepted not in head:
            raise EpisodeError(f"{self.url} answers {first!r:.100} and opens no WebSocket")

    def _send(self, kind: int, content: bytes) -> None:
        """One frame, masked as clients must."""
        size = len(content)
        if size < 126:
            head = struct.pack("!BB", 0x80 | kind, 0x80 | size)
        elif size < 1 << 16:
            head = struct.pack("!BBH", 0x80 | kind, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", 0x80 | kind, 0x80 | 127, size)
        mask = os.urandom(4)
        repeated = (mask * (size // 4 + 1))[:size]
        masked = (int.from_bytes(content, "big") ^ int.from_bytes(repeated, "big")).to_bytes(
            size, "big"
        )
        try:
            self._socket.sendall(head + mask + masked)
        except OSError as error:
            raise EpisodeError(f"{self.url}: {error}") from error

    def _frame(self) -> tuple[bool, int, bytes]:
        """(is the last of its message, kind, content) of the next frame."""
        first, second = self._take(2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", self._take(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._take(8))
        if size > MAX_MESSAGE:
            raise EpisodeError(f"{self.url} sends more than {MAX_MESSAGE:,} bytes at once")
        return bool(first & 0x80), first & 0x0F, self._take(size)

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            try:
                self._fill()
            except TimeoutError as error:
                raise EpisodeError(f"{self.url} has sent nothing in time") from error
            except OSError as error:
                raise EpisodeError(f"{self.url}: {error}") from error
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _fill(self) -> None:
        received = self._socket.recv(1 << 16)
        if not received:
            raise OSError("the connection was closed")
        self._buffer += received
