"""The settings that methods share, as plain dataclasses. Nothing here imports torch.

A field is explained in its class's docstring, as "name: meaning". `posttrain METHOD --help` and
`posttrain explain settings NAME` read the explanations from there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from posttrain.cluster_config import ClusterConfig as ClusterConfig
from posttrain.component import Component
from posttrain.component import ComponentLike as ComponentLike
from posttrain.credit_config import CreditConfig as CreditConfig
from posttrain.data_config import DataConfig as DataConfig
from posttrain.data_config import DataLike as DataLike
from posttrain.data_config import SourceConfig as SourceConfig
from posttrain.engine_config import EngineLike as EngineLike
from posttrain.engine_config import LaunchConfig as LaunchConfig
from posttrain.engine_config import ProtocolName as ProtocolName
from posttrain.engine_config import ServedConfig as ServedConfig
from posttrain.errors import ConfigError
from posttrain.model_config import AdapterConfig as AdapterConfig
from posttrain.model_config import LoraConfig as LoraConfig
from posttrain.model_config import ModelConfig as ModelConfig
from posttrain.overlap_config import OverlapConfig as OverlapConfig
from posttrain.typecheck import described
from posttrain.watch_config import WatchConfig as WatchConfig

OF_EVERY_TRAINING = (
    "max_tokens_per_micro_batch",
    "optimizer",
    "muon_momentum",
    "muon_scale",
    "ema_decay",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "warmup_steps",
    "min_lr_ratio",
    "max_grad_norm",
    "save_every",
    "save_seconds",
    "save_final",
    "save_total_limit",
    "eval_every",
    "report_to",
    "penalties",
    "shard",
    "compute_dtype",
)
"""Settings of a training that no method chooses; `training.settings` says what they mean."""

Schedule = Literal["linear", "cosine", "constant", "constant_with_warmup"]
"""How the learning rate changes over a run."""

OptimizerName = Literal["adamw", "adamw_8bit", "muon"]
"""How gradients become updates: see `posttrain.training.update_rules`."""

MuonScale = Literal["match_rms_adamw", "original"]
"""Factor of Muon's updates, by the shape of a matrix."""

Shard = Literal["off", "full"] | int
"""How many processes hold one copy of a model between them."""

ComputeDtype = Literal["auto", "bfloat16"]
"""Precision of the passes of a model in shares."""

Aggregation = Literal["token_mean", "sequence_mean", "sequence_sum", "fixed_length"]
"""How a loss with one value per token is averaged: see `posttrain.losses.reduce`."""


@described("Sampling")
@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """How completions are sampled.

    Attributes:
        max_tokens: largest number of new tokens. None is the task's.
        temperature: divides the logits; 0 is greedy.
        top_p: sample from the likeliest tokens with this total probability; 1 is off.
        top_k: sample from this many of the likeliest tokens; 0 is off.
        min_p: leave out tokens below this share of the likeliest one's probability; 0 is off.
        stop: texts that end a completion, added to EOS. An empty list is the task's.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: list[str] = field(default_factory=list)


@described("Endpoint")
@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """An OpenAI-compatible server (vLLM, SGLang, llama.cpp, a hosted service) that writes
    completions.

    Attributes:
        url: address of the server, usually ending in /v1.
        model: name of the model on the server.
        key_variable: environment variable that holds the key, which is sent to url. If it is not
            set, the word none is sent.
        route: "auto" uses the chat route for messages and the completions route for plain text;
            "chat" sends plain text as a user's message.
        concurrency: number of requests at a time.
        timeout: seconds without data after which a request fails.
        max_retries: how often a failed request is repeated.
        keep_reasoning: put reasoning that the server returns separately in <think> tags before the
            answer.
        extra: further keys of the request's body, such as {reasoning_effort: high} or
            {max_completion_tokens: 4096}, which replaces max_tokens. A key set to null is not sent,
            such as {seed: null} for a server that has no seed.
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


