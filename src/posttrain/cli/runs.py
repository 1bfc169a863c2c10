"""What the commands do with a recipe. This is the only module of the command line that runs one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from posttrain.cli.libraries import prepare_libraries
from posttrain.config import Recipe
from posttrain.errors import ConfigError, nearest
from posttrain.recipe import load_recipe, recipe_as_dict
from posttrain.recipe_paths import with_absolute_paths
from posttrain.terminal import echo, visible, write
from posttrain.world import World


def notice(text: str) -> None:
    """A line to standard error, so that the output of a command can be piped."""
    echo(text, error=True)


def execute(recipe: Recipe, command: str) -> None:
    """Run a recipe, write the report and say where everything is."""
    if recipe.launch is not None:
        _launch(recipe)
        return
    world = World.here()
    run = _run(recipe, command=command, world=world)
    run.execute()
    if world.is_main:
        _write_report(run)


def check(recipe: Recipe) -> None:
    """Make every check that needs no weights and show the facts; nothing is written."""
    _run(_of_ranks(recipe)).check()


def preview(recipe: Recipe, num: int) -> None:
    """Show `num` rows of what the recipe trains on, token by token."""
    _run(recipe).preview(num)


def dry_run(recipe: Recipe) -> None:
    """Check a recipe, then show it with every default filled in; nothing is written."""
    run = _run(_of_ranks(recipe))
    run.check()
    echo(f"\nwould write to {run.folder} with this recipe:\n")
    echo(yaml.safe_dump(recipe_as_dict(run.recipe), sort_keys=False).rstrip())


def resume(
    folder: Path,
    overrides: Sequence[str],
    accept: Sequence[str],
    command: str,
    *,
    only_check: bool = False,
) -> None:
    """Go on with a run from its last checkpoint.

    Raises:
        ConfigError: the folder holds no run; the message lists the runs nearby.
    """
    if not (folder / "recipe.yaml").is_file():
        raise ConfigError(_no_run(folder))
    if started_in_python(folder):
        raise ConfigError(
            f"{folder} was started in Python, by objects that a recipe cannot name; go on with it "
            f"there: fit(model, plan, output={str(folder)!r}, resume=True)"
        )
    recipe = load_recipe(folder / "recipe.yaml", overrides)
    recipe.output = str(folder)
    if recipe.launch is not None and not only_check:
        others = [change for change in overrides if not change.startswith("launch.")]
        _launch(recipe, [*others, *(word for name in accept for word in ("--accept", name))])
        return
    recipe.launch = None
    world = World.alone() if only_check else World.here()
    run = _run(recipe, command=command, resume=True, accept=accept, world=world)
    if only_check:
        run.check()
        return
    if not world.from_main(lambda: run.finished and not overrides):
        run.execute()
    elif world.is_main:
        echo(f"{folder} is finished. {_longer(run)}")
    if world.is_main:
        _write_report(run)  # a run that was killed after its last file has none yet


def started_in_python(folder: Path) -> bool:
    """Whether a run's recipe.yaml is the record of a call of `fit`, which no command can repeat."""
    return "\nin_python: true" in (folder / "recipe.yaml").read_text(encoding="utf-8")


def _longer(run: Any) -> str:
    """How a finished run is trained on."""
    from posttrain.training import resume
    from posttrain.training.caller import SHELL
    from posttrain.training.length import Length

    new = f"start a new run from its model: {SHELL.start_from(run.folder / 'model')}"
    start = resume.find_start(run.folder) if run.trains else None
    if start is None or start.checkpoint is None:
        return f"To train on, {new}"
    recipe = run.recipe
    names = ("lr_scheduler_type", "warmup_steps", "min_lr_ratio")
    schedule = {name: getattr(recipe, name) for name in names}
    return f"{Length(start.step, schedule).longer(start)}, or {new}"


def _launch(recipe: Recipe, resume: Sequence[str] | None = None) -> None:
    """Run a recipe in processes that Ray places. resume: arguments of the ranks' own command."""
    from posttrain.cli.launched import by_ray, launch

    launch(with_absolute_paths(recipe, notice), by_ray, resume=resume)


def _of_ranks(recipe: Recipe) -> Recipe:
    """The recipe as it is run in a process that Ray places."""
    if recipe.launch is None:
        return recipe
    from posttrain.cli.launched import checked

    return checked(recipe)


def _run(recipe: Recipe, **options: Any) -> Any:
    recipe = with_absolute_paths(recipe, notice)
    prepare_libraries(recipe)
    from posttrain import kernels
    from posttrain.runs import run_of

    kernels.setup()  # this process is ours, so its switches may be set
    return run_of(recipe, **options)


def _write_report(run: Any) -> None:
    from posttrain.report.html import write_picture, write_report
    from posttrain.report.tables import print_summary

    folder = run.folder
    print_summary(folder, run.console)
    if (folder / "summary.json").is_file():
        write_picture(folder, folder / "summary.svg")
    report = write_report(folder)
    write(run.console, f"\nrun folder  {visible(folder)}\nreport      {visible(report)}")


def _no_run(folder: Path) -> str:
    """Why a folder cannot be resumed, with the runs that are near."""
    what = f"{folder} holds no run (no recipe.yaml)" if folder.is_dir() else f"no folder {folder}"
    runs = runs_near(folder)
    if not runs:
        return f"{what}; there are no runs in {folder.parent.resolve()} or in ./runs either"
    return f"{what}: {nearest(str(folder), runs)}"


def runs_near(folder: Path) -> list[str]:
    """Folders of runs inside and beside a folder, and in ./runs; at most 20, the newest first."""
    places = [folder, folder.parent, Path("runs"), Path()]
    recipes: dict[Path, Path] = {}
    for place in places:
        if place.resolve() == Path("/"):
            continue
        for path in place.glob("*/recipe.yaml"):
            recipes.setdefault(path.resolve(), path)
    newest = sorted(recipes.values(), key=lambda p: p.stat().st_mtime, reverse=True)
    return [str(path.parent) for path in newest[:20]]
