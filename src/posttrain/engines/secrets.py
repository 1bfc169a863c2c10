"""Keys of servers: never in a recipe, never in a message, never to a host they are not for."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from posttrain.config import EndpointConfig
from posttrain.errors import ConfigError

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
# Variables that services have their users set -> the hosts they may be sent to.
_PROVIDERS = {
    "OPENAI_API_KEY": ("openai.com",),
    "ANTHROPIC_API_KEY": ("anthropic.com",),
    "GROQ_API_KEY": ("groq.com",),
    "MISTRAL_API_KEY": ("mistral.ai",),
    "TOGETHER_API_KEY": ("together.xyz", "together.ai"),
    "FIREWORKS_API_KEY": ("fireworks.ai",),
    "DEEPSEEK_API_KEY": ("deepseek.com",),
    "OPENROUTER_API_KEY": ("openrouter.ai",),
    "GEMINI_API_KEY": ("googleapis.com",),
    "GOOGLE_API_KEY": ("googleapis.com",),
    "XAI_API_KEY": ("x.ai",),
    "HF_TOKEN": ("huggingface.co", "huggingface.cloud", "hf.space"),
    "AZURE_OPENAI_API_KEY": ("azure.com",),
    "NVIDIA_API_KEY": ("nvidia.com",),
}
_SECRET = re.compile(
    r"(x_)?api_?key|authorization|passw(or)?d|(client_|app_)?secret|((access|auth|bearer)_)?token"
    r"|credentials?"
)


def check_secrets(config: EndpointConfig, section: str = "endpoint") -> None:
    """Refuse a password or key in url or extra, which would be written to recipe.yaml and
    report.html.

    Args:
        section: the recipe's section that names the server.
    Raises:
        ConfigError: names the place, not the secret.
    """
    way_out = f"put it into an environment variable and name that as {section}.key_variable"
    parts = urlsplit(config.url)
    if parts.username or parts.password or "@" in parts.netloc:
        raise ConfigError(
            f"{section}.url: the address of {parts.hostname} holds a user or password; {way_out}"
        )
    for name, _ in parse_qsl(parts.query):
        if _is_secret(name):
            raise ConfigError(
                f"{section}.url: the address of {parts.hostname} holds the value {name!r}; "
                f"{way_out}"
            )
    _check_extra(config.extra, f"{section}.extra", way_out)


def _is_secret(name: str) -> bool:
    return bool(_SECRET.fullmatch(name.lower().replace("-", "_")))


def _check_extra(value: Any, where: str, way_out: str) -> None:
    if isinstance(value, Mapping):
        for name, part in value.items():
            if _is_secret(str(name)) and part is not None:
                raise ConfigError(
                    f"{where}.{name} looks like a secret, and a recipe is kept and shown; {way_out}"
                )
            _check_extra(part, f"{where}.{name}", way_out)
    elif isinstance(value, list):
        for part in value:
            _check_extra(part, where, way_out)


def key_for(config: EndpointConfig, section: str = "endpoint") -> str | None:
    """The key that may be sent to a server: the value of key_variable, or None where it is not set
    or not for this host.

    This machine gets any. A provider's variable goes to that provider alone (of the default
    variable nothing is sent elsewhere, as a server of one's own needs none). Any other variable
    needs a second one beside it that names the host: MY_API_KEY goes to llm.example.org if
    MY_API_KEY_HOST=llm.example.org is set. So no recipe can send a variable anywhere.

    Raises:
        ConfigError: the name is not one of a key, or the host is not one it is for.
    """
    name = config.key_variable
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*_(KEY|TOKEN)", name):
        raise ConfigError(
            f"{section}.key_variable: {name!r} must end in _KEY or _TOKEN, so that no other "
            "variable is sent"
        )
    key, host = os.environ.get(name), (urlsplit(config.url).hostname or "").lower()
    if not key or host in _LOOPBACK:
        return key or None
    hosts = [*_PROVIDERS.get(name, ()), *os.environ.get(f"{name}_HOST", "").lower().split(",")]
    if any(h.strip() and (host == h.strip() or host.endswith("." + h.strip())) for h in hosts):
        return key
    if name == "OPENAI_API_KEY":
        return None
    raise ConfigError(
        f"{section}.key_variable: {name} is not known to be for {host}; if it is, set "
        f"{name}_HOST={host}"
    )
