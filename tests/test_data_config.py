"""Rows in memory and their settings."""

from __future__ import annotations

import pytest

from posttrain.data_config import DataConfig
from posttrain.errors import ConfigError


def test_an_iterator_is_read_at_once() -> None:
    config = DataConfig.of(iter([{"text": "a"}]), max_length=8)
    assert config.rows == [{"text": "a"}] and config.max_length == 8
    assert DataConfig.of(config, max_length=9).max_length == 9


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ConfigError, match=r"data\.max_lenth"):
        DataConfig.of("rows.jsonl", max_lenth=8)
    with pytest.raises(ConfigError, match=r"data\.max_cut: 2"):
        DataConfig("rows.jsonl", max_cut=2)
