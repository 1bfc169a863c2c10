"""The settings of a model: which one, how it is loaded, and which parts of it are trained."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from posttrain.errors import ConfigError, ModelError
from posttrain.typecheck import described

EMBEDDED_MODELS = {
    "embedded": "base",
    "embedded-tools": "tools",
    "embedded-icl": "icl",
    "embedded-dynamics": "dynamics",
}
"""Folder below assets/ of each model that ships with the package, by its name."""


def model_location(path: str) -> str:
    """Folder or hub id of a model: names such as "embedded" stand for models of the package.

    Raises:
        ModelError: it is almost the name of such a model, and there is no folder of that name.
    """
    name = EMBEDDED_MODELS.get(path)
    if name is None and not Path(path).exists():
        close = difflib.get_close_matches(path, EMBEDDED_MODELS, n=1, cutoff=0.85)
        if close:
            raise ModelError(
                f"no model {path!r}: did you mean {close[0]!r}? Models that ship with posttrain: "
                f"{', '.join(EMBEDDED_MODELS)}"
            )
    return str(files("posttrain") / "assets" / name) if name else path


def model_name(place: str) -> str:
    """The name of a model that ships with the package by its folder; any other place as it is."""
    return next((name for name in EMBEDDED_MODELS if model_location(name) == place), place)


@described("LoRA")
@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Low-rank adapters (LoRA, arXiv 2106.09685) beside frozen weights: W + (alpha / r) B A.

    Attributes:
        r: rank of the adapters.
        alpha: scale of the adapters' output, divided by r.
        dropout: probability of dropping an input of the adapters.
        target_modules: names of the layers that get adapters. "all-linear" is every linear layer
            but the vocabulary projection.
        rslora: scale by alpha / sqrt(r) instead of alpha / r (arXiv 2312.03732).
        use_dora: train magnitude and direction of the weights apart (DoRA, arXiv 2402.09353).
        init: how A and B start. "default" is random A and B = 0. "pissa" takes the largest singular
            vectors of the weights (arXiv 2404.02948) and "olora" their QR factors (arXiv
            2406.01775); both keep the rest as the frozen part, so that the model starts unchanged.
        lora_plus_ratio: factor of B's learning rate (LoRA+, arXiv 2402.12354, advises 16).
        modules_to_save: names of layers that are trained in full.
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    rslora: bool = False
    use_dora: bool = False
    init: Literal["default", "gaussian", "orthogonal", "pissa", "olora"] = "default"
    lora_plus_ratio: float = 1.0
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ConfigError(f"model.lora.r: {self.r} is the rank of the adapters, at least 1")
        if self.lora_plus_ratio <= 0:
            raise ConfigError(
                f"model.lora.lora_plus_ratio: {self.lora_plus_ratio} multiplies a learning rate; "
                "above 0"
            )

    @property
    def changes_base(self) -> bool:
        """Whether the frozen weights are no longer those of the model that the run starts from."""
        return self.init in ("pissa", "olora")


# What each kind of adapter reads beside its kind.
_ADAPTER_SETTINGS = {
    "adalora": ("target_modules", "r", "alpha", "dropout"),
    "vera": ("target_modules", "r", "dropout"),
    "ia3": ("target_modules",),
    "prompt": ("num_virtual_tokens", "init_text"),
    "prefix": ("num_virtual_tokens", "encoder_hidden_size"),
    "p_tuning": ("num_virtual_tokens", "encoder_hidden_size"),
    "bitfit": (),
    "partial": ("last_layers", "modules"),
    "curlora": ("target_modules", "r"),
    "llama_pro": ("num_blocks",),
}


@described("Adapter")
@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """Parts to train other than low-rank adapters. Settings that a kind does not read are refused.

    Kinds: "adalora" gives rank to the layers where it helps (arXiv 2303.10512); "vera" shares one
    random pair of matrices between layers and trains scales (arXiv 2310.11454); "ia3" trains scales
    of keys, values and the MLP (arXiv 2205.05638); "prompt" trains embeddings before every sequence
    (arXiv 2104.08691), "p_tuning" the same through a small network (arXiv 2103.10385), "prefix"
    keys and values in every layer (arXiv 2101.00190), and these three need a model that shares
    trunks; "curlora" trains U of C U R, where C and R are the least likely columns and rows of the
    weights, frozen (arXiv 2408.14572); "bitfit" trains the biases (arXiv 2106.10199); "partial"
    trains some of the weights; "llama_pro" inserts blocks that begin as the identity and trains
    those (arXiv 2401.02415). The last three train the model's own weights and save a whole model.

    Attributes:
        kind: what is trained.
        target_modules: names of the adapted layers; "auto" chooses (adalora, vera, ia3, curlora).
        r: rank (adalora, vera, curlora). Of adalora it is the average at the end; the start has
            half as many again.
        alpha: scale of the adapters' output, divided by r (adalora).
        dropout: probability of dropping an input of the adapters (adalora, vera).
        num_virtual_tokens: number of trained positions before every sequence (prompt, prefix,
            p_tuning).
        init_text: text whose embeddings the virtual tokens start from; None is random tokens
            (prompt).
        encoder_hidden_size: width of the network that makes the virtual tokens. 0 is no network for
            prefix.
        last_layers: number of last blocks to train (partial).
        modules: parts of the names of the parameters to train (partial).
        num_blocks: blocks that are inserted, spread evenly over the depth (llama_pro).
    """

    kind: Literal[
        "adalora",
        "vera",
        "ia3",
        "prompt",
        "prefix",
        "p_tuning",
        "curlora",
        "bitfit",
        "partial",
        "llama_pro",
    ]
    target_modules: Literal["auto"] | list[str] = "auto"
    r: int = 0
    alpha: float = 32.0
    dropout: float = 0.0
    num_virtual_tokens: int = 20
    init_text: str | None = None
    encoder_hidden_size: int = 0
    last_layers: int = 0
    modules: list[str] = field(default_factory=list)
    num_blocks: int = 0

    def __post_init__(self) -> None:
        names = _ADAPTER_SETTINGS[self.kind]
        for item in fields(self):
            default = [] if item.name == "modules" else item.default
            if item.name not in ("kind", *names) and getattr(self, item.name) != default:
                may = ", ".join(names) or "nothing"
                raise ConfigError(
                    f"model.adapter.{item.name}: kind {self.kind!r} does not read it; it reads "
                    f"{may}"
                )
        for name in ("r", "last_layers", "encoder_hidden_size"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"model.adapter.{name}: {getattr(self, name)} must not be negative"
                )
        if self.num_virtual_tokens < 1:
            raise ConfigError(
                f"model.adapter.num_virtual_tokens: {self.num_virtual_tokens} must be at least 1"
            )
        if self.kind == "llama_pro" and self.num_blocks < 1:
            raise ConfigError(
                f"model.adapter.num_blocks: {self.num_blocks} blocks are inserted; set at least 1, "
                "an eighth to a quarter of the model's layers is usual"
            )
        if self.kind == "partial" and not self.last_layers and not self.modules:
            raise ConfigError(
                "model.adapter: kind 'partial' trains nothing; set last_layers: n, or modules: "
                "[part of a name]"
            )

    @property
    def own_weights(self) -> bool:
        """Whether some of the model's own weights are trained, and a whole model is saved."""
        return self.kind in ("bitfit", "partial", "llama_pro")

    @property
    def virtual_tokens(self) -> int:
        """Positions that are taken before every sequence."""
        return self.num_virtual_tokens if self.kind in ("prompt", "prefix", "p_tuning") else 0

    @staticmethod
    def from_short(text: str) -> dict[str, Any]:
        return {"kind": text}


