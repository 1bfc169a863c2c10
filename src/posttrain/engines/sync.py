"""How new weights get to servers: by a folder, from GPU to GPU, or as adapters alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from posttrain.engines.nccl import Communicator
from posttrain.engines.server_protocol import ServerProtocol
from posttrain.engines.server_weights import named_tensors, save_for_servers
from posttrain.errors import ModelError
from posttrain.files import written_whole
from posttrain.models.language_model import LanguageModel
from posttrain.models.peft_kind import adapter_kind, is_peft

_KEPT = 2  # versions on disk: the newest, and one that a server may still be reading
LORA = "posttrain-"
"""What the names of adapters begin with; the version follows."""


class WeightSync(Protocol):
    """Brings versions of a model's weights to servers.

    restores: whether a server can be given the newest version at any time, without the model.
    keeps_version: whether a request ends with the weights with which it began.
    """

    restores: bool
    keeps_version: bool

    def publish(self, model: LanguageModel, version: int) -> None:
        """Make a version ready for all servers; nothing where it is ready already."""
        ...

    def load(self, server: ServerProtocol, version: int) -> None:
        """Let a server take the published version over. Its open requests go on."""
        ...

    def model_name(self, served: str) -> str:
        """The name of the newest version in requests. served: that of the server's model."""
        ...

    @property
    def start(self) -> str:
        """The folder or hub id that a new server is started from."""
        ...

    def close(self) -> None:
        """Remove what was published."""
        ...


class _Folders:
    """Folders of versions, of which the newest stay."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder, self.prefix = folder, prefix
        self.version: int | None = None
        self._kept: list[int] = []

    @property
    def newest(self) -> Path:
        assert self.version is not None, "nothing was published"
        return self.place(self.version)

    def place(self, version: int) -> Path:
        return (self.folder / f"{self.prefix}-{version}").resolve()

    def write(self, version: int, save: Callable[[Path], None]) -> None:
        if self.version == version:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with written_whole(self.place(version)) as partial:
            save(partial)
        self.version = version
        self._kept = [*(v for v in self._kept if v != version), version]
        for old in self._kept[:-_KEPT]:
            shutil.rmtree(self.place(old), ignore_errors=True)
        self._kept = self._kept[-_KEPT:]

    def remove(self) -> None:
        for version in self._kept:
            shutil.rmtree(self.place(version), ignore_errors=True)
        self._kept, self.version = [], None


class DiskSync:
    """Whole models through a folder that trainer and servers see. A `WeightSync`.

    Args:
        folder: where versions are written, each under a name of its own, complete or absent.
    """

    restores = True
    keeps_version = False

    def __init__(self, folder: Path) -> None:
        self._folders = _Folders(folder, "weights")

    def publish(self, model: LanguageModel, version: int) -> None:
        if is_peft(model.hf):
            raise ModelError(
                "engine.sync: disk saves whole models, and this one has adapters; take sync: "
                "adapter"
            )
        self._folders.write(version, lambda place: save_for_servers(model, place))

    def load(self, server: ServerProtocol, version: int) -> None:
        server.reload(self._folders.place(version), version)

    def model_name(self, served: str) -> str:
        return served

    @property
    def start(self) -> str:
        return str(self._folders.newest)

    def close(self) -> None:
        self._folders.remove()


class AdapterSync:
    """LoRA adapters alone, each version under a name of its own. A `WeightSync`.

    A request ends with the adapter with which it began, so no completion is of two policies.

    Args:
        folder: where adapters are written. base: folder or hub id of the model below them.
    """

    restores = True
    keeps_version = True

    def __init__(self, folder: Path, base: str) -> None:
        self._folders = _Folders(folder, "adapter")
        self.base = base
        self._loaded: WeakKeyDictionary[ServerProtocol, list[int]] = WeakKeyDictionary()

    def publish(self, model: LanguageModel, version: int) -> None:
        if not is_peft(model.hf) or adapter_kind(model.hf) != "LORA":
            raise ModelError(
                "engine.sync: adapter sends LoRA adapters, and this model has none; take sync: disk"
            )
        self._folders.write(version, lambda place: model.hf.save_pretrained(place))

    def load(self, server: ServerProtocol, version: int) -> None:
        loaded = self._loaded.setdefault(server, [])
        if version not in loaded:
            server.load_adapter(f"{LORA}{version}", self._folders.place(version))
            loaded.append(version)
        while len(loaded) > _KEPT:
            server.unload_adapter(f"{LORA}{loaded.pop(0)}")

    def model_name(self, served: str) -> str:
        return f"{LORA}{self._folders.version}"

    @property
    def start(self) -> str:
        return self.base

    def close(self) -> None:
        self._folders.remove()


class NcclSync:
    """Whole models from GPU to GPU, to vLLM. A `WeightSync`.

    Written to the protocol of vLLM 0.32 and tested with a server and a communicator that stand in
    for it; no GPU has run it. Each server has a group of its own with the trainer as rank 0, so
    that several servers get the weights one after the other.

    Args:
        folder: where the weights of the start are written, from which servers are started.
        connect: (number of processes) -> identity of a group, and a function that joins it as rank
        0.
    """

    restores = False
    keeps_version = False

    def __init__(
        self, folder: Path, connect: Callable[[int], tuple[str, Callable[[], Communicator]]]
    ) -> None:
        self._start = DiskSync(folder)
        self._connect = connect
        self._groups: WeakKeyDictionary[ServerProtocol, Communicator] = WeakKeyDictionary()
        self._model: LanguageModel | None = None

    def publish(self, model: LanguageModel, version: int) -> None:
        if self._model is None:
            self._start.publish(model, version)
        self._model = model

    def load(self, server: ServerProtocol, version: int) -> None:
        assert self._model is not None, "nothing was published"
        post = server.client.post
        group = self._groups.get(server) or self._join(server)
        tensors = named_tensors(self._model)
        update = {
            "names": list(tensors),
            "dtype_names": [str(t.dtype).removeprefix("torch.") for t in tensors.values()],
            "shapes": [list(t.shape) for t in tensors.values()],
        }
        post("/pause?mode=keep")
        try:
            post("/start_weight_update")
            # The server receives within its answer, so that both sides have to run at once.
            with _Running(lambda: post("/update_weights", {"update_info": update}, max_retries=0)):
                for tensor in tensors.values():
                    group.broadcast(tensor)
            post("/finish_weight_update", {"weight_version": str(version)})
        finally:
            post("/resume")

    def _join(self, server: ServerProtocol) -> Communicator:
        workers = int(server.client.get("/get_world_size")["world_size"])
        identity, join = self._connect(1 + workers)
        info = {"nccl_unique_id_b64": identity, "rank_offset": 1, "world_size": 1 + workers}
        body = {"init_info": {**info, "packed": False}}
        with _Running(
            lambda: server.client.post("/init_weight_transfer_engine", body, max_retries=0)
        ):
            group = self._groups[server] = join()
        return group

    def model_name(self, served: str) -> str:
        return served

    @property
    def start(self) -> str:
        return self._start.start

    def close(self) -> None:
        for group in self._groups.values():
            group.close()
        self._groups.clear()
        self._start.close()


class _Running:
    """Runs a function in a thread of its own beside a block; its error is raised at the end."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="weights")
        self._future = self._pool.submit(function)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._pool.shutdown(wait=error is None)
        if error is None:
            self._future.result()
