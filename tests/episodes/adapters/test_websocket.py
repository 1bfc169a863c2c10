"""A WebSocket client: messages of all sizes, pings, parts, refusals, deadlines."""

from __future__ import annotations

import socket
import sys
import time
from typing import Any

import pytest

from posttrain.episodes.adapters.websocket import WebSocket
from posttrain.errors import EpisodeError


def echo(connection: Any) -> None:
    connection.request = connection.shake_hands()
    while (message := connection.receive()) is not None:
        connection.send(message)


@pytest.mark.parametrize("size", [0, 100, 125, 126, 127, 65_535, 65_536, 300_000])
def test_messages(websocket_server: Any, size: int) -> None:
    client = WebSocket(websocket_server(echo).url + "/ws?a=b")
    for text in ("x" * size, "ä" * (size // 2)):
        client.send({"text": text})
        assert client.receive() == {"text": text}
    client.close()


def test_the_address_and_a_clean_close(websocket_server: Any) -> None:
    server = websocket_server(echo)
    client = WebSocket(server.url + "/ws?a=b")
    client.send(1)
    assert client.receive() == 1
    client.close()
    (connection,) = server.connections
    assert connection.request == "GET /ws?a=b HTTP/1.1"
    for _ in range(500):
        if connection.frames[-1] == 8:
            break
        time.sleep(0.01)
    assert connection.frames == [1, 8]


def test_parts_and_pings(websocket_server: Any) -> None:
    def serve(connection: Any) -> None:
        frame = sys.modules["episodes_websocket_server"].frame
        connection.shake_hands()
        connection.socket.sendall(frame(b'{"a":', final=False) + frame(b"hello", kind=9))
        connection.socket.sendall(frame(b" [1,", kind=0, final=False) + frame(b"2]}", kind=0))
        connection.receive()

    server = websocket_server(serve)
    client = WebSocket(server.url)
    assert client.receive() == {"a": [1, 2]}
    client.close()
    for _ in range(500):
        if 8 in server.connections[0].frames:
            break
        time.sleep(0.01)
    assert server.connections[0].frames == [10, 8]


def test_what_goes_wrong(websocket_server: Any) -> None:
    def refuses(connection: Any) -> None:
        connection.shake_hands(refuse=True)

    def silent(connection: Any) -> None:
        connection.shake_hands()
        connection.receive()

    def leaves(connection: Any) -> None:
        connection.shake_hands()

    def says_goodbye(connection: Any) -> None:
        frame = sys.modules["episodes_websocket_server"].frame
        connection.shake_hands()
        connection.socket.sendall(frame(b"\x03\xe8bye", kind=8))
        connection.receive()

    def babbles(connection: Any) -> None:
        frame = sys.modules["episodes_websocket_server"].frame
        connection.shake_hands()
        connection.socket.sendall(frame(b"not json"))
        connection.receive()

    def floods(connection: Any) -> None:
        connection.shake_hands()
        connection.socket.sendall(bytes([0x81, 127]) + (1 << 40).to_bytes(8, "big"))
        connection.receive()

    with pytest.raises(EpisodeError, match="403"):
        WebSocket(websocket_server(refuses).url)
    for serve, named in (
        (silent, "in time"),
        (leaves, "closed"),
        (says_goodbye, "bye"),
        (babbles, "no JSON"),
        (floods, "more than"),
    ):
        client = WebSocket(websocket_server(serve).url, timeout_seconds=0.3)
        with pytest.raises(EpisodeError, match=named):
            client.receive()
        client.close()


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(EpisodeError, match="Start the server"):
        WebSocket(f"ws://127.0.0.1:{port}", timeout_seconds=1)
    with pytest.raises(EpisodeError, match="ws://"):
        WebSocket("http://127.0.0.1")
