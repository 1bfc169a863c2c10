"""A model that writes completions for the commands chat and generate."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from posttrain.cli.libraries import prepare_libraries
from posttrain.cli.runs import notice
from posttrain.config import ModelConfig, SamplingConfig
from posttrain.errors import ConfigError, nearest
from posttrain.model_config import EMBEDDED_MODELS, model_location
from posttrain.overrides import apply_overrides
from posttrain.recipe_paths import model_of
from posttrain.typecheck import check
from posttrain.types import Text

MAX_TOKENS = 256
"""New tokens of a completion where nothing is said."""

_PASSED = ("tokenizer", "chat_template", "revision", "dtype", "device", "attention")


class Writer:
    """A loaded model with its engine and the settings of sampling.

    Args:
        model: folder, folder of a run, hub id or "embedded".
        overrides: `key=value` texts: keys of sampling, and of the model.
        seed: of the completions.
    Raises:
        ConfigError: an unknown key or a wrong value, before the weights are loaded.
    """

    def __init__(self, model: str, overrides: Sequence[str], *, seed: int = 0) -> None:
        config, sampling = split_settings(model, overrides)
        place = model_place(config.path)
        prepare_libraries(names=[place])
        from posttrain.engines.torch import TorchEngine
        from posttrain.models.load import load_model
        from posttrain.types import Sampling

        options = {name: getattr(config, name) for name in _PASSED}
        self.model = load_model(place, trust_remote_code=config.trust_remote_code, **options)
        self.engine = TorchEngine(self.model)
        self.seed = seed
        values = {f.name: getattr(sampling, f.name) for f in dataclasses.fields(sampling)}
        values["max_tokens"] = sampling.max_tokens or MAX_TOKENS
        self.sampling = Sampling(**{**values, "stop": tuple(sampling.stop)})

    @property
    def has_template(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(self.model.tokenizer.chat_template)

    def write(
        self, prompts: Iterable[Text], *, num: int = 1, seed: int | None = None
    ) -> list[list[dict[str, Any]]]:
        """`num` completions of each prompt: {"completion", "finish_reason", "num_tokens"}.

        Each prompt draws with its own seed, so that a completion does not depend on the others.
        """
        from posttrain.data.templates import decode_completion, encode_prompt
        from posttrain.types import Request

        tokenizer = self.model.tokenizer
        first = self.seed if seed is None else seed
        requests = [
            Request(tuple(encode_prompt(tokenizer, prompt)), self.sampling, n=num, seed=first + i)
            for i, prompt in enumerate(prompts)
        ]
        return [
            [
                {
                    "completion": decode_completion(tokenizer, sample),
                    "finish_reason": sample.finish_reason,
                    "num_tokens": len(sample.ids),
                }
                for sample in samples
            ]
            for samples in self.engine.generate(requests)
        ]


def split_settings(model: str, overrides: Sequence[str]) -> tuple[ModelConfig, SamplingConfig]:
    """The settings of model and sampling from `key=value` texts without a section's name.

    Raises:
        ConfigError: a key of neither, or a value of the wrong type.
    """
    sampling_names = [f.name for f in dataclasses.fields(SamplingConfig)]
    model_names = [name for name in (*_PASSED, "trust_remote_code") if name != "attention"]
    settings: dict[str, dict[str, Any]] = {"model": {"path": model}, "sampling": {}}
    for text in overrides:
        ((key, value),) = apply_overrides({}, [text]).items()
        flat = value if key in settings and isinstance(value, dict) else {key: value}
        for name, item in flat.items():
            section = "sampling" if name in sampling_names else "model"
            if name not in sampling_names and name not in model_names:
                names = [*sampling_names, *model_names]
                raise ConfigError(f"unknown key {name!r}: {nearest(name, names)}")
            settings[section][name] = item
    config = check(settings["model"], ModelConfig, "model")
    sampling = check(settings["sampling"], SamplingConfig, "sampling")
    return config, sampling


def amateur_config(given: str | dict[str, Any]) -> ModelConfig:
    """The weaker model of a search, from its place or its keys.

    Raises:
        ConfigError: a wrong key.
    """
    config = check(given, ModelConfig, "amateur")
    return dataclasses.replace(config, path=model_place(config.path))


def model_place(path: str) -> str:
    """Folder or hub id of a model that a user names."""
    if path in EMBEDDED_MODELS:
        return model_location(path)
    expanded = Path(path).expanduser()
    return model_of(str(expanded) if expanded.exists() else path, notice)
