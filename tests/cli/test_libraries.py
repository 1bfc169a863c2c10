"""An unreachable hub is noticed at once, and only asked when a name can be of the hub."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from posttrain.cli import libraries


@pytest.mark.parametrize(("name", "expected"), [("Qwen/x", True), ("embedded", False), ("/a", 0)])
def test_what_is_a_hub_id(name: str, expected: bool) -> None:
    assert libraries.is_hub_id(name) == bool(expected)


def test_offline_is_told_to_the_hub_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise socket.gaierror("no network")

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "x")  # so that the end of the test restores it
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(socket, "create_connection", refuse)
    libraries.prepare_libraries(names=["embedded"])
    assert "HF_HUB_OFFLINE" not in os.environ
    libraries.prepare_libraries(names=["Qwen/Qwen3-0.6B"])
    assert os.environ["HF_HUB_OFFLINE"] == "1"
