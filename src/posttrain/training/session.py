"""One training: from a plan and a model to a result."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from posttrain.errors import ConfigError, RewardError
from posttrain.models.program import whole_weights
from posttrain.models.spec import ModelSpec
from posttrain.training import resume, start_weights
from posttrain.training.average import WeightAverage
from posttrain.training.contents import content_changes, contents, contents_of
from posttrain.training.ending import Interrupted, closing, in_eval_mode, stop_on_signal
from posttrain.training.folder import RunFolder
from posttrain.training.hooks import (
    Hook,
    MetricsWriter,
    RolloutWriter,
    add_peak_memory,
    first_rollout,
    optimizer_memory,
)
from posttrain.training.length import Length
from posttrain.training.loop import State, train
from posttrain.training.measurement import Evaluating, HeldOut, in_main
from posttrain.training.objective import Objective
from posttrain.training.optimizers import check_optimizer, make_optimizer
from posttrain.training.plan import Learner, Plan, Work
from posttrain.training.progress import Progress
from posttrain.training.result import Record, Result, read_lines
from posttrain.training.roles import (
    check_same_weights,
    load_models,
    micro_batch_tokens,
    specs_of,
)
from posttrain.training.run_session import RunSession
from posttrain.training.saving import Saver, trained_norm, write_model
from posttrain.training.seeding import ShareSeeds, seeded
from posttrain.training.settings import TrainingSettings
from posttrain.training.sharded import group_size, is_in_shares, shard_models
from posttrain.training.tracking import build_trackers
from posttrain.training.training_state import TrainingState, resumed
from posttrain.training.trust_region import TrustRegion
from posttrain.world import World

_ALONE = World.alone()


class Session(RunSession):
    """One training: from a plan and a model to a result.

    Args:
        folder: where it is written; None keeps everything in memory.
        work: the plan prepared for this model, where that was done before.
        after: the fit that is gone on from. schedule_steps: steps that the schedule of the learning
            rate is over; None = up to the last step of this training. fresh_optimizer: count on
            from `after` with an optimiser that begins anew.
        keeps_start: keep the weights of the start in the folder where a resume needs them.
        world: the processes that train together. Each runs this session on its share; the main one
            writes and prints.
    """

    def __init__(
        self,
        spec: ModelSpec,
        plan: Plan,
        settings: TrainingSettings,
        *,
        folder: RunFolder | None,
        steps: int | None,
        seed: int,
        hooks: Sequence[Hook] = (),
        evaluation: Evaluating | None = None,
        console: Console,
        title: str = "",
        work: Work | None = None,
        after: Result | None = None,
        schedule_steps: int | None = None,
        fresh_optimizer: bool = False,
        keeps_start: bool = True,
        world: World = _ALONE,
    ) -> None:
        super().__init__(
            spec,
            settings,
            folder=folder,
            seed=seed,
            hooks=hooks,
            evaluation=evaluation,
            console=console,
            title=title or plan.method,
            world=world,
        )
        self.plan = plan
        self.work: Work = work or plan.prepare(spec, seed, steps)
        self._filtered = False
        self.after, self.schedule_steps = after, schedule_steps
        self.fresh_optimizer, self.keeps_start = fresh_optimizer, keeps_start
        self.stopped = False  # by the user, at the last step at the latest
        self._check_continuation()
        check_optimizer(plan, settings, goes_on=after is not None)

    def _check_continuation(self) -> None:
        """Refuse a state that is not there, a schedule that is over too early, rules in shares."""
        if self.plan.rules and self.settings.shard != "off":
            raise ConfigError(
                "shard: methods against forgetting change whole gradients, and a model in shares "
                "has parts of them; leave shard out"
            )
        if self.after is not None and (self.folder is None or not self.folder.resume):
            self.after.check_state()
        if self.schedule_steps is not None and self.schedule_steps < self.steps:
            raise ConfigError(
                f"schedule_steps: {self.schedule_steps} is below {self.steps}, the last step of "
                "this training; raise it or leave it out"
            )

    @property
    def steps(self) -> int:
        """The number of the last step; those of an earlier fit that is gone on from count."""
        return (self.after.step if self.after is not None else 0) + self.work.steps

    @property
    def objective(self) -> Objective:
        """What is minimised."""
        return self.work.objective or self.plan.objective

    # -- before the training

    def start(self) -> resume.Start:
        """Where the training starts, with changes of the recipe refused that nobody accepted."""
        return self.folder.start() if self.folder is not None else resume.Start(Path())

    def _begin(self, start: resume.Start) -> None:
        start_weights.bring(self.spec, start, seed=self.seed, scores=self.plan.scores)
        self._with_start_model()

    def _with_start_model(self) -> None:
        """What the model of the start has to say of the data: a filter, cached log-probs."""
        work, reference = self.work, self.plan.reference
        self._filtered = work.filtered is not None
        if work.filtered is None and not reference.cached:
            return
        model = self.spec.load()
        limit = micro_batch_tokens(model, self.settings)
        if work.filtered is not None:
            self.work = work = work.filtered(model, limit, self.console)
        if reference.cached:
            reference.cache(model, work.compared, max_tokens=limit, console=self.console)

    # -- the training

    def _train(self, start: resume.Start) -> Result:
        group_size(self.settings, self.world)  # refused before weights are loaded
        models = self.spec, self.plan, self.objective
        model = load_models(*models, start.checkpoint, goes_on=self.after is not None)
        start.give_version(model)
        check_same_weights(self.world, model)
        shard_models(model, self.settings, self.world)
        begun = self.after.step if self.after is not None else start.step
        with seeded(self.world.seed(self.seed, begun)), in_eval_mode(model):
            span = self.schedule_steps or self.steps
            optimizer = make_optimizer(model, self.plan, self.objective, self.settings, span)
            limit = micro_batch_tokens(model, self.settings)
            path = getattr(self.folder, "path", None)
            learner = Learner(model, optimizer, limit, path, self.world, self.steps)
            source = self.work.source(learner)
            facts = self._facts(start, model, source, optimizer)
            state = self._restore(start, model, source, optimizer)
            if self.folder is not None:
                self.folder.open_at(start, self.steps)
                if start.checkpoint is None and self._needs_start(model):
                    start_weights.keep(self.folder.path, model, self.world)
            self.spec.settle()
            with whole_weights(model):
                norm = float(start.saved.get("initial_norm", 0.0)) or trained_norm(model)
            facts["initial_norm"] = norm
            saver = self._saver(model, source, optimizer, state, facts=facts)
            record = Record(source if self.work.samples else None)
            hooks, progress = self._hooks(model, source, optimizer, state, record)
            hooks += filter(None, [saver])
            model.train()
            with progress, closing(hooks), self._stopping(state):
                self._run(learner, source, hooks, state, saver)
            model.eval()
            self.stopped, held = state.stop, None
            if not is_in_shares(model) and (self.folder is None or not self.settings.save_final):
                held = TrainingState.of(model, optimizer, state)
        if self.folder is not None:
            self._save(self.folder, model, state, start, saver, norm, optimizer.average)
        elif optimizer.average is not None:
            optimizer.average.exchange()  # the result's model is the average
        model.end_sharing()
        self.world.barrier()
        model.neftune_noise_alpha = 0.0
        # A later run starts from base and adapters together, which is then its reference.
        model.fresh_adapters = False
        return self._result(model, record, held)

    def _run(
        self, learner: Learner, source: Any, hooks: list[Any], state: State, saver: Saver | None
    ) -> None:
        first = state.step
        try:
            train(
                learner.model,
                source,
                self.objective,
                learner.optimizer,
                hooks,
                state,
                steps=self.steps,
                max_tokens=learner.max_tokens,
                rules=[partial(rule, learner) for rule in self.plan.rules],
                world=self.world,
            )
            if saver is not None:
                saver.stop()
        except RewardError:
            # Rewards are called before anything of their step is updated.
            if saver is not None and state.step > first:
                saver.save(state.step)
            raise

    def _facts(
        self, start: resume.Start, model: Any, source: Any, optimizer: Any
    ) -> dict[str, Any]:
        """What every checkpoint says of the run; changes since the one at hand are refused."""
        if self.folder is None:
            return {}
        saved = contents_of(start.saved)
        made_from = contents(
            specs_of(self.spec, self.plan),
            self.spec.tokenizer,
            self.folder.plugins,
            source,
            begun=saved["weights"],
            scores=self.plan.scores,
        )
        if start.checkpoint is not None:
            has_start = (self.folder.path / start_weights.START).exists()
            start.changes += content_changes(
                saved, made_from, start.checkpoint, free=() if has_start else ("model",)
            )
            reasons = ["adalora prunes by the number of steps"]
            reasons = reasons if getattr(optimizer, "updates", None) is not None else []
            change = self.length.change(start, *reasons)
            start.changes += [change] if change is not None else []
            start.refuse(self.folder.accept)
        return {
            "recipe": self.folder.record,
            "contents": made_from,
            "schedule_steps": self.schedule_steps or self.steps,
            "fresh_adapters": getattr(model, "fresh_adapters", True),
        }

    def _needs_start(self, model: Any) -> bool:
        """Whether a resume of this run could not do without the weights of its start."""
        return self.keeps_start and start_weights.are_needed(
            self.spec, self.plan, self.objective, model, filtered=self._filtered
        )

    def _restore(self, start: resume.Start, model: Any, source: Any, optimizer: Any) -> State:
        """Optimiser, source and generators as the checkpoint has them; the state to go on from."""
        if start.checkpoint is not None:
            return resumed(start, source, optimizer)
        if self.after is None:
            return State()
        return self.after.take_state().restore(model, optimizer, fresh=self.fresh_optimizer)

    def _stopping(self, state: State) -> contextlib.AbstractContextManager[None]:
        """Within it a signal ends the run after the step at hand, where there is a folder."""
        if self.folder is None:
            return contextlib.nullcontext()
        same = 3.0 if self.world.size > 1 else 0.0
        return stop_on_signal(state, self.console, self._go_on(self.folder), same_seconds=same)

    def _saver(self, *parts: Any, facts: Mapping[str, Any]) -> Saver | None:
        """What saves the model, source, optimiser and state of a run in a folder."""
        in_shares = self.settings.shard != "off"
        if self.folder is None or not (in_shares or self.world.is_main):
            return None
        world = self.world if in_shares else _ALONE
        options: dict[str, Any] = {"facts": dict(facts), "world": world}
        return Saver.of(self.settings, self.folder.path, *parts, steps=self.steps, **options)

    def _hooks(
        self, model: Any, source: Any, optimizer: Any, state: State, record: Record
    ) -> tuple[list[Any], Progress]:
        """What is called after each step, but for the saver; and the progress display."""
        work, steps, every = self.work, self.steps, self.settings.eval_every
        first, is_main = dict(work.account.metrics), self.world.is_main
        average = optimizer.average
        averaged = average.applied if average is not None else contextlib.nullcontext
        writer: MetricsWriter | None = None
        hooks: list[Any] = [optimizer.report] if isinstance(optimizer, TrustRegion) else []
        hooks += self.plan.reference.hooks(model)
        if not is_main:
            hooks.append(ShareSeeds(self.world, self.seed))
        if work.samples and self.folder is not None and is_main:
            path = self.folder.path / "rollouts.jsonl"
            hooks.append(RolloutWriter(path, lambda: source.groups, resume_step=state.step))
        if work.measure is not None:
            limit = micro_batch_tokens(model, self.settings)
            measure = partial(work.measure, model, source, limit)
            held_out = partial(in_main, self.world, model, measure)
            hook = HeldOut(held_out, steps, every, averaged)
            if state.step == 0:
                hook.measure_into(first)
            if "eval_loss" in first:
                self._print(f"eval_loss before training: {first['eval_loss']:.4f}")
            hooks.append(hook)
        if self.measured is not None and every:
            hooks.append(self.measured.hook(model, steps, every, averaged))
        hooks += [add_peak_memory, optimizer_memory(optimizer), *self.hooks]
        if self.folder is not None and is_main:
            hooks += build_trackers(list(self.settings.report_to), self.folder.path)
            writer = MetricsWriter(self.folder.path / "metrics.jsonl", resume_step=state.step)
            hooks.append(writer)
        hooks.append(record)
        if first and state.step == 0:
            record.metrics.append({"step": 0, **first})
            if writer is not None:
                writer(0, first)
        show = partial(first_rollout, source) if work.samples else None
        progress = Progress(
            steps, title=self.title, console=self.console, start=state.step, sampled=show
        )
        return [*hooks, progress], progress

    # -- after the training

    def _save(
        self,
        folder: RunFolder,
        model: Any,
        state: State,
        start: resume.Start,
        saver: Saver | None,
        norm: float,
        average: WeightAverage | None,
    ) -> None:
        """Write the model, unless it is not fit to be used. Its weights are the average's then.

        Raises:
            Interrupted: the run was stopped before its last step.
        """
        if state.stop and state.step < self.steps:
            where = f"stopped after step {state.step} of {self.steps}"
            raise Interrupted(f"{where}; go on with: {self._go_on(folder)}")
        if saver is None:  # the main process saves
            if average is not None:
                average.exchange()
            return
        was_longer = start.step == self.steps != start.saved.get("steps", self.steps)
        if was_longer and self.settings.save_final:
            saver.save(self.steps)
        model.end_sharing()
        if self.world.is_main:
            write_model(saver, norm, average, partial(self._print, style="yellow"))

    def _result(self, model: Any, record: Record, state: TrainingState | None) -> Result:
        evaluation = None
        if self.measured is not None:
            evaluation = self.measured.after_training(model, self.folder, self.console)
        path = None if self.folder is None else self.folder.path
        metrics = record.metrics if path is None else read_lines(path / "metrics.jsonl")
        rollouts = record.rollouts if path is None else read_lines(path / "rollouts.jsonl")
        more = {"folder": path, "evaluation": evaluation, "state": state}
        return Result(model, metrics=metrics, rollouts=rollouts, **more)  # type: ignore[arg-type]

    def _last_weights(self, start: resume.Start, model: Path) -> Path | None:
        averages = self.settings.ema_decay > 0  # and checkpoints hold the weights themselves
        return start.checkpoint if start.step == self.steps and not averages else model

    def _load(self, weights: Path | None) -> Any:
        return load_models(self.spec, self.plan, self.objective, weights)

    @property
    def length(self) -> Length:
        """How long the run is."""
        return Length.of(
            self.steps,
            self.plan.optimizer,
            self.settings,
            schedule_steps=self.schedule_steps,
            by_steps=self.work.by_steps,
        )

    def _go_on(self, folder: RunFolder) -> str:
        """The call that goes on with the run."""
        return folder.go_on(self.work.steps, after=self.after is not None)
