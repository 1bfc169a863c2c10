"""The settings that methods share, as plain dataclasses. Nothing here imports torch; `recipe.py` reads them from YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Component:
    """A registered function with its settings: `name` alone, or `{name: ..., weight: ..., setting: value}`."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    aggregation: str | None = None


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Low-rank adapters (LoRA, arXiv 2106.09685) beside frozen weights: W + (alpha / r) B A.

    r: rank. alpha: scale. dropout: on the adapters' input. target_modules: names of layers, or "all-linear" (all but the
    vocabulary projection). rslora: scale alpha / sqrt(r) (arXiv 2312.03732). modules_to_save: layers trained in full.
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    rslora: bool = False
    modules_to_save: list[str] | None = None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which model, and how it is loaded. A path, a hub id, or "embedded" for the small model that ships with posttrain.

    init random builds the architecture of the folder's config.json with fresh weights. attention "unshared" runs padded
    rows instead of the token forest. dtype auto is float32 on a CPU and bfloat16 on a GPU.
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
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False

    @staticmethod
    def from_short(text: str) -> dict[str, Any]:
        return {"path": text}


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Rows to train on: a file, a folder or a hub dataset id.

    columns renames the file's columns, {ours: theirs}. train_on: "auto" trains on the completion or on every assistant
    turn, and on all of a plain text. max_length None is 1024 tokens, or the model's context if that is shorter.
    truncation says what becomes of rows longer than max_length tokens. max_masked is
    the share of rows without any trained token above which the run is refused.
    """

    path: str
    subset: str | None = None
    split: str = "train"
    limit: int | None = None
    columns: dict[str, str] = field(default_factory=dict)
    train_on: Literal["auto", "completion", "all_assistant", "last", "everything"] = "auto"
    max_length: int | None = None
    truncation: Literal["drop", "keep_start", "keep_end", "error"] = "keep_start"
    max_masked: float = 0.1

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
class CreditConfig:
    """What is done to rewards and advantages beside estimating (policy gradients).

    reward_clip: [low, high] that a completion's reward is kept within. whiten: advantages to mean 0 and deviation 1 over all
    tokens of a step. kl_weight: of KL to the reference in the reward, token by token (kl_estimator; k1 is log pi - log ref);
    with kl_target, mean nats a completion, the weight follows it at kl_gain (arXiv 1909.08593). importance_correction: what
    becomes of tokens or sequences that the sampler's distribution made likelier or less likely than the policy: weights of at
    most importance_clip_max, or none beyond it. top_entropy: the share of tokens, those of highest entropy, that learn (arXiv
    2506.01939). target_entropy: nats; the loss weighted_entropy starts at entropy_weight and changes by entropy_change a step
    (Skywork-OR1, arXiv 2505.22312).
    """

    reward_clip: list[float] | None = None
    whiten: bool = False
    kl_weight: float = 0.0
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    kl_target: float | None = None
    kl_gain: float = 0.1
    importance_correction: Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = "none"
    importance_clip_max: float = 3.0
    top_entropy: float = 1.0
    target_entropy: float | None = None
    entropy_weight: float = 0.0
    entropy_change: float = 0.005


@dataclass(frozen=True, slots=True)
class TrustRegionConfig:
    """TRPO's update in place of AdamW (arXiv 1502.05477).

    max_kl: nats a token, mean over the step of KL(old || new). damping: added to the diagonal of the Fisher matrix. num_solves:
    conjugate-gradient steps. num_backtracks: how often the step is shortened, each time by `shrink`, before it is given up.
    """

    max_kl: float = 0.01
    damping: float = 0.1
    num_solves: int = 10
    num_backtracks: int = 10
    shrink: float = 0.7


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """How a model is measured: num_samples completions of each of num_examples problems of a task.

    search names strategies whose choice among the samples is measured too, at no further cost.
    """

    task: Component
    num_examples: int = 200
    num_samples: int = 1
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    ks: list[int] = field(default_factory=list)
    seed: int = 1234


@dataclass(slots=True)
class Recipe:
    """What every method shares. `settings` holds the method's own keyword-only settings.

    Counts: batch_size is sequences (SFT) or prompts (RL) an optimiser step; max_tokens_per_micro_batch is the memory
    knob: it bounds the distinct tokens that one forward pass holds, and never changes the result (left out: 2048 on a
    CPU, which needs no more to be busy, 16384 elsewhere). warmup_steps below 1 is a share of all steps. Cadences
    `*_every` are in steps, 0 = off.
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
    losses: list[Component] = field(default_factory=list)
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
    save_total_limit: int = 2
    eval_every: int = 0
    report_to: list[str] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    base: Path = field(default_factory=Path)
