"""A small WebSocket server for tests: one thread a connection, JSON in and out."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def frame(content: bytes, *, kind: int = 1, final: bool = True) -> bytes:
    head = bytes([(0x80 if final else 0) | kind])
    if len(content) < 126:
        return head + bytes([len(content)]) + content
    if len(content) < 1 << 16:
        return head + bytes([126]) + struct.pack("!H", len(content)) + content
    return head + bytes([127]) + struct.pack("!Q", len(content)) + content


class Connection:
    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.file = connection.makefile("rb")
        self.frames: list[int] = []  # kinds of what came

    def shake_hands(self, *, refuse: bool = False) -> str:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += self.file.readline()
        lines = dict(line.split(b": ", 1) for line in request.splitlines()[1:] if b": " in line)
        accept = base64.b64encode(hashlib.sha1(lines[b"Sec-WebSocket-Key"] + _SUFFIX).digest())
        status = b"403 Forbidden" if refuse else b"101 Switching Protocols"
        self.socket.sendall(
            b"HTTP/1.1 " + status + b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        return request.splitlines()[0].decode()

    def receive(self) -> Any:
        while True:
            kind, content = self.frame()
            if kind == 8:
                return None
            if kind == 1:
                return json.loads(content)

    def frame(self) -> tuple[int, bytes]:
        head = self.file.read(2)
        if len(head) < 2:
            return 8, b""
        size = head[1] & 0x7F
        assert head[1] & 0x80, "clients mask what they send"
        if size == 126:
            (size,) = struct.unpack("!H", self.file.read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self.file.read(8))
        mask, content = self.file.read(4), self.file.read(size)
        self.frames.append(head[0] & 0x0F)
        return head[0] & 0x0F, bytes(c ^ mask[i % 4] for i, c in enumerate(content))

    def send(self, message: Any) -> None:
        self.socket.sendall(frame(json.dumps(message).encode()))


class Server:
    """serve: called with each connection, in a thread of its own."""

    def __init__(self, serve: Callable[[Connection], None]) -> None:
        self.serve = serve
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"ws://127.0.0.1:{self.listening.getsockname()[1]}"
        self.connections: list[Connection] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            self.connections.append(Connection(connection))
            threading.Thread(target=self._one, args=(self.connections[-1],), daemon=True).start()

    def _one(self, connection: Connection) -> None:
        with connection.socket, connection.file:  # both hold it open
            self.serve(connection)

    def close(self) -> None:
        self.listening.close()
