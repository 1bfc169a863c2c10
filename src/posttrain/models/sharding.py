"""A model whose weights, gradients and moments lie in shares in several processes (FSDP2).

Each decoder layer is a unit of `torch.distributed.fsdp.fully_shard`, and so is what is left of each
program (embeddings, last norm, heads). A pass gathers the weights of one layer at a time; the
backward pass averages gradients over the processes and leaves each of them its share. The policy,
its reference, a critic and a teacher are programs of their own (`models.program`), each sharded for
itself.

Averages become sums by the loss: FSDP's mean stays as it is, and the loss is multiplied by the
number of processes (`ForestModel.backward`). Its divide factor is no way around: gloo knows none,
and set on the root alone it changes the root's gradients and leaves those of the layers.

    sharding.whole()       all weights are gathered: passes need no other process (sampling)
    sharding.gathered()    the weights in full precision, in the main process (saving)
    sharding.end()         the model is an ordinary one again, in every process
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from posttrain.models.program import Program


class Sharding:
    """How the programs of a model are shared by the processes that torchrun started.

    Args:
        size: of the world. group: how many processes hold one copy of the weights between them.
            Below `size` there are size / group copies (HSDP): a mesh of two dimensions.
        is_main: whether this process gets what `gathered` gives.
        device: where the weights are. compute_dtype: of forward and backward passes, None as the
            weights are; gradients are summed in at least float32.
    """

    def __init__(
        self,
        size: int,
        group: int,
        *,
        is_main: bool,
        device: torch.device,
        compute_dtype: torch.dtype | None = None,
    ) -> None:
        self.size, self.is_main = size, is_main
        shape, names = ((size,), ("shard",))
        if group < size:
            shape, names = (size // group, group), ("replicate", "shard")  # type: ignore[assignment]
        self.mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
        reduce = torch.float32 if compute_dtype is not None else None
        self.policy = MixedPrecisionPolicy(
            param_dtype=compute_dtype, reduce_dtype=reduce, cast_forward_inputs=False
        )
        self._programs: list[Program] = []
        self._is_whole = False

    def shard(self, program: Program, first_pass: Callable[[], object]) -> None:
        """Share a program. first_pass: a pass of it without gradient, in which FSDP learns which
        unit is the root; every process makes it.
        """
        for layer in _layers(program.hf):
            fully_shard(layer, mesh=self.mesh, mp_policy=self.policy)
        fully_shard(program, mesh=self.mesh, mp_policy=self.policy)
        self._programs.append(program)
        with torch.no_grad():
            first_pass()
        self._reshard()

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Within it every process holds all weights, in the dtype of passes, and passes without a
        gradient need no other process. All processes enter it.
        """
        if self._is_whole or not self._programs:
            yield
            return
        units = self._units()
        for unit in units:
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()
        self._is_whole = True
        try:
            yield
        finally:
            self._is_whole = False
            for unit in units:
                # FSDP's own default: the root, which the backward pass needs first, stays.
                unit.set_reshard_after_forward(not isinstance(unit, Program), recurse=False)
            self._reshard()

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Within it the main process has all weights on its CPU, as they are trained; there are no
        passes. All processes enter it.
        """
        self._reshard()
        replaced = self._replace(lambda full: full.cpu() if self.is_main else full.new_empty(0))
        try:
            yield
        finally:
            for module, name, parameter in replaced:
                module._parameters[name] = parameter

    def end(self) -> None:
        """Make ordinary modules of the programs, with all weights in every process."""
        self._reshard()
        self._replace(lambda full: full)
        for unit in self._units():
            for hooks in (unit._forward_pre_hooks, unit._forward_hooks):  # type: ignore[attr-defined]
                hooks.clear()
            unit.__class__ = type(unit).__bases__[1]
        self._programs = []

    def _replace(
        self, kept: Callable[[torch.Tensor], torch.Tensor]
    ) -> list[tuple[nn.Module, str, Any]]:
        """Put what is kept of each gathered parameter in its place; what stood there before."""
        replaced: list[tuple[nn.Module, str, Any]] = []
        made: dict[int, nn.Parameter] = {}  # a tied parameter stays one
        for program in self._programs:
            for module in program.modules():
                for name, parameter in list(module._parameters.items()):
                    if not isinstance(parameter, DTensor):
                        continue
                    if id(parameter) not in made:
                        full = kept(parameter.full_tensor().detach())
                        made[id(parameter)] = nn.Parameter(full, parameter.requires_grad)
                    replaced.append((module, name, parameter))
                    module._parameters[name] = made[id(parameter)]
        return replaced

    def _units(self) -> list[FSDPModule]:
        return [m for p in self._programs for m in p.modules() if isinstance(m, FSDPModule)]

    def _reshard(self) -> None:
        for unit in self._units():
            unit.reshard()


def _layers(hf: nn.Module) -> Sequence[nn.Module]:
    """The decoder layers: the longest list of modules that is not within another one."""
    lists = [m for m in hf.modules() if isinstance(m, nn.ModuleList)]
    inner = {id(x) for outer in lists for x in outer.modules() if x is not outer}
    outermost = [m for m in lists if id(m) not in inner]
    return max(([*modules] for modules in outermost), key=len, default=[])
