"""Where the processes of a run are placed. Nothing imports torch or Ray."""

from __future__ import annotations

from dataclasses import dataclass, field

from posttrain.errors import ConfigError
from posttrain.typecheck import described


@described("Cluster")
@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """Processes that Ray places over machines (extra ray). Every machine has this package, and
    sees the folder of the run under the same path.

    Attributes:
        nodes: machines that train.
        ranks_per_node: processes on each of them, of which each trains on a share of the batch.
        cpus_per_rank: cores that are reserved for one.
        gpus_per_rank: GPUs that are reserved for one.
        servers: command lines of servers that sample, such as vLLM's, one item each; {host} and
            {port} are replaced. Their addresses become engine.url.
        cpus_per_server: cores that are reserved for a server.
        gpus_per_server: GPUs that are reserved for a server.
        server_seconds: how long a server may take until it answers at /health.
        address: of a Ray cluster, such as "auto" or ray://host:10001. "" starts Ray on this
            machine for the length of the run.
        max_restarts: how often the training, and each server, is started again after it died. The
            training goes on from its last checkpoint.
    """

    nodes: int = 1
    ranks_per_node: int = 1
    cpus_per_rank: int = 1
    gpus_per_rank: int = 0
    servers: list[str] = field(default_factory=list)
    cpus_per_server: int = 1
    gpus_per_server: int = 0
    server_seconds: float = 600.0
    address: str = ""
    max_restarts: int = 3

    @property
    def num_ranks(self) -> int:
        """Processes that train, on all machines."""
        return self.nodes * self.ranks_per_node


def check_cluster(cluster: ClusterConfig) -> None:
    """Refuse numbers that no placement can have.

    Raises:
        ConfigError: names the key and the way out.
    """
    least = {"nodes": 1, "ranks_per_node": 1, "cpus_per_rank": 1, "max_restarts": 0}
    least |= {"gpus_per_rank": 0, "cpus_per_server": 0, "gpus_per_server": 0}
    for name, bound in least.items():
        value = getattr(cluster, name)
        if value < bound:
            raise ConfigError(f"launch.{name}: {value} must be at least {bound}")
    if not cluster.server_seconds > 0:
        raise ConfigError(f"launch.server_seconds: {cluster.server_seconds:g} must be above 0")
    for command in cluster.servers:
        if "{port}" not in command:
            raise ConfigError(
                f"launch.servers: {command!r} names no {{port}}; a server gets a free one, write "
                "--port {port}"
            )
