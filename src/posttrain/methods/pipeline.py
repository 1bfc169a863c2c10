"""Several stages, each starting from the model that the last one trained."""

from __future__ import annotations

import time
from typing import Any

from posttrain.methods.evaluating import summarise
from posttrain.methods.run import Job, Run
from posttrain.recipe import stage_recipes
from posttrain.registry import methods


@methods.register
def pipeline(run, *, stages: list[dict[str, Any]]) -> Job:
    """Run stages in order and compare each with the one before on the same problems, paired.

    Each stage is a recipe with a name; it inherits seed, plugins, evaluation and the model of the stage before. The table
    of all stages goes to summary.json.
    """
    recipes = stage_recipes(run.recipe)
    runs = {name: Run(r, command=run.command, resume=run.resume, console=run.console) for name, r in recipes}
    facts = [(name, f"{r.method} on {r.model.path if r.model else '?'}") for name, r in recipes]

    def execute() -> None:
        run.open()
        seconds: dict[str, float] = {}
        for name, stage in runs.items():
            if run.resume and stage.finished:
                run.console.print(f"[dim]{name}: done before[/dim]")
                continue
            stage.resume = run.resume and (stage.folder / "recipe.yaml").exists()
            run.console.rule(f"[bold]{stage.recipe.title or name}[/bold]", align="left")
            started = time.perf_counter()
            stage.execute()
            seconds[name] = time.perf_counter() - started
        summarise(run, runs, seconds)

    return Job(facts, execute)
