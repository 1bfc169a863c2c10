"""A run: its folder, its hooks, how it starts, is interrupted, goes on and ends."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from rich.console import Console

from posttrain import registry
from posttrain.config import ModelConfig, Recipe
from posttrain.data.stream import Source
from posttrain.data.templates import template_fingerprint
from posttrain.errors import CheckpointError, ConfigError
from posttrain.memory import keep_freed_memory
from posttrain.models.adapters import rate_factors, updates_of
from posttrain.models.forest_model import ForestModel
from posttrain.models.language_model import LanguageModel
from posttrain.models.load import load_model, load_score_model, load_tokenizer
from posttrain.models.score_model import ScoreModel
from posttrain.recipe import recipe_as_dict
from posttrain.terminal import styled, visible, write
from posttrain.training import checkpoint
from posttrain.training.ending import closing, stop_on_signal
from posttrain.training.hooks import Hook, MetricsWriter
from posttrain.training.loop import State, train
from posttrain.training.objective import Objective
from posttrain.training.optim import Optimizer
from posttrain.training.progress import Progress
from posttrain.training.tracking import build_trackers, check_trackers

EMBEDDED = "embedded"
SAMPLES = "samples.jsonl"
"""What method sample leaves behind."""


@dataclasses.dataclass(slots=True)
class Job:
    """What a method has prepared, before any weights are loaded.

    facts: name and value of what a check shows. execute: does the work. preview: shows what is trained on.
    """

    facts: list[tuple[str, str]]
    execute: Callable[[], None]
    preview: Callable[[int], None] | None = None


class TrainingJob(Job):
    """A job that leaves a trained model in the run's folder."""


class Interrupted(KeyboardInterrupt):
    """The user stopped the run; its state is saved."""


