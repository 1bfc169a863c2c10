"""A model before its weights are there: named by a folder or hub id, or loaded already.

Methods read tokenizer, context and configuration from a `ModelSpec`, so that everything that needs
no weights is checked before any are loaded. `fit` asks it for the model.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from posttrain.config import AdapterConfig, LoraConfig, ModelConfig
from posttrain.errors import ConfigError
from posttrain.model_config import model_location
from posttrain.models.adapters import adapter_of, rate_factors, refuse_virtual_score
from posttrain.models.forest_model import ForestModel
from posttrain.models.language_model import LanguageModel
from posttrain.models.load import Kind, load_config, load_model, load_score_model, load_tokenizer
from posttrain.models.score_model import ScoreModel


class NamedModel:
    """A model that a configuration names. Each load reads it again.

    Args:
        config: how it is loaded. Its paths are folders or hub ids, resolved already.
        seed: of fresh weights and adapters.
        notice: is called with a sentence where the model cannot share prefixes.
        critic_ahead: whether an earlier stage, which has not run, will leave a critic beside the
            model; None where the model is there.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        seed: int = 0,
        notice: Callable[[str], None] | None = None,
        critic_ahead: bool | None = None,
    ) -> None:
        self.config = config
        self.seed = seed
        self.notice = notice or (lambda text: None)
        self.place = model_location(config.path)
        self.critic_ahead = critic_ahead

    @property
    def name(self) -> str:
        """As the user wrote it."""
        return self.config.path

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded without the weights."""
        return load_tokenizer(
            self.config.tokenizer or self.place,
            chat_template=self.config.chat_template,
            **self._origin,
        )

    def settings(self, kind: Kind = "language") -> Any:
        """The model's own configuration as `transformers` reads it. kind: of the model."""
        return load_config(self.place, kind=kind, **self._origin)

    def context_length(self, kind: Kind = "language") -> int | None:
        """Positions that a sequence may have, read without the weights; None where unknown."""
        settings = self.settings(kind)
        if kind != "language":
            refuse_virtual_score(self.config.adapter)
        limit = getattr(settings.get_text_config(decoder=True), "max_position_embeddings", None)
        if limit is None or self.config.adapter is None:
            return limit
        return int(limit) - self.config.adapter.virtual_tokens

    @property
    def has_adapters(self) -> bool:
        """Whether adapters are trained in place of the model's own weights."""
        config = self.config
        fresh = config.adapter is not None and not config.adapter.own_weights
        return config.lora is not None or fresh or adapter_of(self.place) is not None

    def load(self, *, reference: bool = False, weights: Path | None = None) -> LanguageModel:
        """The language model, or the same model as a checkpoint left it.

        Args:
            reference: keep the model of the start, frozen, for KL and preference losses.
            weights: the folder of a checkpoint.
        """
        config = self.config
        base_stays = config.lora is not None and not config.lora.changes_base
        base_stays |= config.adapter is not None and not config.adapter.own_weights
        if weights is not None and (base_stays or not reference):
            model = load_model(str(weights), **self._options)
            model.fresh_adapters = True  # they began with this run
            if reference:
                model.enable_reference()
        else:
            model = load_model(self.place, reference=reference, **self._options, **self._fresh)
            if weights is not None:
                # The reference is the model of the start, the policy that of the checkpoint.
                trained = load_model(str(weights), **self._options)
                model.hf.load_state_dict(trained.hf.state_dict())
            self._report_unshared(model)
        if weights is not None:
            model.load_reference(weights)
        model.rate_factors |= rate_factors(model.hf, config.lora)
        return model

    def load_scores(
        self, *, per: Literal["sequence", "token"], weights: Path | None = None
    ) -> ScoreModel:
        """A model with a score at the end of a sequence or at each token.

        Args:
            weights: the folder of a checkpoint; None starts from the named model.
        """
        if weights is not None:
            model = load_score_model(str(weights), per=per, **self._options)
        else:
            model = load_score_model(self.place, per=per, **self._options, **self._fresh)
            self._report_unshared(model)
        model.rate_factors |= rate_factors(model.hf, self.config.lora)
        return model

    def load_frozen(self) -> LanguageModel:
        """The language model without gradients: a teacher, a judge."""
        model = load_model(self.place, **self._options, **self._fresh)
        model.hf.requires_grad_(False)
        return model

    @property
    def has_critic(self) -> bool:
        """Whether a critic was trained with the model."""
        if self.critic_ahead is not None:
            return self.critic_ahead
        folder = Path(self.place) / "critic"
        return any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))

    def load_critic(self) -> ScoreModel:
        """The critic that was trained with the model."""
        return self.load_scores(per="token", weights=Path(self.place) / "critic")

    def start_weights(self, model: LanguageModel | None) -> dict[str, Tensor]:
        """A copy of the trained weights as the run starts, by name.

        Args:
            model: the model as it starts; None loads it again.
        """
        return trained_weights(model or self.load())

    def as_critic(self, *, adapters: bool = False) -> NamedModel:
        """The model that a critic starts from. adapters: whether it has the policy's LoRA."""
        if adapters:
            return self
        config = dataclasses.replace(self.config, lora=None)
        return NamedModel(config, seed=self.seed, notice=self.notice)

    @property
    def _origin(self) -> dict[str, Any]:
        config = self.config
        return {"revision": config.revision, "trust_remote_code": config.trust_remote_code}

    @property
    def _options(self) -> dict[str, Any]:
        """What counts at every load."""
        config = self.config
        options: dict[str, Any] = {
            "tokenizer": config.tokenizer,
            "chat_template": config.chat_template,
            "dtype": config.dtype,
            "device": config.device,
            "attention": config.attention,
            "trust_remote_code": config.trust_remote_code,
            "gradient_checkpointing": config.gradient_checkpointing,
            "quantization": config.quantization,
            "seed": self.seed,
        }
        if config.adapter is not None and config.adapter.own_weights:
            options["adapter"] = config.adapter
        return options

    @property
    def _fresh(self) -> dict[str, Any]:
        """What counts when a run starts, and not when it goes on from a checkpoint."""
        config = self.config
        options: dict[str, Any] = {
            "init": config.init,
            "lora": config.lora,
            "revision": config.revision,
        }
        if config.adapter is not None and not config.adapter.own_weights:
            options["adapter"] = config.adapter
        return options

    def _report_unshared(self, model: ForestModel) -> None:
        if not model.shares_trunks and self.config.attention == "auto":
            self.notice(f"shared prefixes are computed once per row: {model.why_unshared}")


