"""Both sides of a conformance test: the same folder, the same perturbed policy, the same
tolerance.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Side = tuple[float, dict[str, torch.Tensor], dict[str, float]]
"""Loss, gradient by parameter name, metrics."""


def perturb(model: torch.nn.Module) -> torch.nn.Module:
    """Move the policy away from its reference."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator))
    return model


@pytest.fixture(scope="session")
def peer_model(tiny_folder: Path) -> Callable[..., Any]:
    """Models as TRL gets them; perturbed=True is the policy."""

    def load(kind: str = "AutoModelForCausalLM", perturbed: bool = True, **options: Any) -> Any:
        import transformers

        model = getattr(transformers, kind).from_pretrained(tiny_folder, dtype="float32", **options)
        return perturb(model).eval() if perturbed else model.eval()

    return load


@pytest.fixture(scope="session")
def peer_settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What every config of TRL is given here: no accelerator, float32, nothing recomputed,
    nothing reported.
    """
    return {
        "output_dir": str(tmp_path_factory.mktemp("trl")),
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "disable_tqdm": True,
        "activation_checkpointing": False,
    }


@pytest.fixture(scope="session")
def our_policy(tiny_folder: Path) -> Callable[..., Any]:
    """The perturbed policy as a LanguageModel, with its reference if asked for."""

    def load(reference: bool = False) -> Any:
        from posttrain.models.load import load_model

        model = load_model(str(tiny_folder), dtype="float32", reference=reference)
        perturb(model.hf)
        return model

    return load


@pytest.fixture(scope="session")
def our_side(our_policy: Callable[..., Any]) -> Callable[..., Side]:
    """ours(batch, objective) -> loss, gradients and metrics of the perturbed policy, over
    micro-batches.
    """

    def run(batch: Any, objective: Any, *, max_tokens: int = 40, model: Any = None) -> Side:
        from posttrain.averages import Averages

        model = (model or our_policy(objective.needs_reference)).eval()
        model.hf.zero_grad()
        totals, value, metrics = objective.denominators(batch), 0.0, Averages()
        for micro in batch.split(max_tokens):  # several micro-batches, of which TRL knows nothing
            loss, told = objective(
                model.forward(micro, objective.needs, temperature=objective.temperature),
                micro,
                totals,
            )
            loss.backward()
            value += float(loss.detach())
            metrics.merge(told)
        return value, {name: p.grad for name, p in model.hf.named_parameters()}, metrics.means()

    return run


@pytest.fixture(scope="session")
def assert_agree() -> Callable[..., None]:
    """Value, every gradient and the named metrics agree to 1e-5 in float32."""

    def check(ours: Side, theirs: Side, metrics: tuple[str, ...] = ()) -> None:
        assert ours[0] == pytest.approx(theirs[0], rel=1e-5, abs=1e-5)
        largest = max(float(g.abs().max()) for g in theirs[1].values() if g is not None)
        assert largest > 0 and ours[1].keys() == theirs[1].keys()
        for name, gradient in theirs[1].items():
            if gradient is not None:
                mine = ours[1][name]
                torch.testing.assert_close(
                    mine, gradient, rtol=1e-4, atol=1e-5 * max(largest, 1.0), msg=name
                )
        for name in metrics:
            assert ours[2][name] == pytest.approx(theirs[2][name], rel=1e-5, abs=1e-5), name

    return check
