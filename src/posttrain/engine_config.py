"""Where completions are sampled: in the training process, or by servers. Nothing imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from posttrain.errors import ConfigError
from posttrain.typecheck import described

ProtocolName = Literal["vllm", "sglang"]
"""The protocols of servers that are known."""


@described("Launch")
@dataclass(frozen=True, slots=True)
class LaunchConfig:
    """Servers that a run starts, restarts and ends, each in a process of its own.

    Attributes:
        python: the interpreter that runs them. It is mostly that of another environment, because a
            server's libraries seldom fit beside those of the training.
        num_servers: how many are started.
        module: what is run: a module, or the path of a script that ends in .py. "" is the
            protocol's own: vllm.entrypoints.openai.api_server or sglang.launch_server.
        arguments: further arguments of its command line, such as [--enforce-eager].
        environment: further environment variables, such as {CUDA_VISIBLE_DEVICES: "1"}. An item
            {number} in a value is replaced by the server's number, from 0.
        max_model_len: longest prompt and completion together. None is the model's context.
        start_seconds: how long a server may take to answer after its start.
        max_restarts: how often one server that died is started again.
    """

    python: str
    num_servers: int = 1
    module: str = ""
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    max_model_len: int | None = None
    start_seconds: float = 600.0
    max_restarts: int = 3


@described("Served")
@dataclass(frozen=True, slots=True)
class ServedConfig:
    """Servers that sample the rollouts with the weights of the model that is trained.

    Attributes:
        name: "served", for recipes.
        url: address of a server that runs, such as http://127.0.0.1:8000, or several.
        launch: servers that the run starts itself, in place of url.
        protocol: what the servers speak.
        sync: how new weights reach the servers: "disk" saves them and lets the servers load the
            folder, which they must see too; "adapter" does so with adapters alone; "nccl" sends
            them from GPU to GPU. "auto" is "adapter" for a model with LoRA, else "disk".
        weights_folder: where weights are saved for the servers. None is a folder of the run.
        max_logprob_gap: largest mean difference in nats between log-probs of the servers and of
            the trainer after an update. Above it the run stops. None is 1e-4 for float32 weights
            and 0.05 for others.
        seeds: whether requests carry seeds. vLLM's CPU build fails on several at a time.
        max_concurrent: requests that a server gets at a time.
        timeout: seconds that a server may take for one answer.
        max_retries: how often a failed request is repeated.
        key_variable: environment variable that holds the servers' key; nothing is sent where it is
            not set.
    """

    name: Literal["served"] = "served"
    url: str | list[str] = ""
    launch: LaunchConfig | None = None
    protocol: ProtocolName = "vllm"
    sync: Literal["auto", "disk", "adapter", "nccl"] = "auto"
    weights_folder: str | None = None
    max_logprob_gap: float | None = None
    seeds: bool = True
    max_concurrent: int = 64
    timeout: float = 600.0
    max_retries: int = 3
    key_variable: str = "VLLM_API_KEY"

    @property
    def urls(self) -> list[str]:
        """The addresses of servers that run already."""
        urls = [self.url] if isinstance(self.url, str) else self.url
        return [url.rstrip("/") for url in urls if url]


EngineLike = ServedConfig | Literal["embedded"]
"""What samples: the model in the training process, or servers."""


def check_engine(engine: EngineLike) -> None:
    """Check what can be checked before weights are loaded or a server is asked.

    Raises:
        ConfigError: names the key and the way out.
    """
    if not isinstance(engine, ServedConfig):
        return
    launch, urls = engine.launch, engine.urls
    if bool(urls) == (launch is not None):
        given = "both" if urls else "neither"
        raise ConfigError(
            f"engine: {given} of url and launch given; a served engine takes one of them: the "
            "address of servers that run, or how to start them"
        )
    for url in urls:
        if not url.startswith(("http://", "https://")) or url.endswith("/v1"):
            raise ConfigError(
                f"engine.url: {url!r} must begin with http:// or https:// and name the server "
                "itself, without /v1"
            )
    if len(set(urls)) < len(urls):
        raise ConfigError(f"engine.url: {urls} names a server twice; leave one of them out")
    least = {
        "engine.max_concurrent": (engine.max_concurrent, 1),
        "engine.max_retries": (engine.max_retries, 0),
    }
    above = {"engine.timeout": engine.timeout, "engine.max_logprob_gap": engine.max_logprob_gap}
    if launch is not None:
        least |= {
            "engine.launch.num_servers": (launch.num_servers, 1),
            "engine.launch.max_restarts": (launch.max_restarts, 0),
        }
        above |= {
            "engine.launch.start_seconds": launch.start_seconds,
            "engine.launch.max_model_len": launch.max_model_len,
        }
    for key, (count, bound) in least.items():
        if count < bound:
            raise ConfigError(f"{key}: {count} must be at least {bound}")
    for key, value in above.items():
        if value is not None and not value > 0:
            raise ConfigError(f"{key}: {value:g} must be above 0")
    if engine.sync == "nccl" and engine.protocol != "vllm":
        raise ConfigError(
            f"engine.sync: nccl is not known of protocol {engine.protocol!r}; take sync: disk"
        )
