"""Memory stays flat over the stages of a sequence."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

import posttrain as pt
from posttrain.loops import continual as module
from posttrain.retentions.base import Stage
from posttrain.tasks.sorting import sorting


def live_bytes() -> int:
    """Bytes of all tensors that Python holds, each storage once."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter):
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@pytest.mark.parametrize(
    "retention",
    [
        "naive",
        {"name": "ewc", "decay": 0.9, "num_sequences": 2},
        {"name": "ewc", "num_sequences": 2},
        {"name": "replay", "buffer_size": 4},
        {"name": "der", "buffer_size": 4, "top_k": 4},
    ],
    ids=["naive", "ewc_online", "ewc", "replay", "der"],
)
def test_memory_is_flat_over_five_stages(
    tiny_folder: Any, monkeypatch: pytest.MonkeyPatch, retention: Any
) -> None:
    sizes = []
    real = module._Sequence._train

    def measured(self: Any, stage: Stage, settings: Any) -> None:
        real(self, stage, settings)
        sizes.append(live_bytes())

    def unmeasured(self: Any, model: Any, name: str) -> dict[str, float]:
        return dict.fromkeys(self.suites, 0.0)

    monkeypatch.setattr(module._Sequence, "_train", measured)
    monkeypatch.setattr(module._Sequence, "_measured", unmeasured)
    plans = {
        f"s{k}": pt.sft(task=sorting(num_examples=8, num_numbers=2, seed=k), batch_size=4)
        for k in range(5)
    }
    model = pt.load(str(tiny_folder), dtype="float32")
    pt.continual(model, plans, retention=retention, steps=1, num_examples=1)
    weights = sum(p.numel() * p.element_size() for p in model.hf.parameters())
    assert len(sizes) == 5
    # The buffer of `der` is of rows, whose lengths differ by a few tokens.
    assert max(sizes[1:]) - min(sizes[1:]) < 0.02 * weights, sizes