@described("Model")
@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which model to load, and how.

    Attributes:
        path: a folder, a hub id, or a model that ships with posttrain: "embedded" continues text,
            "embedded-tools" follows short instructions and calls tools, "embedded-dynamics"
            continues series of numbers.
        tokenizer: folder or hub id of the tokenizer. None is the model's own.
        chat_template: a Jinja template, or a file that holds one. None is the tokenizer's own.
        revision: branch, tag or commit on the hub.
        dtype: precision of the weights. "auto" is float32 on a CPU and bfloat16 on a GPU.
        device: "auto" is the GPU if there is one; or "cpu", "cuda", "cuda:1".
        attention: "auto" computes shared prefixes once if a probe finds it exact, "forest" fails if
            it is not, "unshared" runs padded rows.
        init: "random" builds the architecture of the folder's config.json with fresh weights.
        lora: low-rank adapters to train instead of all weights.
        adapter: another kind of adapter to train instead of all weights.
        quantization: precision of the frozen weights below a LoRA (QLoRA, arXiv 2305.14314).
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        activation_offload: keep activations in the CPU's memory until the backward pass.
        compile: run the decoder layers through torch.compile.
        trust_remote_code: run Python code that comes with the model.
    """

    path: str
    tokenizer: str | None = None
    chat_template: str | None = None
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    attention: Literal["auto", "forest", "unshared"] = "auto"
    init: Literal["pretrained", "random"] = "pretrained"
    lora: LoraConfig | None = None
    adapter: AdapterConfig | None = None
    quantization: Literal["none", "nf4", "int8"] = "none"
    gradient_checkpointing: bool = False
    activation_offload: bool = False
    compile: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.lora is not None and self.adapter is not None:
            raise ConfigError(
                f"model: lora and adapter ({self.adapter.kind}) both say what is trained; keep one"
            )
        if self.quantization != "none" and self.lora is None:
            raise ConfigError(
                f"model.quantization: {self.quantization} weights cannot be trained; set lora: "
                "{r: 16} beside it"
            )

    @staticmethod
    def from_short(text: str) -> dict[str, Any]:
        return {"path": text}
