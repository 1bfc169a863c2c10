"""A model that is named by a folder or hub id: what is known of it before its weights are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from posttrain.config import ModelConfig
from posttrain.model_config import model_location
from posttrain.models.adapters import adapter_of, rate_factors, refuse_virtual_score
from posttrain.models.class_head import Classes
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
        model.origin = config
        return model

    def saved(self, weights: Path) -> LanguageModel:
        """The model of a checkpoint alone, without reference. weights: its folder."""
        return load_model(str(weights), **self._options)

    def load_scores(
        self, *, per: Literal["sequence", "token"] | Classes, weights: Path | None = None
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
        model.origin = self.config
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

    def give_back(self) -> None:
        """Nothing: each load reads the model again."""

    def settle(self) -> None:
        """Nothing, as in `give_back`."""

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
            "activation_offload": config.activation_offload,
            "compile": config.compile,
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
