"""One execution of a recipe: its checks, its preview, its training or its job."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from rich.console import Console

from posttrain import keys, registry
from posttrain.config import Recipe
from posttrain.data.account import Account
from posttrain.errors import ConfigError
from posttrain.methods.measurement import Measuring
from posttrain.recipe import recipe_as_dict
from posttrain.runs.calls import Call
from posttrain.runs.ledger import FILE as LEDGER
from posttrain.runs.ledger import Ledger
from posttrain.terminal import write
from posttrain.training.changes import Change
from posttrain.training.folder import RunFolder
from posttrain.training.loop_session import LoopSession
from posttrain.training.plan import Facts, Job, Loop, Plan, PreparedJob, Preview
from posttrain.training.progress import console_of
from posttrain.training.review import review_resume, write_facts
from posttrain.training.session import Session
from posttrain.world import World

_ALONE = World.alone()

SAMPLES = "samples.jsonl"


class RecipeRun:
    """One execution of a recipe.

    Args:
        recipe: what is run.
        command: the command line, for the report.
        resume: go on from the last checkpoint.
        accept: names of changes since the checkpoint that a resume may make
            (see `training.changes`).
        console: where to print.
        critic_ahead: whether an earlier stage, which has not run, will leave a critic.
        world: the processes of the run.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        command: str = "",
        resume: bool = False,
        accept: Collection[str] = (),
        console: Console | None = None,
        critic_ahead: bool | None = None,
        world: World = _ALONE,
    ) -> None:
        self.recipe = recipe
        self.world = world
        self.console = console_of(world, console)
        self.call = Call(recipe, notice=self._notice, critic_ahead=critic_ahead)
        self.run_folder = RunFolder(
            Path(recipe.output or f"runs/{recipe.method}"),
            recipe_as_dict(recipe),
            command=command,
            resume=resume,
            accept=accept,
            plugins=self.call.plugins,
            console=self.console,
            seed=recipe.seed,
            world=world,
        )

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.run_folder.path

    @property
    def title(self) -> str:
        """The recipe's title, "" where it has none."""
        return self.recipe.title

    def prepared(self) -> Prepared:
        """Everything that can be checked without weights, checked."""
        plan_or_job = self.call.make()
        if isinstance(plan_or_job, Plan | Loop):
            prepared: Prepared = PreparedTraining(self, plan_or_job)
        else:
            prepared = PreparedWork(self, plan_or_job)
        self.call.refuse_unread()
        return prepared

    def execute(self) -> Path:
        """Prepare and run; returns the run's folder.

        Raises:
            ConfigError: the folder already holds a run, or another process works in it.
        """
        with self.world.together():
            self.run_folder.refuse_existing()
            with self.run_folder.locked():
                self.run_folder.refuse_existing()
                self.prepared().execute()
        return self.folder

    def check(self) -> None:
        """Prepare only, and show what is there."""
        prepared = self.prepared()
        write_facts(self.console, prepared.facts)
        if self.run_folder.resume and prepared.session is not None:
            review_resume(prepared.session, self.run_folder)
        write(self.console, "\nevery check that needs no weights has passed", style="green")

    def preview(self, num: int) -> None:
        """Show what is trained on."""
        preview = self.prepared().preview
        if preview is None:
            raise ConfigError(
                f"{self.recipe.method} samples its own completions; there is nothing to preview"
            )
        preview(self.console, num)

    @property
    def trains(self) -> bool:
        """Whether the run leaves a trained model."""
        return keys.trains(registry.methods.entry(self.recipe.method))

    @property
    def finished(self) -> bool:
        """Whether this run has ended: all that it leaves is there. Training on moves that aside
        first.
        """
        if (self.folder / SAMPLES).exists():
            return True
        evaluated = self.recipe.evaluation is not None
        files = ["model"] if self.trains or not evaluated else []
        files += ["evaluation.json"] if evaluated else []
        files += [LEDGER] if self.recipe.forgetting is not None else []
        return all((self.folder / name).exists() for name in files)

    def changes(self) -> list[Change]:
        """The keys that differ from the recipe that the folder holds."""
        return self.run_folder.changes()

    def _notice(self, text: str) -> None:
        write(self.console, text, style="yellow")


class Prepared:
    """A run that is checked and may be executed.

    Attributes:
        facts: what a check shows. preview: prints rows as they are trained on, None without rows.
        session: the training, None where nothing is trained.
    """

    facts: Facts
    session: Session | LoopSession | None = None
    preview: Preview | None = None
    execute: Callable[[], Any]


class PreparedTraining(Prepared):
    """A training that is checked."""

    def __init__(self, run: RecipeRun, plan: Plan | Loop) -> None:
        recipe, call = run.recipe, run.call
        spec = call.trained_model
        work: Any = plan.prepare(spec, recipe.seed, recipe.max_steps)
        self.facts = list(work.facts)
        evaluation = None
        if recipe.evaluation is not None:
            # What is measured in the end is made now: its mistakes come to light before training.
            config = call.evaluation_of(recipe.evaluation)
            evaluation = Measuring(spec, config, limits=call.limits, account=work.account)
            every = f", every {recipe.eval_every} steps and in the end" if recipe.eval_every else ""
            self.facts.append(("evaluation", evaluation.facts[0][1] + every))
        self.ledger = None
        if recipe.forgetting is not None:
            self.ledger = Ledger(run, recipe.forgetting)
            self.facts.append(("forgetting", self.ledger.text))
        self.facts += work.account.losses.items()
        self.preview = work.preview
        self.work = work
        make: Any = LoopSession if isinstance(plan, Loop) else Session
        session = make(
            spec,
            plan,
            call.training,
            folder=run.run_folder,
            steps=recipe.max_steps,
            seed=recipe.seed,
            evaluation=evaluation,
            console=run.console,
            title=recipe.title,
            work=work,
            world=run.world,
        )
        self.session = session
        self.execute = session.run_in_folder if self.ledger is None else self._with_ledger

    def _with_ledger(self) -> Any:
        """Train, then measure what that made the model forget."""
        assert self.session is not None and self.ledger is not None
        result = self.session.run_in_folder()
        self.ledger.measure()
        return result


class PreparedWork(Prepared):
    """A job that is checked."""

    def __init__(self, run: RecipeRun, job: Job) -> None:
        if run.world.size > 1:
            raise ConfigError(
                f"{job.method} trains nothing and runs in one process, and there are "
                f"{run.world.size}; start it without torchrun"
            )
        prepared: PreparedJob = job.prepare(run.call.model, run.recipe.seed)
        self.run, self.prepared = run, prepared
        self.facts = [*prepared.facts, *prepared.account.losses.items()]
        self.execute = self._execute

    def _execute(self) -> Any:
        run, folder = self.run, self.run.run_folder
        _report_losses(run, self.prepared.account)
        if folder.resume:
            folder.refuse_other_recipe()
            if run.finished:
                write(run.console, f"{folder.path} is finished")
                return None
        try:
            return self.prepared.run(folder)
        finally:
            self.prepared.close()


def _report_losses(run: RecipeRun, account: Account) -> None:
    for name, text in account.losses.items():
        write(run.console, f"{name}: {text}", style="yellow")
