"""The settings of a watch are checked where they are written."""

from __future__ import annotations

import dataclasses

import pytest

import posttrain as pt
from posttrain.errors import ConfigError


def test_nothing_costly_is_on_by_default() -> None:
    watch = pt.Watch()
    assert (watch.gold, watch.kl_every, watch.probe_every, watch.stop_on) == ([], 0, 0, [])
    assert watch == pt.Watch() and repr(pt.Watch(window=3)) == "Watch(window=3)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        watch.window = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "wrong", [{"probes": ["emty"]}, {"stop_on": ["gold"]}, {"window": "x"}, {"golds": ["task"]}]
)
def test_a_wrong_name_or_value_is_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        pt.Watch(**wrong)
