"""A model before its weights are there: named by a folder or hub id, or loaded already.

Methods read tokenizer, context and configuration from a `ModelSpec`, so that everything that needs
no weights is checked before any are loaded. `fit` asks it for the model.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from posttrain.config import AdapterConfig, LoraConfig, ModelConfig
from posttrain.errors import ConfigError
from posttrain.models.forest_model import ForestModel
from posttrain.models.language_model import LanguageModel
from posttrain.models.loaded import LoadedModel
from posttrain.models.named import NamedModel
from posttrain.recipe_paths import model_of
from posttrain.terminal import echo

ModelSpec = NamedModel | LoadedModel


def model_spec(
    model: ModelSpec | ForestModel | ModelConfig | str | Path, *, seed: int = 0
) -> ModelSpec:
    """A model as methods take it.

    Args:
        model: a loaded model, a folder, a hub id, "embedded", or a configuration. The folder of a
            run stands for the model in it.
        seed: of fresh weights and adapters of a model that is named.
    """
    if isinstance(model, NamedModel | LoadedModel):
        return model
    if isinstance(model, ForestModel):
        return LoadedModel(model)
    if isinstance(model, ModelConfig):
        path = model_of(model.path, _notice)
        return NamedModel(dataclasses.replace(model, path=path), seed=seed)
    if isinstance(model, str | Path):
        return model_spec(ModelConfig(str(Path(model).expanduser())), seed=seed)
    raise ConfigError(
        f"model: {type(model).__name__} is no model; give a loaded model, a folder, a hub id, or "
        "'embedded'"
    )


def _notice(text: str) -> None:
    echo(text, error=True)


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
    activation_offload: bool = False,
    compile: bool = False,
    trust_remote_code: bool = False,
    seed: int = 0,
) -> LanguageModel:
    """Load a language model.

    Args:
        model: a folder, a hub id, the folder of a run (which stands for its model), or "embedded"
            for the small model that ships with the package.
        lora: low-rank adapters, which are trained beside the frozen weights.
        adapter: parts to train other than low-rank adapters, as pt.Adapter or the name of a kind:
            virtual tokens ("prompt", "prefix", "p_tuning"), scales ("ia3", "vera"), some of the
            model's own weights ("bitfit", "partial"), or ranks that are pruned ("adalora").
        dtype: "auto" is float32 on a CPU and bfloat16 on a GPU.
        device: "auto" is the GPU where there is one.
        seed: of fresh weights and adapters.
        tokenizer: a folder or hub id of another tokenizer than the model's own.
        chat_template: a Jinja template, or a file that holds one.
        revision: branch, tag or commit on the hub.
        quantization: precision of the frozen weights below a LoRA (QLoRA).
        attention: "auto" computes shared prefixes once where a probe finds that exact, "forest"
            fails if it is not, "unshared" runs padded rows.
        init: "random" takes the architecture alone, with fresh weights.
        gradient_checkpointing: compute activations again in the backward pass, to save memory.
        activation_offload: keep activations in the CPU's memory until the backward pass.
        compile: run the decoder layers through torch.compile.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        ModelError: there is no such model, or it cannot be used as asked.
    """
    if isinstance(adapter, str):
        adapter = AdapterConfig(adapter)  # type: ignore[arg-type]
    config = ModelConfig(
        str(Path(model).expanduser()),
        lora=lora,
        adapter=adapter,
        dtype=dtype,
        device=device,
        tokenizer=tokenizer,
        chat_template=chat_template,
        revision=revision,
        quantization=quantization,
        attention=attention,
        init=init,
        gradient_checkpointing=gradient_checkpointing,
        activation_offload=activation_offload,
        compile=compile,
        trust_remote_code=trust_remote_code,
    )
    named = model_spec(config, seed=seed)
    return named.load()
