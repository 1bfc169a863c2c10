"""Settings of served engines: what is refused before anything is loaded or asked."""

from __future__ import annotations

from typing import Any

import pytest

import posttrain as pt
from posttrain.engine_config import LaunchConfig, ServedConfig, check_engine
from posttrain.errors import ConfigError
from posttrain.recipe import parse_recipe

URL = "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({}, "engine"),
        ({"url": URL, "launch": LaunchConfig("python")}, "engine"),
        ({"url": "127.0.0.1:8000"}, "engine.url"),
        ({"url": f"{URL}/v1"}, "engine.url"),
        ({"url": [URL, f"{URL}/"]}, "engine.url"),
        ({"url": URL, "max_concurrent": 0}, "engine.max_concurrent"),
        ({"url": URL, "max_retries": -1}, "engine.max_retries"),
        ({"url": URL, "timeout": 0.0}, "engine.timeout"),
        ({"url": URL, "max_logprob_gap": 0.0}, "engine.max_logprob_gap"),
        ({"launch": LaunchConfig("p", num_servers=0)}, "engine.launch.num_servers"),
        ({"launch": LaunchConfig("p", max_restarts=-1)}, "engine.launch.max_restarts"),
        ({"launch": LaunchConfig("p", start_seconds=0.0)}, "engine.launch.start_seconds"),
        ({"launch": LaunchConfig("p", max_model_len=0)}, "engine.launch.max_model_len"),
        ({"url": URL, "protocol": "sglang", "sync": "nccl"}, "engine.sync"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(settings: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigError, match=f"^{place}: "):
        check_engine(ServedConfig(**settings))


def test_what_can_be_is_taken() -> None:
    check_engine("embedded")
    check_engine(ServedConfig(url=[URL, "http://other:1/"]))
    check_engine(ServedConfig(launch=LaunchConfig("python", num_servers=2), sync="nccl"))
    assert ServedConfig(url=[URL, "http://other:1/"]).urls == [URL, "http://other:1"]


def recipe(engine: Any) -> Any:
    return parse_recipe(
        {"method": "grpo", "model": "embedded", "task": "sorting", "engine": engine}
    )


def test_a_recipe_names_servers_by_address_or_says_how_to_start_them() -> None:
    assert recipe("embedded").settings["engine"] == "embedded"
    served = recipe({"name": "served", "url": URL}).settings["engine"]
    assert served == pt.Served(url=URL)
    launch = {"python": "/opt/vllm/bin/python", "num_servers": 2}
    started = recipe({"name": "served", "launch": launch}).settings["engine"]
    assert started.launch == pt.Launch("/opt/vllm/bin/python", num_servers=2)


@pytest.mark.parametrize("engine", ["vllm", {"adress": URL}, {"url": URL, "sync": "mail"}])
def test_a_recipe_with_another_engine_is_refused(engine: Any) -> None:
    with pytest.raises(ConfigError, match="engine"):
        recipe(engine)


def test_a_method_refuses_an_engine_that_cannot_be_before_any_model_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^engine\.launch\.python: "):
        pt.grpo("sorting", engine=pt.Served(launch=pt.Launch("/nowhere/python")))
