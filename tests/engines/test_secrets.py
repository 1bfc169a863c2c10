"""Keys of servers: which are sent where, and what a recipe must not hold."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.config import EndpointConfig
from posttrain.engines.secrets import check_secrets, key_for
from posttrain.errors import ConfigError


def endpoint(url: str = "https://api.openai.com/v1", **changes: Any) -> EndpointConfig:
    return EndpointConfig(url, "m", **changes)


@pytest.mark.parametrize(
    ("config", "place"),
    [
        (endpoint("https://user:pass123@host.org/v1"), "endpoint.url"),
        (endpoint("https://user@host.org/v1"), "endpoint.url"),
        (endpoint("https://host.org/v1?api_key=abc123"), "endpoint.url"),
        (endpoint("https://host.org/v1?Access-Token=abc123"), "endpoint.url"),
        (endpoint(extra={"api_key": "abc123"}), "endpoint.extra.api_key"),
        (endpoint(extra={"headers": {"Authorization": "abc123"}}), "headers.Authorization"),
        (endpoint(extra={"tools": [{"client-secret": "abc123"}]}), "client-secret"),
    ],
)
def test_a_secret_in_a_recipe_is_named_and_not_repeated(config: EndpointConfig, place: str) -> None:
    with pytest.raises(ConfigError, match=place) as refusal:
        check_secrets(config)
    assert "abc123" not in str(refusal.value) and "pass123" not in str(refusal.value)


def test_harmless_names_pass() -> None:
    extra = {"max_completion_tokens": 9, "token": None, "logit_bias": {"5": -1}}
    check_secrets(endpoint("https://host.org/v1?version=2", extra=extra))
    with pytest.raises(ConfigError, match="endpoint.extra.token"):  # with a value it is one
        check_secrets(endpoint("https://host.org/v1?version=2", extra={**extra, "token": "abc"}))


@pytest.mark.parametrize(
    ("variable", "url", "sent"),
    [
        ("OPENAI_API_KEY", "https://api.openai.com/v1", True),
        ("OPENAI_API_KEY", "https://openai.com.evil.org/v1", False),
        ("OPENAI_API_KEY", "https://notopenai.com/v1", False),
        ("OPENAI_API_KEY", "http://localhost:8000/v1", True),
        ("GROQ_API_KEY", "https://api.GROQ.com/v1", True),
        ("MY_API_KEY", "http://127.0.0.1:8000/v1", True),
    ],
)
def test_where_a_key_goes(
    variable: str, url: str, sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "abc")
    assert key_for(endpoint(url, key_variable=variable)) == ("abc" if sent else None)


def test_a_key_of_ones_own_goes_to_the_host_that_is_named_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = endpoint("https://llm.example.org/v1", key_variable="MY_API_KEY")
    assert key_for(config) is None  # it is not set
    monkeypatch.setenv("MY_API_KEY", "abc")
    with pytest.raises(ConfigError, match="MY_API_KEY_HOST"):
        key_for(config)
    monkeypatch.setenv("MY_API_KEY_HOST", "other.org, example.org")
    assert key_for(config) == "abc"
    with pytest.raises(ConfigError, match="MY_API_KEY"):
        key_for(endpoint("https://example.com/v1", key_variable="MY_API_KEY"))


@pytest.mark.parametrize("name", ["HOME", "PATH", "AWS_SECRET", "a key_KEY", "_KEY"])
def test_other_variables_are_never_sent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "abc")
    with pytest.raises(ConfigError, match="key_variable"):
        key_for(endpoint("http://localhost/v1", key_variable=name))
