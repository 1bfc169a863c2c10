"""Runs whose processes Ray places: the recipe as its ranks get it, and how they are started."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from posttrain.cluster_config import ClusterConfig, check_cluster
from posttrain.config import Recipe, ServedConfig
from posttrain.errors import ConfigError
from posttrain.launch.job import Cluster, Job, python_command
from posttrain.recipe import recipe_as_dict
from posttrain.terminal import echo

NAME, LOG = "launch.yaml", "launch.log"


def checked(recipe: Recipe) -> Recipe:
    """The recipe as its ranks see it, with addresses that stand for those of the servers.

    Raises:
        ConfigError: a placement that cannot be, or servers that nothing samples with.
    """
    if recipe.launch is None:
        return recipe
    check_cluster(recipe.launch)
    urls = [f"http://server-{number}" for number in range(len(recipe.launch.servers))]
    return of_ranks(recipe, urls)


def of_ranks(recipe: Recipe, urls: Sequence[str]) -> Recipe:
    """The recipe without placement, and with the addresses of the servers."""
    settings = dict(recipe.settings)
    if urls:
        engine = settings.get("engine")
        if not isinstance(engine, ServedConfig) or engine.urls or engine.launch is not None:
            raise ConfigError(
                "launch.servers: their addresses become engine.url; write engine: {name: served}, "
                "without url and launch, or leave servers out"
            )
        settings["engine"] = dataclasses.replace(engine, url=list(urls))
    return dataclasses.replace(recipe, launch=None, settings=settings)


def launch(
    recipe: Recipe,
    cluster: Callable[[ClusterConfig], Cluster],
    *,
    resume: Sequence[str] | None = None,
) -> Job:
    """Run a recipe with its ranks placed by a cluster; the job that has done it.

    Args:
        recipe: with absolute paths. resume: arguments of `posttrain resume` behind the folder,
            where the run is gone on with; None starts it.

    Raises:
        ConfigError: the folder holds a run already. RankError, EndpointError: see `Job`.
    """
    assert recipe.launch is not None
    checked(recipe)
    folder = Path(recipe.output or f"runs/{recipe.method}").absolute()
    if resume is None and (folder / "recipe.yaml").exists():
        raise ConfigError(
            f"output: {folder} already holds a run. Go on with it by `posttrain resume {folder} "
            "launch.nodes=...`, choose another output, or remove the folder"
        )

    def command(urls: Sequence[str]) -> list[str]:
        if (folder / "recipe.yaml").is_file():
            changed = [f"engine.url={json.dumps(list(urls))}"] if urls else []
            return python_command("resume", folder, *changed, *(resume or ()))
        values = {**recipe_as_dict(of_ranks(recipe, urls)), "output": str(folder)}
        (folder / NAME).write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        return python_command("run", folder / NAME)

    folder.mkdir(parents=True, exist_ok=True)
    log = folder / LOG
    job = Job(cluster(recipe.launch), recipe.launch, command, folder=Path.cwd(), log=log, echo=echo)
    job.run()
    return job


def by_ray(config: ClusterConfig) -> Cluster:
    """Machines of Ray, as the recipe asks for."""
    from posttrain.launch.ray_cluster import RayCluster

    return RayCluster(config, notice=echo)
