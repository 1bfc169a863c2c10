"""Float32 matrix products on a CPU by the library that is fastest at them.

PyTorch multiplies float32 matrices on a CPU by MKL, which uses the 256-bit instructions on
processors that are not Intel's. oneDNN uses the 512-bit ones there: on a Zen 5, whose units are as
wide, it is twice as fast (220 and 450 to 500 GFLOP/s on two cores). On a Zen 4, whose units are
half as wide, it is faster only with the shapes of a head.

PyTorch chooses the library by a switch of the whole process, so this module touches it only where
`kernels.setup` has asked for that. Even then the switch is set for the length of a scope, for two
reasons: fused attention kernels are slower with it, and user code between scopes has to find it as
it was (`torch.get_float32_matmul_precision` refuses to answer while it is set).

Threads read the same switch. So every pass of a model is within a scope, also one that wants
PyTorch's own choice, and one lock makes the scopes of several threads follow each other. Code of a
user in another thread is in no scope and may be multiplied by either library in the meantime.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from posttrain.kernels.process import switches

_matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)  # since PyTorch 2.9
_switch_lock = threading.RLock()

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")

_CPUINFO = Path("/proc/cpuinfo")
_ZEN_4, _ZEN_5 = 25, 26  # families of processors as the kernel numbers them


def fast_products(*, of_head: bool = False) -> AbstractContextManager[None]:
    """Within, products of float32 matrices are oneDNN's, where that is asked for and faster.

    That is on AMD processors of family 26 (Zen 5) and above, and with the shapes of a head
    (`of_head`) on Zen 4, where other products stay PyTorch's own choice. On other processors, and
    without `kernels.setup`, nothing changes.
    """
    family = _chosen_family()
    if family < _ZEN_4:
        return nullcontext()
    return _Precision("bf16" if of_head or family >= _ZEN_5 else "none")


def kernel_products() -> AbstractContextManager[None]:
    """Within, products are PyTorch's own choice again, inside `fast_products` too.

    For fused attention kernels: they ask for many small products, each of which oneDNN would
    prepare anew (five times as slow).
    """
    return _Precision("none") if _chosen_family() >= _ZEN_4 else nullcontext()


def within(
    scope: Callable[[], AbstractContextManager[None]],
) -> Callable[[Callable[_Args, _Result]], Callable[_Args, _Result]]:
    """A decorator: the function runs within `fast_products` or `kernel_products`."""

    def decorate(function: Callable[_Args, _Result]) -> Callable[_Args, _Result]:
        @functools.wraps(function)
        def run(*args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
            with scope():
                return function(*args, **kwargs)

        return run

    return decorate


def linear(x: Tensor, weight: Tensor, *, by_columns: bool = False) -> Tensor:
    """x [M, K] @ weight [N, K].T -> [M, N], of the shapes of a head.

    by_columns: if True, the result may be column-major.
    """
    with fast_products(of_head=True):
        if by_columns and x.device.type == "cpu":
            return (weight @ x.t()).t()  # with few rows up to 1.4 times as fast as the other order
        return x @ weight.t()


def wide(x: Tensor) -> Tensor:
    """Upcast half precision to float32; other types are returned as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class _Precision(AbstractContextManager[None]):
    """The switch set to a value, and back to what it was; one thread at a time.

    PyTorch gives float32 products to oneDNN where it allows them to be rounded to bfloat16. On the
    processors meant here oneDNN does not round so, as it lacks the instructions that would gain by
    it; `_keeps_float32` makes sure.
    """

    def __init__(self, allowed: str) -> None:
        self._allowed = allowed

    def __enter__(self) -> None:
        _switch_lock.acquire()
        self._before = _matmul.fp32_precision
        _matmul.fp32_precision = self._allowed

    def __exit__(self, *_: object) -> None:
        _matmul.fp32_precision = self._before
        _switch_lock.release()


def _chosen_family() -> int:
    """The processor's family where the process has asked for fast products, else 0."""
    return _family() if switches().fast_products else 0


@functools.cache
def _family() -> int:
    """The family of an AMD processor with AVX-512 on which oneDNN can be asked for, else 0.

    It is a rule and no measurement: the two libraries round differently, so that a run would
    otherwise not be repeatable. Not beside a GPU, for whose products and compiled kernels PyTorch
    reads the same switches.
    """
    if not _CPUINFO.exists() or _matmul is None or torch.cuda.is_available():
        return 0
    if (
        torch.backends.cpu.get_cpu_capability() != "AVX512"
        or not torch.backends.mkldnn.is_available()
    ):
        return 0
    family = re.search(r"vendor_id\s*: AuthenticAMD\ncpu family\s*: (\d+)", _CPUINFO.read_text())
    with torch.autocast("cpu", enabled=False):  # the first caller may be within one
        return int(family[1]) if family and _keeps_float32() else 0


_CHECKED_SHAPES = (
    (64, 256, 512),
    (1024, 64, 128),
    (3, 512, 64),
    (1, 256, 512),
    (512, 256, 1),
)


def _keeps_float32() -> bool:
    """Whether products by oneDNN are rounded as float32 is (6e-8) and not as bfloat16 (4e-3),
    in any order of memory.
    """
    generator = torch.Generator().manual_seed(0)
    for rows, inner, columns in _CHECKED_SHAPES:
        a = torch.randn(rows, inner, generator=generator)
        b = torch.randn(inner, columns, generator=generator)
        exact = a.double() @ b.double()
        for left in (a, a.t().contiguous().t()):
            for right in (b, b.t().contiguous().t()):
                with _Precision("bf16"):
                    products = (
                        left @ right,
                        (left[None] @ right[None])[0],
                        torch.zeros(rows, columns).addmm_(left, right),
                    )
                if any(float((y - exact).norm() / exact.norm()) > 1e-5 for y in products):
                    return False
    return True
