"""Fixtures of the tests of adapters."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def websocket_server() -> Iterator[Callable[[Any], Any]]:
    """Starts a WebSocket server from what serves a connection; ended with the test."""
    name = "episodes_websocket_server"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, Path(__file__).parent / "websocket_server.py"
        )
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    servers: list[Any] = []

    def start(serve: Any) -> Any:
        servers.append(sys.modules[name].Server(serve))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
