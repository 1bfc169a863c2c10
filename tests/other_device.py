"""A device that is not the CPU, for machines without one: its tensors hold CPU tensors, and an
operator that meets tensors of both is an error, as on a GPU.

It registers a backend of PyTorch and changes functions of `torch`, so run it by itself:

    python tests/other_device.py        # trains and samples on it, and compares with the CPU
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_MOVES = ("aten::_to_copy", "aten::to")
_INDEXED = ("aten::index", "aten::index_put", "aten::index_put_")


class Held(torch.Tensor):
    """A tensor on the device. inner: the CPU tensor with its numbers."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Held:
        held = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device("other:0"),
        )
        held.inner = inner
        return held

    @classmethod
    def __torch_dispatch__(
        cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(operator, args, kwargs or {})


class OtherDevice(TorchDispatchMode):
    """Within, tensors may be made on the device."""

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(operator, args, kwargs or {})


def run(operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operator on the tensors within."""
    name = operator._schema.name
    flat = tree_flatten((args, kwargs))[0]
    held = [x for x in flat if isinstance(x, Held)]
    devices = [x for x in flat if isinstance(x, torch.device)]
    is_held = devices[0].type == "other" if devices else bool(held)
    if held and name not in (*_MOVES, "aten::copy_", *_INDEXED):
        for x in flat:
            if isinstance(x, torch.Tensor) and not isinstance(x, Held) and x.dim():
                raise RuntimeError(f"{operator}: a CPU tensor {tuple(x.shape)} meets the device")

    def plain(x: Any) -> Any:
        if isinstance(x, torch.device):
            return torch.device("cpu")
        return x.inner if isinstance(x, Held) else x

    args, kwargs = tree_map(plain, args), tree_map(plain, kwargs)
    if kwargs.get("non_blocking"):
        kwargs["non_blocking"] = False
    result = operator(*args, **kwargs)

    def wrapped(x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or not is_held:
            return x
        same = next((y for y in held if y.inner is x), None)  # an operator in place
        return Held(x) if same is None else same

    return tree_map(wrapped, result)


def register() -> None:
    """Make the device known, and replace what PyTorch computes below its dispatcher."""
    _setup_privateuseone_for_python_backend("other")
    make, put, get, as_list = (
        torch.tensor,
        torch.Tensor.__setitem__,
        torch.Tensor.__getitem__,
        torch.Tensor.tolist,
    )

    def tensor(data: Any, *, device: Any = None, **options: Any) -> torch.Tensor:
        made = make(data, **options)
        return made if device is None else made.to(device)

    def setitem(self: Any, key: Any, value: Any) -> None:
        if not isinstance(self, Held) or isinstance(value, torch.Tensor):
            put(self, key, value)
            return
        keys = key if isinstance(key, tuple) else (key,)
        inner = [k.inner if isinstance(k, Held) else k for k in keys]
        index = [make(k, dtype=torch.int64) if isinstance(k, list) else k for k in inner]
        put(self.inner, tuple(index), value)

    def getitem(self: Any, key: Any) -> Any:
        if isinstance(self, Held) and isinstance(key, list):
            key = tensor(key, dtype=torch.int64, device="other:0")
        return get(self, key)

    torch.tensor = tensor  # type: ignore[assignment]
    torch.Tensor.__setitem__ = setitem  # type: ignore[assignment]
    torch.Tensor.__getitem__ = getitem  # type: ignore[assignment,method-assign]
    torch.Tensor.tolist = lambda self: as_list(self.inner if isinstance(self, Held) else self)  # type: ignore[method-assign]
    torch.inference_mode = torch.no_grad  # type: ignore[assignment,misc]


def move(module: torch.nn.Module) -> None:
    """Put a module's parameters and buffers on the device, tied ones once."""
    moved: dict[int, torch.nn.Parameter] = {}
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                new = torch.nn.Parameter(Held(p.detach().clone()), requires_grad=p.requires_grad)
                part._parameters[name] = moved.setdefault(id(p), new)
        for name, b in part._buffers.items():
            if b is not None:
                part._buffers[name] = Held(b.detach().clone())


def main() -> None:
    """Train and sample on the device. Samples must be those of the CPU."""
    register()
    sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
    from gpu_model import Sizes, make_model
    from gpu_parts import measure_training

    from posttrain.engines.torch import TorchEngine
    from posttrain.kernels.graphs import StepGraphs
    from posttrain.types import Request, Sampling

    def repeated(work: Any) -> Any:
        output = work().clone()
        return lambda: output.copy_(work()), output

    with OtherDevice():
        for kind in ("sft", "dpo", "grpo"):
            model = make_model("tiny", "cpu")
            move(model.hf)
            model.share_trunks()
            assert model.shares_trunks and model.device.type == "other", model.why_unshared
            measure_training(kind, model, Sizes.of("tiny"), 1)
            print("trained", kind)
        trunk = tuple(range(1, 70))
        requests = [
            Request(trunk, Sampling(max_tokens=12), n=3, seed=1),
            Request((*trunk, 7), Sampling(max_tokens=5, top_p=0.9, temperature=0.7), n=2, seed=2),
            Request((4, 5, 6), Sampling(max_tokens=12, temperature=0.0)),
        ]
        there, here = make_model("tiny", "cpu"), make_model("tiny", "cpu")
        move(there.hf)
        there.share_trunks()
        expected = TorchEngine(here, max_rows=4)
        for graphs in (None, StepGraphs(repeated)):
            engine = TorchEngine(there, max_rows=4, graphs=graphs)
            for _ in range(2):  # again, with prefixes that are kept
                found = engine.generate(requests)
                for ours, theirs in zip(found, expected.generate(requests), strict=True):
                    assert [s.ids for s in ours] == [s.ids for s in theirs]
            assert graphs is None or (graphs.replayed and graphs.why_not is None)
        print("sampled")


if __name__ == "__main__":
    main()