class LoadedModel:
    """A model in memory. `fit` trains it in place."""

    def __init__(self, model: ForestModel) -> None:
        self.model = model
        self.config = ModelConfig(self.name)
        self._start_weights: dict[str, Tensor] = {}  # before those of a checkpoint were loaded

    @cached_property
    def digest(self) -> str:
        """Digest of the weights as the run starts, before those of a checkpoint are loaded."""
        return weights_digest(self.model)

    @property
    def name(self) -> str:
        """The folder or hub id that it was loaded from."""
        return str(getattr(self.model.config, "_name_or_path", "") or type(self.model).__name__)

    @property
    def place(self) -> str:
        """As `name`."""
        return self.name

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.model.tokenizer

    def settings(self, kind: Kind = "language") -> Any:
        """The model's own configuration."""
        return self.model.config

    def context_length(self, kind: Kind = "language") -> int | None:
        """Positions that a sequence may have; None where unknown."""
        return self.model.context_length

    @property
    def has_adapters(self) -> bool:
        """Whether adapters are trained in place of the model's own weights."""
        return hasattr(self.model.hf, "peft_config")

    def load(self, *, reference: bool = False, weights: Path | None = None) -> LanguageModel:
        """The model itself, with the weights of a checkpoint where there is one.

        Args:
            reference: keep a frozen copy of the weights as they are now.
            weights: the folder of a checkpoint.
        """
        if not isinstance(self.model, LanguageModel):
            raise ConfigError(
                f"model: {self.name} gives scores, and a language model is needed here"
            )
        model = self.model
        model.drop_reference()
        if reference:
            model.enable_reference()
        if weights is not None:
            self._start_weights, _ = trained_weights(model), self.digest
            saved = load_model(str(weights), dtype="auto", device=str(model.device))
            model.hf.load_state_dict(saved.hf.state_dict())
            model.load_reference(weights)
        return model

    def load_scores(
        self, *, per: Literal["sequence", "token"], weights: Path | None = None
    ) -> ScoreModel:
        """The model itself, with the weights of a checkpoint where there is one."""
        if not isinstance(self.model, ScoreModel):
            raise ConfigError(
                f"model: {self.name} is a language model in memory; a score model starts from a "
                "folder or hub id (its head is fresh)"
            )
        if weights is not None:
            _ = self.digest
            saved = load_score_model(str(weights), per=per, device=str(self.model.device))
            self.model.hf.load_state_dict(saved.hf.state_dict())
        return self.model

    def load_frozen(self) -> LanguageModel:
        """The model itself. Nothing trains it where it is a teacher or a judge."""
        return self.load()

    @property
    def has_critic(self) -> bool:
        """Whether the model has a critic."""
        return getattr(self.model, "critic", None) is not None

    def load_critic(self) -> ScoreModel:
        """The model's critic."""
        critic = getattr(self.model, "critic", None)
        assert critic is not None  # `has_critic` was asked before
        return critic

    def start_weights(self, model: LanguageModel | None) -> dict[str, Tensor]:
        """A copy of the trained weights as the run starts, by name."""
        return trained_weights(self.model) if model is not None else self._start_weights

    def as_critic(self, *, adapters: bool = False) -> NamedModel:
        """The critic starts from the files that the model was loaded from."""
        return NamedModel(ModelConfig(self.place))


