"""Matrix products in float32 by the library that is fastest at them, and the way there from half
precision.

PyTorch multiplies float32 matrices on a CPU by MKL, which uses the 256-bit instructions on
processors that are not Intel's. oneDNN uses the 512-bit ones there: on a Zen 5, whose units are as
wide, it is twice as fast (220 and 450 to 500 GFLOP/s on two cores); on a Zen 4, whose units are
half as wide, only with the shapes of a head.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

_settings: Any = getattr(torch.backends.mkldnn, "matmul", None)  # since PyTorch 2.9

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")

_CPUINFO = Path("/proc/cpuinfo")
_ZEN_4, _ZEN_5 = 25, 26  # families of processors as the kernel tells them


def fast_products(*, of_head: bool = False) -> AbstractContextManager[None]:
    """Within, products of float32 matrices are oneDNN's where that is known to be faster: on AMD
    processors of family 26 (Zen 5) and above, and with the shapes of a head (`of_head`) on Zen 4.
    Elsewhere nothing changes."""
    family = _family()
    return (
        _Precision("bf16") if family >= _ZEN_5 or (of_head and family >= _ZEN_4) else nullcontext()
    )


def kernel_products() -> AbstractContextManager[None]:
    """Within, products are PyTorch's own choice again: for fused attention kernels, which ask for
    many small products, each of which oneDNN would prepare anew (five times as slow)."""
    return _Precision("none") if _family() else nullcontext()


def within(
    products: Callable[[], AbstractContextManager[None]],
) -> Callable[[Callable[_Given, _Found]], Callable[_Given, _Found]]:
    """A decorator: the function runs within `fast_products` or `kernel_products`."""

    def decorate(function: Callable[_Given, _Found]) -> Callable[_Given, _Found]:
        @functools.wraps(function)
        def run(*args: _Given.args, **kwargs: _Given.kwargs) -> _Found:
            with products():
                return function(*args, **kwargs)

        return run

    return decorate


def linear(x: Tensor, weight: Tensor, *, by_columns: bool = False) -> Tensor:
    """x [M, K] @ weight [N, K].T -> [M, N], of the shapes of a head; `by_columns` where it may
    lie in memory as N rows of M.
    """
    with fast_products(of_head=True):
        if by_columns and x.device.type == "cpu":
            return (weight @ x.t()).t()  # with few rows up to 1.4 times as fast as the other order
        return x @ weight.t()


def wide(x: Tensor) -> Tensor:
    """In float32 what is in half precision, else as it is."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class _Precision(AbstractContextManager[None]):
    """PyTorch gives float32 products to oneDNN where it allows them to be rounded to bfloat16. On
    the processors meant here oneDNN does not round so, as it lacks the instructions that would gain
    by it; `_keeps_float32` makes sure.

    Not around code of a user: `torch.get_float32_matmul_precision`, the older switch, refuses to
    answer within.
    """

    def __init__(self, allowed: str) -> None:
        self._allowed = allowed

    def __enter__(self) -> None:
        self._before = _settings.fp32_precision
        _settings.fp32_precision = self._allowed

    def __exit__(self, *_: object) -> None:
        _settings.fp32_precision = self._before


@functools.cache
def _family() -> int:
    """The family of an AMD processor with AVX-512 on which oneDNN can be asked for, 0 for any
    other.

    A rule and no measurement: the two libraries round differently, so that a run would otherwise
    not be repeatable. Not beside a GPU, for whose products and compiled kernels PyTorch reads the
    same switches.
    """
    if not _CPUINFO.exists() or _settings is None or torch.cuda.is_available():
        return 0
    if (
        torch.backends.cpu.get_cpu_capability() != "AVX512"
        or not torch.backends.mkldnn.is_available()
    ):
        return 0
    found = re.search(r"vendor_id\s*: AuthenticAMD\ncpu family\s*: (\d+)", _CPUINFO.read_text())
    with torch.autocast("cpu", enabled=False):  # whoever asks first may be within one
        return int(found[1]) if found and _keeps_float32() else 0


def _keeps_float32() -> bool:
    """Whether products by oneDNN are rounded as float32 is (6e-8) and not as bfloat16 (4e-3),
    in any order of memory.
    """
    generator = torch.Generator().manual_seed(0)
    for rows, inner, columns in (
        (64, 256, 512),
        (1024, 64, 128),
        (3, 512, 64),
        (1, 256, 512),
        (512, 256, 1),
    ):
        a, b = (
            torch.randn(rows, inner, generator=generator),
            torch.randn(inner, columns, generator=generator),
        )
        exact = a.double() @ b.double()
        for left in (a, a.t().contiguous().t()):
            for right in (b, b.t().contiguous().t()):
                with _Precision("bf16"):
                    found = (
                        left @ right,
                        (left[None] @ right[None])[0],
                        torch.zeros(rows, columns).addmm_(left, right),
                    )
                if any(float((y - exact).norm() / exact.norm()) > 1e-5 for y in found):
                    return False
    return True