@described("Limits")
@dataclass(frozen=True, slots=True)
class AgentConfig:
    """How a model acts in an environment, turn by turn.

    Attributes:
        max_turns: completions of an episode; 0 = no limit.
        max_tokens: sampled tokens of an episode, all turns together; 0 = no limit. One turn is
            bounded by the sampling's own max_tokens, and ends the episode where it is cut.
        max_tool_calls: calls of an episode; 0 = no limit.
        max_parse_errors: malformed calls that are answered with the error. The next one ends the
            episode.
        tool_seconds: time of one call of a tool or of the environment; 0 = no limit.
        timeout_seconds: time of an episode; 0 = no limit.
        gather_seconds: how long the model waits for calls that have begun, before it goes on with
            the other episodes. A call that takes longer stops nobody else. Where all take less, a
            run repeats itself bit for bit.
        max_concurrent: episodes that run at the same time; 0 = all of a step.
        parser: form of tool calls; "auto" follows the chat template.
        chat: whether conversations follow the chat template. None: where there are tools, or the
            prompt is chat.
        train_unparsed: whether turns whose calls cannot be read are trained on.
    """

    max_turns: int = 16
    max_tokens: int = 0
    max_tool_calls: int = 0
    max_parse_errors: int = 0
    tool_seconds: float = 60.0
    timeout_seconds: float = 0.0
    gather_seconds: float = 0.05
    max_concurrent: int = 0
    parser: str = "auto"
    chat: bool | None = None
    train_unparsed: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may fail or be left out before a run stops.

    Attributes:
        max_prompts_dropped: largest share of a task's prompts, or worked examples, that may be
            dropped because the model's context has no room for them (for a prompt: with its
            completion).
        max_failed_rewards: largest share of a step's completions on which one reward may fail, and
            of its episodes that may fail. Above it, or where all fail, the run stops.
        reward_timeout_seconds: how long one reward may take for the completions of a step; 0 = no
            limit.
    """

    max_prompts_dropped: float = 0.1
    max_failed_rewards: float = 0.5
    reward_timeout_seconds: float = 600.0


@described("TrustRegion")
@dataclass(frozen=True, slots=True)
class TrustRegionConfig:
    """TRPO's update instead of AdamW (arXiv 1502.05477).

    Attributes:
        max_kl: largest mean KL(old || new) of a step, in nats per token.
        damping: added to the diagonal of the Fisher matrix.
        num_solves: number of conjugate-gradient steps.
        num_backtracks: how often a step is shortened before it is given up.
        shrink: factor by which a step is shortened.
    """

    max_kl: float = 0.01
    damping: float = 0.1
    num_solves: int = 10
    num_backtracks: int = 10
    shrink: float = 0.7


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """How a model is evaluated on a task.

    Attributes:
        task: the task whose problems are answered.
        num_examples: number of problems, from the first.
        num_samples: completions per problem.
        sampling: how the completions are sampled.
        environment: what the model acts in; it is then measured by episodes. Where the task cannot
            grade, an episode is right if the environment's reward is at least 1.
        agent: how the model acts there.
        seed: seed of the completions. It does not depend on the recipe's seed, so that all models
            get the same random numbers.
        budget: most tokens that the search about one problem samples, the discarded ones included.
        overthinking: whether to find where each completion is right first, by the verdict on each
            line's end: tokens_after_right, outcome_efficiency and undone among the metrics.
    """

    task: Component
    num_examples: int = 200
    num_samples: int = 1
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    environment: Component | None = None
    agent: AgentConfig = AgentConfig()
    seed: int = 1234
    budget: int | None = None
    overthinking: bool = False


@dataclass(frozen=True, slots=True)
class ForgettingConfig:
    """Old abilities that are measured before and after a training, item by item.

    Attributes:
        old: tasks of old abilities: skills, instructions, refusals.
        rows: files of rows by name, whose likelihood is measured, such as a text corpus.
        new: the task that is trained for; None is the recipe's task. The KL divergence from the
            model of the start on its prompts is measured too.
        num_examples: the first so many problems of each task, and rows of each file.
        num_samples: completions per problem.
        num_prompts: prompts of the new task for the divergence; 0 = it is not measured.
        sampling: how the completions are sampled.
        seed: seed of the completions, the same before and after.
    """

    old: list[Component] = field(default_factory=list)
    rows: dict[str, str] = field(default_factory=dict)
    new: Component | None = None
    num_examples: int = 200
    num_samples: int = 1
    num_prompts: int = 64
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 1234

    def __post_init__(self) -> None:
        if not self.old and not self.rows:
            raise ConfigError(
                "forgetting: there is no old ability; give old: [tasks], or rows: {name: file}"
            )
        names = [task.name for task in self.old] + list(self.rows)
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ConfigError(f"forgetting: two suites are called {twice[0]!r}; leave one out")


@dataclass(slots=True)
class Recipe:
    """A run: the keys that methods share. `settings` holds the method's own.

    Attributes:
        method: name of the method; `posttrain ls methods` lists them.
        model: the model that is trained or evaluated.
        title: name of the run in progress display and report.
        output: folder of the run.
        seed: seed of everything that is drawn at random.
        plugins: Python files with the user's own losses, rewards, tasks or methods.
        data: rows to train on: a file, a folder or a hub id.
        eval_data: held-out rows, evaluated before, during and after training.
        task: the task that gives prompts and grades.
        rewards: reward functions; the reward is their weighted sum.
        reward_timeout_seconds: time limit of one reward function for the completions of a step; 0
            is no limit.
        max_failed_rewards: largest share of a step's completions on which a reward function may
            fail. The run stops above it, or if the function fails on all of them.
        losses: the loss is the weighted sum of these. The first is the main loss, and its settings
            can be written as plain keys.
        evaluation: the task that the trained model is evaluated on.
        forgetting: old abilities that are measured before and after the training.
        max_steps: number of optimiser steps. None is num_train_epochs.
        num_train_epochs: passes over the data, where max_steps is not set.
        batch_size: sequences (or prompts) per optimiser step.
        max_tokens_per_micro_batch: most distinct tokens in one forward pass, to bound memory. It
            does not change the result. None is 2048 on a CPU and 16384 elsewhere.
        learning_rate: peak learning rate.
        optimizer: update rule; adamw_8bit keeps moments of one byte, muon updates matrices of
            hidden layers by the orthogonal factor of their momentum and all else as adamw.
        muon_momentum: decay of Muon's mean of gradients.
        muon_scale: size of Muon's updates; match_rms_adamw makes them as large as AdamW's.
        ema_decay: decay per step of a moving average of the weights, which evaluations and the
            final model then use; 0 is off.
        weight_decay: decoupled weight decay.
        adam_beta1: decay of AdamW's mean of gradients.
        adam_beta2: decay of AdamW's mean of squared gradients.
        adam_epsilon: added to AdamW's denominator.
        lr_scheduler_type: shape of the learning rate after the warm-up.
        warmup_steps: steps of linear warm-up; below 1, a share of all steps.
        min_lr_ratio: learning rate at the end, as a share of the peak.
        penalties: terms over parameters that each update adds to the loss, such as l2_to_start.
        max_grad_norm: norm to which gradients are clipped; 0 is off.
        save_every: steps between checkpoints; 0 is off.
        save_seconds: seconds between checkpoints; 0 is off.
        save_final: write a checkpoint at the end, from which the run can be trained on. It holds
            two to three times the trained parameters in float32 beside the weights.
        save_total_limit: number of newest checkpoints to keep. A finished run without save_every
            keeps only the last.
        eval_every: steps between evaluations on eval_data and evaluation; 0 is off.
        report_to: trackers that also get the metrics, such as wandb or tensorboard.
        max_prompts_dropped: largest share of a task's prompts that may be dropped because prompt
            and completion exceed the model's context.
        launch: machines and processes that Ray places the run on. None runs it in this process, or
            in those of torchrun.
        shard: how many processes hold one copy of weights, gradients and moments between them: off
            (each holds all), full (all processes together) or a number that divides them.
        compute_dtype: precision of the passes of a model in shares. Gradients are summed in
            float32. "auto" is the weights' own.
        stages: recipes of a pipeline's stages, each with a name.
        settings: the method's own settings.
        base: folder that relative paths start from.
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
    forgetting: ForgettingConfig | None = None
    max_steps: int | None = None
    num_train_epochs: float = 1.0
    batch_size: int = 16
    max_tokens_per_micro_batch: int | None = None
    learning_rate: float = 2e-5
    optimizer: OptimizerName = "adamw"
    muon_momentum: float = 0.95
    muon_scale: MuonScale = "match_rms_adamw"
    ema_decay: float = 0.0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    lr_scheduler_type: Schedule = "linear"
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
    launch: ClusterConfig | None = None
    shard: Shard = "off"
    compute_dtype: ComputeDtype = "auto"
    stages: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    base: Path = field(default_factory=Path)
