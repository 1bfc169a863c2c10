"""From the settings of a served engine to the engine: servers started or found, checked, synced."""

from __future__ import annotations

import queue
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from posttrain.config import ServedConfig
from posttrain.engines.http_client import JsonClient
from posttrain.engines.launch import LaunchedServer, ServedModel
from posttrain.engines.nccl import connector
from posttrain.engines.pool import EnginePool
from posttrain.engines.pool_member import Member
from posttrain.engines.served import ServedEngine
from posttrain.engines.server_checks import check_facts, mode_for
from posttrain.engines.server_protocol import ServerProtocol
from posttrain.engines.sglang_protocol import SGLang
from posttrain.engines.sync import AdapterSync, DiskSync, NcclSync, WeightSync
from posttrain.engines.sync_probe import BOUNDS, OTHER_BOUND, SyncProbe
from posttrain.engines.torch import TorchEngine
from posttrain.engines.vllm_protocol import Vllm
from posttrain.errors import ModelError
from posttrain.models.language_model import LanguageModel
from posttrain.models.peft_kind import adapter_kind, is_peft
from posttrain.types import Sampling

_NCCL_ARGUMENTS = ("--weight-transfer-config", '{"backend": "nccl"}')


def open_servers(
    config: ServedConfig,
    model: LanguageModel,
    *,
    sampling: Sampling,
    folder: Path | None,
    notice: Callable[[str], None] = lambda text: None,
) -> EnginePool:
    """Servers with the weights of a model, ready to sample.

    Args:
        sampling: of most requests; it decides which log-probs servers report. folder: of the run,
        for weights and logs; None is a temporary one. notice: told what happens to servers.
    Raises:
        ConfigError, EndpointError: a server does not fit the model, or cannot be reached.
        WeightSyncError: it has not taken the weights over.
    """
    place = Path(tempfile.mkdtemp(prefix="posttrain-")) if folder is None else folder / "served"

    def clean_up() -> None:
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)

    weights = _weights(config, model, Path(config.weights_folder or place))
    weights.publish(model, model.weights_version)
    launched = _launched(config, model, sampling, place)
    news: queue.SimpleQueue[None] = queue.SimpleQueue()
    scorer = TorchEngine(model, graphs=None)
    dtype = _dtype(model)
    bound = config.max_logprob_gap or BOUNDS.get(dtype, OTHER_BOUND)
    probe = SyncProbe(scorer.score, max_gap=bound, vocab_size=model.config.vocab_size)

    def connect(server: LaunchedServer | None, url: str) -> ServedEngine:
        protocol = _protocol(config, url or (server.url if server else ""), server)
        facts = protocol.facts()
        whole = not isinstance(weights, AdapterSync)
        check_facts(facts, protocol, model, sampling, whole=whole)
        return ServedEngine(
            protocol,
            model,
            weights,
            probe,
            facts=facts,
            stop_ids=scorer.stop_ids,
            seeds=config.seeds,
            max_concurrent=config.max_concurrent,
            news=news,
        )

    def member(server: LaunchedServer | None, url: str) -> Member:
        again = lambda: connect(server, url)  # noqa: E731
        return Member(again, again(), server)

    try:
        _start_all(launched, weights.start)
        members = [member(server, "") for server in launched]
        members += [member(None, url) for url in config.urls]
        pool = EnginePool(
            members, model, weights, probe, news=news, notice=notice, on_close=clean_up
        )
        pool.sync(model.weights_version)
    except BaseException:
        for server in launched:
            server.stop()
        weights.close()
        clean_up()
        raise
    return pool


def _start_all(servers: list[LaunchedServer], model: str) -> None:
    if not servers:
        return
    with ThreadPoolExecutor(len(servers), thread_name_prefix="launch") as pool:
        for start in [pool.submit(server.start, model) for server in servers]:
            start.result()


def _launched(
    config: ServedConfig, model: LanguageModel, sampling: Sampling, folder: Path
) -> list[LaunchedServer]:
    """The servers that the run starts itself, not yet started."""
    launch = config.launch
    if launch is None:
        return []
    served = ServedModel(
        dtype=_dtype(model),
        max_model_len=model.context_length,
        logprobs_mode=mode_for(sampling),
        lora_rank=_lora_rank(model) if is_peft(model.hf) else 0,
        arguments=_NCCL_ARGUMENTS if config.sync == "nccl" else (),
    )
    return [
        LaunchedServer(launch, config.protocol, served, number=number, folder=folder)
        for number in range(launch.num_servers)
    ]


def _protocol(config: ServedConfig, url: str, server: LaunchedServer | None) -> ServerProtocol:
    client = JsonClient(
        url,
        timeout=config.timeout,
        max_retries=config.max_retries,
        key_variable=config.key_variable,
        is_alive=(lambda: server.is_alive) if server is not None else (lambda: True),
    )
    kinds: dict[str, type[Any]] = {"vllm": Vllm, "sglang": SGLang}
    protocol: ServerProtocol = kinds[config.protocol](client)
    return protocol


def _weights(config: ServedConfig, model: LanguageModel, folder: Path) -> WeightSync:
    """How the weights of a model get to its servers."""
    kind = config.sync
    if kind == "auto":
        kind = "adapter" if is_peft(model.hf) else "disk"
    if kind == "adapter":
        if not is_peft(model.hf) or adapter_kind(model.hf) != "LORA":
            raise ModelError(
                "engine.sync: adapter sends LoRA adapters alone, and this model trains other "
                "weights; take sync: disk, or a model with lora"
            )
        base = str(model.hf.peft_config["default"].base_model_name_or_path)
        return AdapterSync(folder, base)
    if is_peft(model.hf):
        raise ModelError(
            f"engine.sync: {kind} sends whole models, and this one trains adapters; take sync: "
            "adapter (LoRA)"
        )
    return NcclSync(folder, connector(model.device)) if kind == "nccl" else DiskSync(folder)


def _lora_rank(model: LanguageModel) -> int:
    """The smallest rank that servers know and that holds the adapters."""
    ranks = [config.r for config in model.hf.peft_config.values()]
    return next(rank for rank in (8, 16, 32, 64, 128, 256, 320, 512) if rank >= max(ranks))


def _dtype(model: LanguageModel) -> str:
    return str(model.pretrained.dtype).removeprefix("torch.")
