"""Where the models of a run come from: names of a recipe to folders, and folders to loaded
models.
"""

from __future__ import annotations

from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from posttrain.config import ModelConfig, Recipe
from posttrain.errors import ConfigError
from posttrain.models.adapters import rate_factors
from posttrain.models.forest_model import ForestModel
from posttrain.models.language_model import LanguageModel
from posttrain.models.load import load_model, load_score_model, load_tokenizer
from posttrain.models.score_model import ScoreModel
from posttrain.terminal import write

EMBEDDED = "embedded"


class RunModels:
    """The models that a recipe names, as a run starts with them or as a checkpoint left them."""

    def __init__(self, recipe: Recipe, console: Console) -> None:
        self.recipe = recipe
        self.console = console

    def resolve(self, path: str) -> str:
        """A path of the recipe: as it is from the working folder, else from the recipe's
        folder, else a hub id.
        """
        for candidate in (Path(path).expanduser(), self.recipe.base / path):
            if candidate.exists():
                return str(candidate.resolve())
        return path

    @property
    def model_config(self) -> ModelConfig:
        """The recipe's model.

        Raises:
            ConfigError: the recipe names none.
        """
        if self.recipe.model is None:
            raise ConfigError("missing key 'model': a folder, a hub id, or 'embedded'")
        return self.recipe.model

    @property
    def model_path(self) -> str:
        """Folder or hub id of the model."""
        return self.place_of(self.model_config)

    def place_of(self, config: ModelConfig) -> str:
        """Folder or hub id of any model that the recipe names."""
        if config.path == EMBEDDED:
            return str(files("posttrain") / "assets" / "base")
        return self.resolve(config.path)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded without the weights."""
        config = self.model_config
        return load_tokenizer(
            self.resolve(config.tokenizer) if config.tokenizer else self.model_path,
            chat_template=config.chat_template,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
        )

    def load_model(self, *, reference: bool = False, weights: Path | None = None) -> LanguageModel:
        """The model of the recipe, or (weights) the same model as a checkpoint left it.

        Args:
            reference: keep a frozen copy of the recipe's model, for KL and preference losses.
        """
        config = self.model_config
        options = self._options(config)
        adapters_keep_it = config.lora is not None and not config.lora.changes_base
        adapters_keep_it |= config.adapter is not None and not config.adapter.own_weights
        if weights is not None and (adapters_keep_it or not reference):
            model = load_model(str(weights), **options)
            model.fresh_adapters = True  # they began with this run
            if reference:
                model.enable_reference()
        else:
            model = load_model(self.model_path, reference=reference, **options, **_fresh(config))
            if weights is not None:
                # The reference is the model the run began with; the policy is what the checkpoint
                # holds.
                model.hf.load_state_dict(load_model(str(weights), **options).hf.state_dict())
            self._tell_unshared(model)
        if weights is not None:
            model.load_reference(weights)
        model.rate_factors |= rate_factors(model.hf, config.lora)
        return model

    def load_score_model(
        self,
        config: ModelConfig | None = None,
        *,
        per: Literal["sequence", "token"],
        weights: Path | None = None,
    ) -> ScoreModel:
        """A model with a score: of `config` (None: the recipe's model), or (weights) as a
        checkpoint left it.
        """
        config = config or self.model_config
        options = self._options(config)
        if weights is not None:
            model = load_score_model(str(weights), per=per, **options)
        else:
            model = load_score_model(self.place_of(config), per=per, **options, **_fresh(config))
            self._tell_unshared(model)
        model.rate_factors |= rate_factors(model.hf, config.lora)
        return model

    def add_critic(
        self,
        model: LanguageModel,
        config: ModelConfig | None,
        *,
        learning_rate: float | None,
        last: Path | None,
    ) -> None:
        """Give a model a critic of values: of `config` (None: the model of the recipe), or as the
        checkpoint `last` has it.

        Args:
            learning_rate: the critic's own, None = the policy's.
        """
        model.critic = self.load_score_model(
            config, per="token", weights=last / "critic" if last else None
        )
        factor = (learning_rate or self.recipe.learning_rate) / self.recipe.learning_rate
        model.rate_factors |= dict.fromkeys(model.critic.trainable_parameters(), factor)

    def load_frozen(self, config: ModelConfig) -> LanguageModel:
        """Another language model that is only asked: a teacher, a judge."""
        model = load_model(self.place_of(config), **self._options(config), **_fresh(config))
        model.hf.requires_grad_(False)
        return model

    def _options(self, config: ModelConfig) -> dict[str, Any]:
        return {
            "tokenizer": self.resolve(config.tokenizer) if config.tokenizer else None,
            "chat_template": config.chat_template,
            "dtype": config.dtype,
            "device": config.device,
            "attention": config.attention,
            "trust_remote_code": config.trust_remote_code,
            "gradient_checkpointing": config.gradient_checkpointing,
            "quantization": config.quantization,
            **(
                {"adapter": config.adapter}
                if config.adapter is not None and config.adapter.own_weights
                else {}
            ),
            "seed": self.recipe.seed,
        }

    def _tell_unshared(self, model: ForestModel) -> None:
        if not model.shares_trunks and self.model_config.attention == "auto":
            write(
                self.console,
                f"shared prefixes are computed once per row: {model.why_unshared}",
                style="yellow",
            )

    def micro_batch_tokens(self, model: ForestModel) -> int:
        """Distinct tokens that one forward pass may hold: the recipe's, or what suits the
        device.
        """
        return self.recipe.max_tokens_per_micro_batch or (
            2048 if model.device.type == "cpu" else 16384
        )


def _fresh(config: ModelConfig) -> dict[str, Any]:
    """What counts when a run starts, and not when it goes on from a checkpoint."""
    peft_kind = config.adapter is not None and not config.adapter.own_weights
    return {
        "init": config.init,
        "lora": config.lora,
        "revision": config.revision,
        **({"adapter": config.adapter} if peft_kind else {}),
    }