class Run:
    """One execution of a recipe.

    Args:
        recipe: what to run. command: the command line, for the report. resume: go on from the last checkpoint.
        console: where to print.
    """

    def __init__(self, recipe: Recipe, *, command: str = "", resume: bool = False, console: Console | None = None) -> None:
        self.recipe = recipe
        self.command = command
        self.resume = resume
        self.console = console or Console()
        self.folder = Path(recipe.output or f"runs/{recipe.method}")
        self.first_metrics: dict[str, float] = {}
        self.resume_step = 0
        self.optimizer: Optimizer | None = None  # of the training that is going on

    def job(self) -> Job:
        """Prepare: all checks that need no weights are made here."""
        check_trackers(self.recipe.report_to)
        entry = registry.methods.entry(self.recipe.method)
        known = {f.name for f in dataclasses.fields(Recipe)}
        settings = {k: getattr(self.recipe, k) if k in known else self.recipe.settings[k] for k in entry.settings}
        job: Job = registry.methods.get(self.recipe.method)(self, **settings)
        if isinstance(job, TrainingJob) and self.recipe.evaluation is not None:
            # What will be measured in the end is made now: its mistakes have to come to light before the training.
            measured: Job = registry.methods.get("evaluate")(self, evaluation=self.recipe.evaluation)
            job.facts.append(("evaluation", measured.facts[0][1]))
        return job

    def execute(self) -> Path:
        """Prepare and run; returns the run's folder."""
        self._refuse_existing()
        self.job().execute()
        return self.folder

    def check(self) -> None:
        """Prepare only, and show what was found."""
        job = self.job()
        width = max(len(name) for name, _ in job.facts)
        for name, value in job.facts:
            write(self.console, "  ", styled(f"{name:<{width}}", "bold"), f"  {value}")
        write(self.console, "\nevery check that needs no weights has passed", style="green")

    def preview(self, num: int) -> None:
        """Show what is trained on."""
        job = self.job()
        if job.preview is None:
            raise ConfigError(f"method {self.recipe.method!r} trains on no fixed rows, so there is nothing to preview")
        job.preview(num)

    @property
    def finished(self) -> bool:
        """Whether this run has ended: its last file is there."""
        last = "evaluation.json" if self.recipe.evaluation is not None else "model"
        return (self.folder / last).exists() or (self.folder / SAMPLES).exists()

    # -- where things are

    def resolve(self, path: str) -> str:
        """A path of the recipe: as it is from the working folder, else from the recipe's folder, else a hub id."""
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

    # -- the life of a run

    def open(self) -> None:
        """Make the run's folder with the resolved recipe in it."""
        self._refuse_existing()
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoint.remove_partial(self.folder)
        plain = recipe_as_dict(self.recipe)
        plain["plugins"] = [str((self.recipe.base / p).resolve()) for p in self.recipe.plugins]
        plain["output"] = str(self.folder)
        text = f"# {visible(self.command)}\n{yaml.safe_dump(plain, sort_keys=False)}"
        checkpoint.write_text_whole(self.folder / "recipe.yaml", text)

    def _refuse_existing(self) -> None:
        if not self.resume and (self.folder / "recipe.yaml").exists():
            raise ConfigError(
                f"output: {self.folder} already holds a run. Go on with it by `posttrain resume {self.folder}`, "
                "choose another output=..., or remove the folder"
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
                # The reference is the model the run began with; the policy is what the checkpoint holds.
                model.hf.load_state_dict(load_model(str(weights), **options).hf.state_dict())
            self._tell_unshared(model)
        if weights is not None:
            model.load_reference(weights)
        model.rate_factors |= rate_factors(model.hf, config.lora)
        return model

    def load_score_model(
        self, config: ModelConfig | None = None, *, per: Literal["sequence", "token"], weights: Path | None = None
    ) -> ScoreModel:
        """A model with a score: of `config` (None: the recipe's model), or (weights) as a checkpoint left it."""
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
        self, model: LanguageModel, config: ModelConfig | None, *, learning_rate: float | None, last: Path | None
    ) -> None:
        """Give a model a critic of values: of `config` (None: the model of the recipe), or as the checkpoint `last` has it.

        Args:
            learning_rate: the critic's own, None = the policy's.
        """
        model.critic = self.load_score_model(config, per="token", weights=last / "critic" if last else None)
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
            **({"adapter": config.adapter} if config.adapter is not None and config.adapter.own_weights else {}),
            "seed": self.recipe.seed,
        }

    def _tell_unshared(self, model: ForestModel) -> None:
        if not model.shares_trunks and self.model_config.attention == "auto":
            write(self.console, f"shared prefixes are computed once per row: {model.why_unshared}", style="yellow")

    def train(
        self,
        make_source: Callable[[Any], Source],
        objective: Objective,
        *,
        steps: int,
        load: Callable[[Path | None], Any] | None = None,
        make_hooks: Callable[[Any, Source], Sequence[Hook]] = lambda model, source: (),
        show: Callable[[Any], Any] | None = None,
        make_optimizer: Callable[[Any, Optimizer], Any] = lambda model, usual: usual,
    ) -> Any:
        """Load, train from the start or from the last checkpoint, and save `model/`.

        Args:
            load: gives the model, as the checkpoint in a folder holds it or (None) as the run starts; left out, the language
                model of the recipe with a reference if the objective needs one.
            make_hooks: extra hooks, called first so that what they add to the metrics is logged.
            show: source -> a sampled completion for the progress display.
            make_optimizer: (model, AdamW) -> what updates the weights.
        Raises:
            Interrupted: the user stopped the run; a checkpoint holds its state.
        """
        found = checkpoint.checkpoints(self.folder) if self.resume else []
        last = found[-1] if found else None
        if self.resume and last is None and not (self.folder / "recipe.yaml").exists():
            raise CheckpointError(f"{self.folder} holds no checkpoint; start the run anew")
        model = load(last) if load else self.load_model(reference=objective.needs_reference, weights=last)
        if model.device.type == "cpu":
            keep_freed_memory()
        self.open()
        _seed_everything(self.recipe.seed)
        source = make_source(model)
        optimizer = self.optimizer = make_optimizer(model, self._optimizer(model, steps))
        state = State()
        self.resume_step = 0
        if last is not None:
            saved = checkpoint.load_checkpoint(last, optimizer)
            self._check_fingerprint(saved, last)
            state = State(saved["global_step"], saved["num_tokens"], str(last))
            self.resume_step = state.step
            source.load_state(saved["source"])
            if isinstance(model, LanguageModel):
                model.weights_version = saved["weights_version"]
            write(self.console, f"resuming {self.folder} after step {state.step} of {steps}")
        hooks: list[Any] = [*make_hooks(model, source), *build_trackers(self.recipe.report_to, self.folder)]
        writer = MetricsWriter(self.folder / "metrics.jsonl", resume_step=state.step)
        if self.first_metrics and state.step == 0:
            writer(0, self.first_metrics)
        hooks.append(writer)
        progress = Progress(
            steps,
            title=self.recipe.title or self.recipe.method,
            console=self.console,
            start=state.step,
            sampled=None if show is None else lambda: show(source),
        )
        hooks += [progress, self._saver(model, source, optimizer, state, steps)]
        model.train()
        with progress, closing(hooks), stop_on_signal(state, self.console):
            train(model, source, objective, optimizer, hooks, state, steps=steps, max_tokens=self.micro_batch_tokens(model))
        if state.stop and state.step < steps:
            raise Interrupted(f"stopped after step {state.step} of {steps}; go on with: posttrain resume {self.folder}")
        model.eval()
        with checkpoint.written_whole(self.folder / "model") as partial:
            model.save(partial)
        return model

    def _optimizer(self, model: ForestModel, steps: int) -> Optimizer:
        r = self.recipe
        return Optimizer(
            model.trainable_parameters(),
            steps=steps,
            learning_rate=r.learning_rate,
            weight_decay=r.weight_decay,
            betas=(r.adam_beta1, r.adam_beta2),
            epsilon=r.adam_epsilon,
            schedule=r.lr_scheduler_type,
            warmup_steps=r.warmup_steps,
            min_lr_ratio=r.min_lr_ratio,
            max_grad_norm=r.max_grad_norm,
            rate_factors=model.rate_factors,
            updates=updates_of(model.hf, steps),
        )

    def _saver(self, model: ForestModel, source: Source, optimizer: Optimizer, state: State, steps: int) -> Hook:
        """The hook that saves: every `save_every` steps, and when the user stops the run."""

        def save(step: int, metrics: dict[str, float]) -> None:
            due = self.recipe.save_every and (step % self.recipe.save_every == 0 or step == steps)
            if not due and not state.stop:
                return
            values = {
                "num_tokens": state.num_tokens,
                "source": source.state(),
                "weights_version": getattr(model, "weights_version", 0),
                "template_fingerprint": template_fingerprint(model.tokenizer),
            }
            path = checkpoint.save_checkpoint(
                self.folder, step, save_model=model.save_for_resume, optimizer=optimizer, state=values
            )
            state.last_checkpoint = str(path)
            checkpoint.prune_checkpoints(self.folder, self.recipe.save_total_limit)

        return save

    def _check_fingerprint(self, saved: dict[str, Any], folder: Path) -> None:
        now = template_fingerprint(self.tokenizer)
        if saved["template_fingerprint"] != now:
            raise CheckpointError(
                f"{folder} was trained with the chat template {saved['template_fingerprint']}, this recipe's is {now}; "
                "resume with the same tokenizer and chat_template, or start a new run"
            )

    def micro_batch_tokens(self, model: ForestModel) -> int:
        """Distinct tokens that one forward pass may hold: the recipe's, or what suits the device."""
        return self.recipe.max_tokens_per_micro_batch or (2048 if model.device.type == "cpu" else 16384)

    def steps_for(self, steps_per_epoch: int) -> int:
        """max_steps, or as many as num_train_epochs takes."""
        return self.recipe.max_steps or max(1, math.ceil(self.recipe.num_train_epochs * steps_per_epoch))


def _fresh(config: ModelConfig) -> dict[str, Any]:
    """What counts when a run starts, and not when it goes on from a checkpoint."""
    peft_kind = config.adapter is not None and not config.adapter.own_weights
    return {
        "init": config.init,
        "lora": config.lora,
        "revision": config.revision,
        **({"adapter": config.adapter} if peft_kind else {}),
    }


def _seed_everything(seed: int) -> None:
    """Seed the global generators, which dropout and users' own functions draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
