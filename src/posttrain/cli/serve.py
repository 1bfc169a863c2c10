"""`posttrain serve MODEL`: an OpenAI-compatible server."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.cli.libraries import prepare_libraries
from posttrain.cli.runs import notice
from posttrain.cli.writer import model_place
from posttrain.config import ModelConfig
from posttrain.errors import ConfigError, nearest
from posttrain.overrides import apply_overrides
from posttrain.typecheck import check

if TYPE_CHECKING:
    from posttrain.serve.served import Limits, ServedModel

KEY_VARIABLE = "POSTTRAIN_API_KEY"
"""Environment variable with one key or several, separated by commas."""

TOOL_PARSERS = ("auto", "hermes", "qwen_coder", "llama", "mistral", "response_template", "none")
"""Forms of tool calls that `posttrain.episodes.tool_calls.parser_for` reads."""

_ENGINE_KEYS = ("max_rows", "max_kv_bytes", "max_prefix_bytes")
_MODEL_KEYS = ("tokenizer", "chat_template", "revision", "dtype", "device", "trust_remote_code")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.usage = (
        "posttrain serve MODEL [--adapter NAME=FOLDER] [--host H] [--port P] [--api-key KEY] "
        "[key=value ...]"
    )
    parser.epilog = (
        "changes: limits such as max_tokens=, max_search_tokens=, max_samples=, "
        "max_samples_per_key=, max_body_bytes=, timeout_seconds=, grace_seconds=; of the engine "
        "max_rows=, max_kv_bytes=, max_prefix_bytes=; of the model "
        "dtype=, device=, tokenizer=, chat_template= ... Keys are also read from the environment "
        "variable POSTTRAIN_API_KEY (several with commas between them), where other users of the "
        "machine do not see them."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port (8000); 0 takes a free one")
    parser.add_argument("--name", help="name of the model in requests (its folder's)")
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="an adapter (LoRA) of the model and its name in requests; may be repeated",
    )
    parser.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="a key that requests must carry; may be repeated; required off loopback",
    )
    parser.add_argument(
        "--extractor",
        default="last_number",
        choices=("last_number", "hash", "boxed", "tag", "whole"),
        help="how searches read the answer of a text where a request does not say (last_number)",
    )
    parser.add_argument(
        "--tool-parser",
        default="auto",
        choices=TOOL_PARSERS,
        help="form in which the model writes tool calls (auto: what its chat template writes)",
    )


def serve(options: argparse.Namespace) -> int:
    """Load a model and answer requests until SIGTERM or SIGINT; 0 after a graceful stop.

    Raises:
        ConfigError: a wrong flag or key, before the weights are loaded. ModelError: a model or an
        adapter that cannot be served. MissingDependency: the extra serve is not installed.
    """
    from posttrain.serve.served import Address

    config, limits, bounds = split_settings(options.model, options.overrides)
    address = Address(options.host, options.port, keys_of(options.api_key, os.environ))
    name = served_name(options.name or options.model)
    adapters = named_adapters(options.adapter, name)
    place = model_place(config.path)
    prepare_libraries(names=[place])
    # These two import optional libraries; what is missing is known before the weights are loaded.
    from posttrain.serve import program
    from posttrain.serve.service import Service

    listener = program.listen(address)
    model = _load(place, config, name, adapters, bounds)
    model = dataclasses.replace(model, tool_parser=options.tool_parser, extractor=options.extractor)
    service = Service(model, limits)
    host, port = listener.getsockname()[:2]
    access = "with a key" if address.keys else "from this machine, without a key"
    names = ", ".join([name, *adapters])

    def ready() -> None:
        notice(f"serving {names} at http://{host}:{port}/v1 ({access}); Ctrl-C stops it")

    program.serve(service, address, listener, ready=ready)
    notice("stopped")
    return 0


def split_settings(
    model: str, overrides: Sequence[str]
) -> tuple[ModelConfig, Limits, dict[str, int]]:
    """The settings of model, limits and engine from `key=value` texts.

    Raises:
        ConfigError: a key of none, or a value of the wrong type.
    """
    from posttrain.serve.served import Limits

    limit_keys = [field.name for field in dataclasses.fields(Limits)]
    settings: dict[str, dict[str, Any]] = {"model": {"path": model}, "limits": {}, "engine": {}}
    for text in overrides:
        ((key, value),) = apply_overrides({}, [text]).items()
        if key in limit_keys:
            settings["limits"][key] = value
        elif key in _ENGINE_KEYS:
            settings["engine"][key] = value
        elif key in _MODEL_KEYS:
            settings["model"][key] = value
        else:
            names = [*limit_keys, *_ENGINE_KEYS, *_MODEL_KEYS]
            raise ConfigError(f"unknown key {key!r}: {nearest(key, names)}")
    config: ModelConfig = check(settings["model"], ModelConfig, "model")
    limits: Limits = check(settings["limits"], Limits, "limits")
    bounds: dict[str, int] = check(settings["engine"], dict[str, int], "engine")
    for key, value in bounds.items():
        least = 0 if key == "max_prefix_bytes" else 1
        if value < least:
            raise ConfigError(f"{key} is {value}; it must be at least {least}")
    return config, limits, bounds


def keys_of(flags: Sequence[str], environment: Any) -> tuple[str, ...]:
    """The keys of --api-key and of the environment, each once."""
    named = [key.strip() for key in environment.get(KEY_VARIABLE, "").split(",")]
    return tuple(dict.fromkeys(key for key in (*flags, *named) if key))


def served_name(name: str) -> str:
    """The name of the model in requests: the last parts of a path, without the mark of searches."""
    path = Path(name).expanduser()
    short = path.resolve().name if path.exists() else name
    return short.replace("@", "-") or "model"


def named_adapters(flags: Sequence[str], base: str) -> dict[str, str]:
    """Folders of adapters by name, from NAME=FOLDER texts.

    Args:
        base: name of the model below them.
    Raises:
        ConfigError: another form, a name twice, or that of the model. ModelError: a folder holds no
        adapters that can be read.
    """
    adapters: dict[str, str] = {}
    for flag in flags:
        name, equals, folder = flag.partition("=")
        if not equals or not name or not folder:
            raise ConfigError(f"--adapter {flag!r} has another form than NAME=FOLDER")
        if name in adapters:
            raise ConfigError(f"--adapter: {name!r} is named twice; give each a name of its own")
        adapters[name] = model_place(folder)
    if adapters:
        from posttrain.serve.embedded import check_adapters

        check_adapters(adapters, base)
    return adapters


def _load(
    place: str,
    config: ModelConfig,
    name: str,
    adapters: Mapping[str, str],
    bounds: Mapping[str, int],
) -> ServedModel:
    from posttrain import kernels
    from posttrain.models.load import load_model
    from posttrain.serve.embedded import served_model

    # The collector stays on: a server lives long.
    kernels.setup(pause_collection=False)
    model = load_model(place, **{key: getattr(config, key) for key in _MODEL_KEYS})
    own_templates = config.tokenizer is None and config.chat_template is None
    return served_model(model, name, adapters, own_templates=own_templates, notice=notice, **bounds)
