"""From settings to an engine: servers started as processes, or found, and given the weights."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_vllm import running

import posttrain as pt
from posttrain.config import LoraConfig
from posttrain.engines.server_weights import save_for_servers
from posttrain.engines.servers import open_servers
from posttrain.errors import ConfigError, ModelError, ServerLost, WeightSyncError
from posttrain.models.language_model import LanguageModel
from posttrain.models.load import load_model
from posttrain.types import Request, Sampling

SHORT = Sampling(max_tokens=4)
FAKE = Path(__file__).parent.parent / "fake_vllm.py"
SOURCE = FAKE.parent.parent / "src"


def launch(**changes: Any) -> pt.Launch:
    settings: dict[str, Any] = {
        "module": str(FAKE),
        "environment": {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        "start_seconds": 300.0,
    }
    return pt.Launch(sys.executable, **{**settings, **changes})


@pytest.fixture
def model(tiny_folder: Path) -> LanguageModel:
    return load_model(tiny_folder, dtype="float32", device="cpu")


def test_a_process_is_started_synced_killed_and_started_again(
    model: LanguageModel, tmp_path: Path
) -> None:
    config = pt.Served(launch=launch())
    pool = open_servers(config, model, sampling=SHORT, folder=tmp_path)
    try:
        first = pool.generate([Request((1, 2), SHORT, seed=5)])
        launched = pool.members[0].launched
        assert launched is not None and launched._process is not None
        os.killpg(_child(launched._process.pid), signal.SIGKILL)
        assert [s.ids for s in pool.generate([Request((1, 2), SHORT, seed=5)])[0]] == [
            s.ids for s in first[0]
        ]
        assert pool.num_restarts == 1 and pool.members[0].state == "alive"
        assert (tmp_path / "served" / "server-0.log").is_file()
    finally:
        pool.close()
    assert not launched.is_alive
    assert not list((tmp_path / "served").glob("weights-*"))


def _child(guard: int) -> int:
    """The process that a guard runs."""
    place = Path(f"/proc/{guard}/task/{guard}/children")
    children = place.read_text().split() if place.exists() else []
    if children:
        return int(children[0])
    listed = os.popen(f"ps -o pid= --ppid {guard}").read().split()
    return int(listed[0])


def test_a_server_that_runs_is_used_and_stays(model: LanguageModel, tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    save_for_servers(model, start)
    with running(start) as served:
        pool = open_servers(pt.Served(url=served.url), model, sampling=SHORT, folder=tmp_path)
        assert served.fake.version == "0"
        assert len(pool.generate([Request((1, 2), SHORT)])[0][0].ids) <= 4
        pool.close()
        assert served.fake.get("/health") == {}


def test_a_server_whose_head_is_tied_is_refused(
    model: LanguageModel, tiny_folder: Path, tmp_path: Path
) -> None:
    with running(tiny_folder) as served, pytest.raises(ConfigError, match="tied"):
        open_servers(pt.Served(url=served.url), model, sampling=SHORT, folder=tmp_path)


def test_a_server_of_another_model_is_noticed(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ignores the update: its log-probs give it away before the first step."""
    start = tmp_path / "start"
    start.mkdir()
    save_for_servers(model, start)
    with running(start) as served:
        served.fake.faults = tmp_path / "faults.json"
        served.fake.faults.write_text('{"stale": "all"}')
        for parameter in model.pretrained.parameters():
            parameter.data.mul_(1.5)
        with pytest.raises(WeightSyncError):
            open_servers(pt.Served(url=served.url), model, sampling=SHORT, folder=None)


def test_adapters_alone_are_sent_and_sampled_with(tiny_folder: Path, tmp_path: Path) -> None:
    import torch

    model = load_model(tiny_folder, dtype="float32", device="cpu", lora=LoraConfig(r=2))
    with running(tiny_folder) as served:
        pool = open_servers(pt.Served(url=served.url), model, sampling=SHORT, folder=tmp_path)
        with torch.no_grad():
            for parameter in model.trainable_parameters():
                parameter.add_(0.1)
        pool.sync(1)
        assert served.fake.version == "default"
        assert {"posttrain-0", "posttrain-1"} <= served.fake.engines.keys()
        (sample,) = pool.generate([Request((1, 2), SHORT)])[0]
        assert sample.weights_version == 1 and served.fake.seen[-1]["model"] == "posttrain-1"
        assert pool.take_metrics()["sync/logprob_gap/mean"] < 1e-4
        pool.close()


def test_what_does_not_fit_the_model_is_refused(
    model: LanguageModel, tiny_folder: Path, tmp_path: Path
) -> None:
    url = "http://127.0.0.1:9"
    with pytest.raises(ModelError):
        open_servers(pt.Served(url=url, sync="adapter"), model, sampling=SHORT, folder=tmp_path)
    with pytest.raises(ConfigError):
        open_servers(pt.Served(url=url, sync="nccl"), model, sampling=SHORT, folder=tmp_path)
    adapted = load_model(tiny_folder, dtype="float32", device="cpu", lora=LoraConfig(r=2))
    with pytest.raises(ModelError):
        open_servers(pt.Served(url=url, sync="disk"), adapted, sampling=SHORT, folder=tmp_path)


def test_a_server_that_is_not_there_is_lost_at_once(model: LanguageModel, tmp_path: Path) -> None:
    config = pt.Served(url="http://127.0.0.1:9", max_retries=0)
    with pytest.raises(ServerLost):
        open_servers(config, model, sampling=SHORT, folder=tmp_path)
    assert not list(tmp_path.glob("served/weights-*"))
