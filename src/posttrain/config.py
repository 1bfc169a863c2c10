"""The settings that methods share, as plain dataclasses. Nothing here imports torch;
`recipe.py` reads them from YAML.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from posttrain.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Component:
    """A loss, reward, advantage, task or search with its settings.

    A recipe writes `name` alone, or `{name: ..., weight: ..., setting: value}`.

    Attributes:
        name: of a registered function, or of `function` in messages and metrics.
        settings: values of the function's keyword-only parameters.
        weight: factor in a sum of losses or rewards.
        aggregation: how a loss is averaged over tokens; None takes the method's default.
        on: the targets that a loss is averaged on: "all", "sampled" (those that the model sampled),
            "given" or another stream that marks rows; None is "given" for a loss that reads
            `given`, and "sampled" for any other.
        function: a function that is given itself and not looked up by its name.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    aggregation: str | None = None
    function: Callable[..., Any] | None = None
    on: str | None = None

    @classmethod
    def of(cls, value: ComponentLike) -> Component:
        """A component from a name, a function, or a mapping as a recipe writes it.

        Raises:
            ConfigError: the value is none of these.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls(value)
        if callable(value):
            return cls(getattr(value, "__name__", type(value).__name__), function=value)
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            settings = {str(k): v for k, v in value.items()}
            name, weight = settings.pop("name"), settings.pop("weight", 1.0)
            aggregation, on = settings.pop("aggregation", None), settings.pop("on", None)
            return cls(name, settings, weight, aggregation, on=on)
        raise ConfigError(f"{value!r} names no function; give a name, a function, or {{name: ...}}")


ComponentLike = Component | str | Mapping[str, Any] | Callable[..., Any]
"""What names a loss, reward, advantage, task or search in Python."""


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Low-rank adapters (LoRA, arXiv 2106.09685) beside frozen weights: W + (alpha / r) B A.

    r: rank. alpha: scale. dropout: on the adapters' input. target_modules: names of layers, or
    "all-linear" (all but the vocabulary projection). rslora: scale alpha / sqrt(r) (arXiv
    2312.03732). use_dora: magnitude and direction apart (DoRA, arXiv 2402.09353). init: "default"
    is random A and B = 0; "pissa" takes the weights' largest singular vectors (arXiv 2404.02948)
    and "olora" their QR factors (arXiv 2406.01775), and both keep the rest as the frozen part, so
    that the start is the model itself. lora_plus_ratio: what B's learning rate is multiplied by
    (LoRA+, arXiv 2402.12354, advises 16).
    modules_to_save: layers trained in full.
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
}


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """Other parts to train than low-rank adapters; `posttrain` refuses settings that a kind does
    not read.

    adalora: ranks are given where they help (arXiv 2303.10512); r is the average rank at the end,
    the start has half as many again; alpha, dropout. vera: one random pair of matrices for all
    layers, of rank r, and trained scales (arXiv 2310.11454). ia3: trained scales of keys, values
    and the MLP (arXiv 2205.05638). target_modules: names of layers, "auto" chooses.
    prompt: num_virtual_tokens trained embeddings before every sequence (arXiv 2104.08691), from
    init_text or random tokens.
    p_tuning: the same through a small network of encoder_hidden_size (arXiv 2103.10385). prefix:
    trained keys and values in every layer (arXiv 2101.00190), through such a network if
    encoder_hidden_size is above 0. These three need a model that shares trunks. bitfit: biases
    alone (arXiv 2106.10199). partial: the last_layers blocks and all parameters whose name holds
    one of `modules`. The last two train the model's own weights and save a whole model.
    """

    kind: Literal["adalora", "vera", "ia3", "prompt", "prefix", "p_tuning", "bitfit", "partial"]
    target_modules: Literal["auto"] | list[str] = "auto"
    r: int = 0
    alpha: float = 32.0
    dropout: float = 0.0
    num_virtual_tokens: int = 20
    init_text: str | None = None
    encoder_hidden_size: int = 0
    last_layers: int = 0
    modules: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        known = _ADAPTER_SETTINGS[self.kind]
        for item in fields(self):
            default = [] if item.name == "modules" else item.default
            if item.name not in ("kind", *known) and getattr(self, item.name) != default:
                may = ", ".join(known) or "nothing"
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
        if self.kind == "partial" and not self.last_layers and not self.modules:
            raise ConfigError(
                "model.adapter: kind 'partial' trains nothing; set last_layers: n, or modules: "
                "[part of a name]"
            )

    @property
    def own_weights(self) -> bool:
        """Whether some of the model's own weights are trained, and a whole model is saved."""
        return self.kind in ("bitfit", "partial")

    @property
    def virtual_tokens(self) -> int:
        """Positions that are taken before every sequence."""
        return self.num_virtual_tokens if self.kind in ("prompt", "prefix", "p_tuning") else 0

    @staticmethod
    def from_short(text: str) -> dict[str, Any]:
        return {"kind": text}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which model, and how it is loaded. A path, a hub id, or "embedded" for the small model that
    ships with posttrain.

    init random builds the architecture of the folder's config.json with fresh weights. attention
    "unshared" runs padded rows instead of the token forest. dtype auto is float32 on a CPU and
    bfloat16 on a GPU. lora, adapter: what is trained instead of all weights. quantization: how the
    frozen weights below a LoRA are kept (QLoRA, arXiv 2305.14314).
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
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.lora is not None and self.adapter is not None:
            raise ConfigError(
                f"model: lora and adapter ({self.adapter.kind}) both say what is trained; keep one"
            )
        if self.quantization != "none" and self.lora is None:
            raise ConfigError(
                f"model.quantization: {self.quantization} weights cannot be trained; set lora: "
                f"{{r: 16}} beside it"
            )

    @staticmethod
    def from_short(text: str) -> dict[str, Any]:
        return {"path": text}


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Rows to train on: a file, a folder or a hub dataset id.

    columns renames the file's columns, {ours: theirs}. train_on: "auto" trains on the completion or
    on every assistant turn, and on all of a plain text.
    document: what one document of a .txt file is: a "paragraph" (the lines between blank lines), a
    "line", or the whole "file". Tokens never attend across documents. EOS is put at a document's
    end, and BOS at its start if the tokenizer uses one.
    max_length: tokens of a training sequence; None is 1024, or the model's context if that is
    shorter.
    truncation: what becomes of longer rows. "auto" splits plain text into sequences of max_length,
    so that every token but a document's first is a target exactly once per epoch, and keeps the
    start of any other row. "keep_start" and "keep_end" cut, "drop" leaves the row out, "error"
    refuses it, "split" is for plain text alone. A later part of a document begins with the last
    token of the part before, as context.
    max_cut: share of rows that are cut or dropped, or of tokens lost so, above which the run is
    refused.
    max_masked: the same for rows without any trained token.
    rationale_weight: rows with a column rationale are learnt twice, the completion after "[label] "
    and the prompt, and the rationale after "[rationale] " and the prompt, whose tokens count this
    much (0: the column is not read). Of the other methods, distill reads it too.
    """

    path: str
    subset: str | None = None
    split: str = "train"
    limit: int | None = None
    columns: dict[str, str] = field(default_factory=dict)
    train_on: Literal["auto", "completion", "all_assistant", "last", "everything"] = "auto"
    document: Literal["paragraph", "line", "file"] = "paragraph"
    max_length: int | None = None
    truncation: Literal["auto", "split", "drop", "keep_start", "keep_end", "error"] = "auto"
    max_cut: float = 0.1
    max_masked: float = 0.1
    rationale_weight: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.max_cut <= 1:
            raise ConfigError(
                f"data.max_cut: {self.max_cut} is not a share; it must be from 0 to 1"
            )
        if self.rationale_weight < 0:
            raise ConfigError(
                f"data.rationale_weight: {self.rationale_weight} is how much a token counts; it "
                "is not negative"
            )

    @staticmethod
    def from_short(text: str) -> dict[str, Any]:
        return {"path": text}


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """How completions are sampled; max_tokens None takes the task's."""

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """An OpenAI-compatible server (vLLM, SGLang, llama.cpp, a hosted service) that writes
    completions.

    url: its address, mostly ending in /v1. model: the name it knows the model by. key_variable: the
    environment variable that holds the key, which is sent to url; where it is not set, the word
    none is. route: auto asks the chat route for messages and the completions route for plain text;
    chat makes plain text a user's message. concurrency: requests at a time. timeout: seconds that a
    server may be silent in a request, which is tried again max_retries times. keep_reasoning:
    reasoning that the server gives apart is put in <think> tags before the answer. extra: more keys
    of the request's body, as they are, such as {reasoning_effort: high} or {max_completion_tokens:
    4096}, which replaces max_tokens; a key set to null is not sent, such as {seed: null} to a
    server that does not know it.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    route: Literal["auto", "chat"] = "auto"
    concurrency: int = 8
    timeout: float = 600.0
    max_retries: int = 5
    keep_reasoning: bool = True
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CreditConfig:
    """What is done to rewards and advantages beside estimating (policy gradients).

    reward_clip: [low, high] that a completion's reward is kept within. whiten: advantages to mean 0
    and deviation 1 over all tokens of a step. kl_weight: of KL to the reference in the reward,
    token by token (kl_estimator; k1 is log pi - log ref); with kl_target, mean nats a completion,
    the weight follows it at kl_gain (arXiv 1909.08593). importance_correction: what becomes of
    tokens or sequences that the sampler's distribution made likelier or less likely than the
    policy: weights of at most importance_clip_max, or none beyond it. top_entropy: the share of
    tokens, those of highest entropy, that learn (arXiv 2506.01939). target_entropy: nats; the loss
    weighted_entropy starts at entropy_weight and changes by entropy_change a step (Skywork-OR1,
    arXiv 2505.22312).
    """

    reward_clip: list[float] | None = None
    whiten: bool = False
    kl_weight: float = 0.0
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    kl_target: float | None = None
    kl_gain: float = 0.1
    importance_correction: Literal[
        "none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"
    ] = "none"
    importance_clip_max: float = 3.0
    top_entropy: float = 1.0
    target_entropy: float | None = None
    entropy_weight: float = 0.0
    entropy_change: float = 0.005


@dataclass(frozen=True, slots=True)
class TrustRegionConfig:
    """TRPO's update in place of AdamW (arXiv 1502.05477).

    max_kl: nats a token, mean over the step of KL(old || new). damping: added to the diagonal of
    the Fisher matrix. num_solves: conjugate-gradient steps. num_backtracks: how often the step is
    shortened, each time by `shrink`, before it is given up.
    """

    max_kl: float = 0.01
    damping: float = 0.1
    num_solves: int = 10
    num_backtracks: int = 10
    shrink: float = 0.7


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """How a model is measured: num_samples completions of each of the first num_examples problems
    of a task.

    seed: of the samples. It is the same for every model and independent of the recipe's, so that
    models are asked with the same random numbers.
    """

    task: Component
    num_examples: int = 200
    num_samples: int = 1
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 1234


@dataclass(slots=True)
class Recipe:
    """What every method shares. `settings` holds the method's own keyword-only settings.

    Counts: batch_size is sequences (SFT) or prompts (RL) an optimiser step;
    max_tokens_per_micro_batch is the memory
    knob: it bounds the distinct tokens that one forward pass holds, and never changes the result
    (left out: 2048 on a CPU, which needs no more to be busy, 16384 elsewhere). warmup_steps below 1
    is a share of all steps. Cadences
    `*_every` are in steps, 0 = off. A checkpoint is written every save_every steps, when
    save_seconds have passed since the last one (0 = off), and at the end; of these the newest
    save_total_limit are kept, without save_every in a finished run the last alone. From the last
    one a finished run is trained on; beside the weights it holds two to three times the trained
    parameters in float32, and save_final: false leaves it out.
    reward_timeout_seconds: how long one reward may take for the completions of a step, 0 = no
    limit.
    max_failed_rewards: the largest share of a step's completions on which one reward may fail;
    above it, or where it fails on all, the run stops. max_prompts_dropped: the largest share of a
    task's prompts, or worked examples, that may be dropped because the model's context has no room
    for them (for a prompt: with its completion).
    """

    method: str
    model: ModelConfig | None = None
    title: str = ""
    output: str = ""
    seed: int = 0
    plugins: list[str] = field(default_factory=list)
    data: DataConfig | None = None
    eval_data: DataConfig | None = None
    task: Component | None = None
    rewards: list[Component] = field(default_factory=list)
    reward_timeout_seconds: float = 600.0
    max_failed_rewards: float = 0.5
    losses: list[Component] = field(default_factory=list)
    penalties: list[Component] = field(default_factory=list)
    evaluation: EvaluationConfig | None = None
    max_steps: int | None = None
    num_train_epochs: float = 1.0
    batch_size: int = 16
    max_tokens_per_micro_batch: int | None = None
    learning_rate: float = 2e-5
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_steps: float = 0.0
    min_lr_ratio: float = 0.0
    max_grad_norm: float = 1.0
    save_every: int = 0
    save_seconds: float = 600.0
    save_final: bool = True
    save_total_limit: int = 2
    eval_every: int = 0
    report_to: list[str] = field(default_factory=list)
    max_prompts_dropped: float = 0.1
    stages: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    base: Path = field(default_factory=Path)
