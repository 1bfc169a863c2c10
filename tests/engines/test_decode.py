"""The plan of a decode step."""

from __future__ import annotations

import pytest
import torch

from posttrain.engines.decode import DecodePlan


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["own token outweighs", "prompt outweighs"])
def test_scores_far_apart_do_not_overflow(dtype: torch.dtype, sign: float) -> None:
    """Scores of 64 and -64: exp(128) is past the range of all three types."""
    ones = torch.ones(1, 3, 16, dtype=dtype)
    values = torch.arange(3, dtype=dtype)[None, :, None].expand(1, 3, 16)
    plan = DecodePlan(
        [[(ones * -4 * sign, values.contiguous())]],
        torch.zeros(2, dtype=torch.int64),
        torch.full((2,), 4),
    )
    query = torch.full((2, 2, 16), 4.0, dtype=dtype)
    own = torch.full((2, 1, 16), 7.0, dtype=dtype)
    found = plan.attend_one(query, query[:, :1] * sign, own, 0, 0.25)
    assert found.dtype == dtype and found.shape == (2, 2, 16)
    assert torch.equal(
        found, torch.full_like(found, 7.0 if sign > 0 else 1.0)
    )  # 1: the mean of 0, 1 and 2
