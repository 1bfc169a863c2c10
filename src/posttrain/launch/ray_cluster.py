"""Machines of a Ray cluster. The only module that imports ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from posttrain.cluster_config import ClusterConfig
from posttrain.errors import ConfigError, EndpointError, MissingDependency
from posttrain.launch.job import Node, NodeLost
from posttrain.launch.supervisor import ProcessSpec, ProcessStatus, Supervisor

_PLACE_SECONDS = 120.0
_ATTEMPTS = 4
_STORE_BYTES = 10**8  # of Ray's objects; only lines of logs pass through it


class RayNode:
    """A supervisor that Ray has placed on some machine. A `Node`."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor

    def place(self) -> tuple[str, int]:
        """See `Supervisor`."""
        address, port = self._asked(self._actor.place.remote())
        return str(address), int(port)

    def start(self, spec: ProcessSpec) -> int:
        """See `Supervisor`."""
        return int(self._asked(self._actor.start.remote(spec)))

    def poll(self) -> list[ProcessStatus]:
        """See `Supervisor`."""
        found: list[ProcessStatus] = self._asked(self._actor.poll.remote())
        return found

    def stop(self, name: str | None = None) -> None:
        """See `Supervisor`."""
        self._asked(self._actor.stop.remote(name))

    def end(self) -> None:
        """End the supervisor, and with it its processes."""
        self._ray.kill(self._actor)

    def _asked(self, answer: Any) -> Any:
        try:
            return self._ray.get(answer)
        except self._ray.exceptions.RayActorError as error:
            raise NodeLost(f"a machine of the run is lost ({type(error).__name__})") from error


class RayCluster:
    """Reserves cores and GPUs of a Ray cluster for the length of a run. A `Cluster`.

    Raises:
        MissingDependency: ray is not installed. EndpointError: it does not start or answer.
        ConfigError: the cluster has not what is asked for.
    """

    def __init__(self, config: ClusterConfig, *, notice: Callable[[str], None]) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingDependency("ray", "ray") from error
        self._ray, self._config = ray, config
        self._starts = not ray.is_initialized()
        self._groups: list[Any] = []
        if self._starts:
            notice(f"Ray: {config.address or 'started on this machine'}")
            needed = config.num_ranks * config.cpus_per_rank
            needed += len(config.servers) * config.cpus_per_server
            options: dict[str, Any] = {"address": config.address}
            if not config.address:
                # What Ray counts are reservations: one machine may have more ranks than cores.
                options = {
                    "num_cpus": needed,
                    "include_dashboard": False,
                    "object_store_memory": _STORE_BYTES,
                }
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
            self._begin(options)

    def _begin(self, options: Mapping[str, Any]) -> None:
        """Connect. Ray gives its own processes half a minute, which a busy machine may exceed."""
        for left in reversed(range(_ATTEMPTS)):
            try:
                self._ray.init(log_to_driver=False, logging_level="ERROR", **options)
                return
            except Exception as error:  # Ray raises Exception itself where it is too slow
                self._ray.shutdown()
                if not left:
                    where = self._config.address or "this machine"
                    raise EndpointError(
                        f"launch.address: Ray at {where} does not answer ({error}); look at the "
                        "machine's load and memory, or start Ray yourself by `ray start --head` "
                        "and set launch.address=auto"
                    ) from error

    def nodes(self) -> Sequence[Node]:
        """New supervisors for the ranks, one on each machine."""
        c = self._config
        bundle = {"CPU": c.ranks_per_node * c.cpus_per_rank}
        if c.gpus_per_rank:
            bundle["GPU"] = c.ranks_per_node * c.gpus_per_rank
        strategy = "STRICT_SPREAD" if c.nodes > 1 else "PACK"
        return self._placed([bundle] * c.nodes, strategy, "launch.nodes")

    def server_nodes(self) -> Sequence[Node]:
        """New supervisors, one for each server, wherever there is room."""
        c = self._config
        if not c.servers:
            return []
        bundle: dict[str, float] = {"CPU": c.cpus_per_server}
        if c.gpus_per_server:
            bundle["GPU"] = c.gpus_per_server
        return self._placed([bundle] * len(c.servers), "PACK", "launch.servers")

    def close(self) -> None:
        """Give back what was reserved; the Ray of this run ends."""
        for group in self._groups:
            self._ray.util.remove_placement_group(group)
        self._groups.clear()
        if self._starts and self._ray.is_initialized():
            self._ray.shutdown()

    def _placed(self, bundles: list[dict[str, Any]], strategy: str, key: str) -> list[RayNode]:
        ray = self._ray
        group = ray.util.placement_group(bundles, strategy=strategy)
        self._groups.append(group)
        ready, _ = ray.wait([group.ready()], timeout=_PLACE_SECONDS)
        if not ready:
            raise ConfigError(
                f"{key}: Ray has no room for {len(bundles)} x {bundles[0]} ({strategy}) within "
                f"{_PLACE_SECONDS:g} s; it has {ray.cluster_resources()}. Ask for less, or add "
                "machines"
            )
        scheduling = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
        # One supervisor has all GPUs of its machine's ranks, so that LOCAL_RANK counts them.
        return [
            RayNode(
                ray,
                ray.remote(Supervisor)
                .options(
                    num_cpus=bundle["CPU"],
                    num_gpus=bundle.get("GPU", 0),
                    scheduling_strategy=scheduling(group, placement_group_bundle_index=place),
                )
                .remote(),
            )
            for place, bundle in enumerate(bundles)
        ]