ModelSpec = NamedModel | LoadedModel


def weights_digest(model: ForestModel) -> str:
    """Digest of all weights of a model in memory."""
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in model.hf.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        flat = parameter.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def trained_weights(model: ForestModel) -> dict[str, Tensor]:
    """A copy of the weights that training moves, by name."""
    return {name: p.detach().clone() for name, p in model.hf.named_parameters() if p.requires_grad}


def model_spec(
    model: ModelSpec | ForestModel | ModelConfig | str | Path, *, seed: int = 0
) -> ModelSpec:
    """A model as methods take it.

    Args:
        model: a loaded model, a folder, a hub id, "embedded", or a configuration.
        seed: of fresh weights and adapters of a model that is named.
    """
    if isinstance(model, NamedModel | LoadedModel):
        return model
    if isinstance(model, ForestModel):
        return LoadedModel(model)
    if isinstance(model, ModelConfig):
        return NamedModel(model, seed=seed)
    if isinstance(model, str | Path):
        return NamedModel(ModelConfig(str(Path(model).expanduser())), seed=seed)
    raise ConfigError(
        f"model: {type(model).__name__} is no model; give a loaded model, a folder, a hub id, or "
        "'embedded'"
    )


def load(
    model: str | Path,
    *,
    lora: LoraConfig | None = None,
    adapter: AdapterConfig | str | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    device: str = "auto",
    tokenizer: str | None = None,
    chat_template: str | None = None,
    revision: str | None = None,
    quantization: Literal["none", "nf4", "int8"] = "none",
    attention: Literal["auto", "forest", "unshared"] = "auto",
    init: Literal["pretrained", "random"] = "pretrained",
    gradient_checkpointing: bool = False,
    trust_remote_code: bool = False,
    seed: int = 0,
) -> LanguageModel:
    """Load a language model.

    Args:
        model: a folder, a hub id, or "embedded" for the small model that ships with the package.
        lora, adapter: what is trained in place of all weights.
        dtype: "auto" is float32 on a CPU and bfloat16 on a GPU.
        device: "auto" is the GPU where there is one.
        seed: of fresh weights and adapters.
        tokenizer, chat_template, revision, quantization, attention, init, gradient_checkpointing,
            trust_remote_code: see `ModelConfig`.

    Raises:
        ModelError: there is no such model, or it cannot be used as asked.
    """
    config = ModelConfig(
        str(Path(model).expanduser()),
        lora=lora,
        adapter=AdapterConfig(adapter) if isinstance(adapter, str) else adapter,  # type: ignore[arg-type]
        dtype=dtype,
        device=device,
        tokenizer=tokenizer,
        chat_template=chat_template,
        revision=revision,
        quantization=quantization,
        attention=attention,
        init=init,
        gradient_checkpointing=gradient_checkpointing,
        trust_remote_code=trust_remote_code,
    )
    return NamedModel(config, seed=seed).load()
