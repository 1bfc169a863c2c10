"""Products by one library and by the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from posttrain.models import products
from posttrain.models.products import linear, wide


class Operations(TorchDispatchMode):
    """The names of all operations that run within."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("by_columns", [True, False])
def test_linear_is_the_product_with_the_transposed_weight(
    onednn: bool, by_columns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if onednn and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "_by_onednn", lambda: onednn)
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(7, 48, generator=generator), torch.randn(33, 48, generator=generator)
    exact = x.double() @ weight.double().t()
    with torch.no_grad(), Operations() as seen:
        for given in (x, x.t().contiguous().t(), x[::2]):
            found = linear(given, weight, by_columns=by_columns)
            expected = exact[::2] if len(given) == 4 else exact
            assert found.shape == expected.shape and found.dtype == torch.float32
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert ("mkldnn::_linear_pointwise" in seen.names) == onednn
    with torch.inference_mode():
        assert linear(x[:0], weight.requires_grad_(), by_columns=by_columns).shape == (0, 33)


def test_where_a_gradient_is_recorded_it_is_differentiable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_by_onednn", lambda: True)
    x, weight = torch.ones(2, 3, requires_grad=True), torch.arange(12.0).view(4, 3).requires_grad_()
    linear(x, weight).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [[18.0, 22.0, 26.0]] * 2
    assert weight.grad is not None and weight.grad.tolist() == [[2.0] * 3] * 4


def test_wide_leaves_what_is_wide() -> None:
    for dtype in (torch.float32, torch.float64):
        x = torch.ones(2, dtype=dtype)
        assert wide(x) is x
    assert wide(torch.ones(2, dtype=torch.bfloat16)).dtype == wide(torch.ones(2, dtype=torch.float16)).dtype == torch.float32
