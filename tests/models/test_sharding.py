"""Programs in shares: what a process holds, passes with whole weights, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from process_groups import results


def in_shares(folder: Path, group: int) -> dict[str, Any]:
    """Logits, sizes and weights of a model before, while and after it is shared."""
    import torch
    from torch.distributed.tensor import DTensor

    from posttrain.models.load import load_model
    from posttrain.models.sharding import Sharding
    from posttrain.world import World

    world = World.here()
    model = load_model(str(folder), reference=True)
    kind = type(model.program)
    before = {name: p.detach().clone() for name, p in model.hf.named_parameters()}
    model.rate_factors = {p: 2.0 for p in model.hf.parameters() if p.ndim == 1}
    ids = torch.arange(6)[None]

    def hidden() -> Any:
        with torch.no_grad():
            return model._active(model._row_hidden, ids)

    expected = hidden()
    model.share_among(
        Sharding(world.size, group, is_main=world.is_main, device=torch.device("cpu"))
    )
    held = sum(p.to_local().numel() for p in model.hf.parameters() if isinstance(p, DTensor))
    report = {
        "held": held,
        "all": sum(p.numel() for p in before.values()),
        "factors": sum(p in model.rate_factors for p in model.hf.parameters()),
        "vectors": sum(p.ndim == 1 for p in before.values()),
        "shared": torch.equal(hidden(), expected),
    }
    with model.sharding.whole():  # type: ignore[union-attr]
        if world.is_main:  # a pass that no other process makes
            report["whole"] = torch.equal(hidden(), expected)
            report["twice"] = torch.equal(hidden(), expected)
            with model.reference():
                report["reference"] = torch.equal(hidden(), expected)
    world.barrier()
    with model.sharding.gathered():  # type: ignore[union-attr]
        if world.is_main:
            weights = model.hf.state_dict()
            report["gathered"] = all(torch.equal(weights[n], p) for n, p in before.items())
    report["again"] = torch.equal(hidden(), expected)
    model.end_sharing()
    weights = dict(model.hf.named_parameters())
    report["ended"] = all(torch.equal(weights[n], p) for n, p in before.items())
    report["plain"] = type(model.program) is kind and torch.equal(hidden(), expected)
    return report


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("size", "group"), [(2, 2), (4, 2)])
def test_a_model_in_shares_computes_what_it_computed(
    size: int, group: int, tiny_folder: Path, tmp_path: Path
) -> None:
    main, *others = results(
        size, in_shares, tiny_folder, group, folder=tmp_path / "out", seconds=400
    )
    for report in (main, *others):
        assert report["held"] <= 0.55 * report["all"]
        assert report["factors"] == report["vectors"] > 0
        assert report["shared"] and report["again"] and report["ended"] and report["plain"]
    assert main["whole"] and main["twice"] and main["reference"] and main["gathered"]
