"""How weights are published and handed to servers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.config import LoraConfig
from posttrain.engines.server_weights import named_tensors
from posttrain.engines.sync import AdapterSync, DiskSync, NcclSync
from posttrain.errors import ModelError
from posttrain.models.language_model import LanguageModel
from posttrain.models.load import load_model


class Server:
    """Remembers what it is told."""

    def __init__(self, answers: dict[str, Any] | None = None) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.answers, self.client = answers or {}, self
        self.received = threading.Event()

    def reload(self, folder: Path, version: int) -> None:
        self.told.append(("reload", folder.name, version, (folder / "config.json").is_file()))

    def load_adapter(self, name: str, folder: Path) -> None:
        self.told.append(("load", name, (folder / "adapter_model.safetensors").is_file()))

    def unload_adapter(self, name: str) -> None:
        self.told.append(("unload", name))

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        self.told.append((path, body))
        if path == "/update_weights":  # receives as long as the trainer sends
            assert self.received.wait(10)
        return self.answers.get(path)

    def get(self, path: str, **options: Any) -> Any:
        return self.answers[path]


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LanguageModel:
    return load_model(tiny_folder, dtype="float32", device="cpu")


def adapted(folder: Path) -> LanguageModel:
    return load_model(folder, dtype="float32", device="cpu", lora=LoraConfig(r=2))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_versions_on_disk_are_whole_and_few(model: LanguageModel, tmp_path: Path) -> None:
    sync, server = DiskSync(tmp_path), Server()
    for version in (3, 3, 4, 5):
        sync.publish(model, version)
        sync.load(server, version)  # type: ignore[arg-type]
    assert [told[1:] for told in server.told] == [
        (f"weights-{version}", version, True) for version in (3, 3, 4, 5)
    ]
    assert names(tmp_path) == ["weights-4", "weights-5"]
    assert sync.start == str((tmp_path / "weights-5").resolve())
    assert sync.model_name("m") == "m"
    sync.close()
    assert names(tmp_path) == []


def test_adapters_go_alone_each_version_by_a_name_of_its_own(
    tiny_folder: Path, tmp_path: Path
) -> None:
    sync, server = AdapterSync(tmp_path, str(tiny_folder)), Server()
    trained = adapted(tiny_folder)
    for version in (0, 1, 2):
        sync.publish(trained, version)
        sync.load(server, version)  # type: ignore[arg-type]
        assert sync.model_name("m") == f"posttrain-{version}"
    assert server.told == [
        ("load", "posttrain-0", True),
        ("load", "posttrain-1", True),
        ("load", "posttrain-2", True),
        ("unload", "posttrain-0"),
    ]
    assert sync.start == str(tiny_folder) and sync.keeps_version


def test_a_server_that_was_started_again_gets_the_adapter_again(
    tiny_folder: Path, tmp_path: Path
) -> None:
    sync = AdapterSync(tmp_path, str(tiny_folder))
    sync.publish(adapted(tiny_folder), 0)
    for server in (Server(), Server()):
        sync.load(server, 0)  # type: ignore[arg-type]
        assert server.told == [("load", "posttrain-0", True)]


def test_each_way_refuses_the_other_kind_of_model(
    model: LanguageModel, tiny_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError):
        DiskSync(tmp_path).publish(adapted(tiny_folder), 0)
    with pytest.raises(ModelError):
        AdapterSync(tmp_path, "base").publish(model, 0)


class Group:
    """A communicator that keeps what is sent."""

    def __init__(self, server: Server, count: int) -> None:
        self.server, self.count = server, count
        self.sent: list[torch.Tensor] = []
        self.closed = False

    def broadcast(self, tensor: torch.Tensor) -> None:
        self.sent.append(tensor.clone())
        if len(self.sent) % self.count == 0:
            self.server.received.set()

    def close(self) -> None:
        self.closed = True


def test_nccl_joins_once_and_sends_every_tensor_while_the_server_receives(
    model: LanguageModel, tmp_path: Path
) -> None:
    server = Server({"/get_world_size": {"world_size": 2}})
    tensors = named_tensors(model)
    groups: list[Group] = []

    def connect(world_size: int) -> tuple[str, Callable[[], Any]]:
        assert world_size == 3

        def join() -> Group:
            groups.append(Group(server, len(tensors)))
            return groups[-1]

        return "identity", join

    sync = NcclSync(tmp_path, connect)
    for version in (0, 1):
        server.received.clear()
        sync.publish(model, version)
        sync.load(server, version)  # type: ignore[arg-type]
    (group,) = groups
    assert len(group.sent) == 2 * len(tensors)
    assert all(torch.equal(a, b) for a, b in zip(group.sent, tensors.values(), strict=False))
    paths = [path for path, _ in server.told]
    update = ["/pause?mode=keep", "/start_weight_update", "/update_weights"]
    update += ["/finish_weight_update", "/resume"]
    assert paths == ["/init_weight_transfer_engine", *update, *update]
    init = server.told[0][1]["init_info"]
    assert init == {
        "nccl_unique_id_b64": "identity",
        "rank_offset": 1,
        "world_size": 3,
        "packed": False,
    }
    info = server.told[3][1]["update_info"]
    assert info["names"] == list(tensors) and set(info["dtype_names"]) == {"float32"}
    assert info["shapes"] == [list(t.shape) for t in tensors.values()]
    assert server.told[4][1] == {"weight_version": "0"}
    sync.close()
    assert group.closed and names(tmp_path) == []
