"""Losses that compare the pairs of a whole step as distributions.

Inputs and symbols as in `preference`.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from posttrain.losses.inputs import Metrics
from posttrain.losses.preference import reward_metrics
from posttrain.registry import losses


@losses.register(per="batch")
def aot(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Metrics]:
    """Alignment by optimal transport, paired: margins as a distribution dominate the reference's
    (arXiv 2406.05882).

    With u = sort(chosen - rejected) and v = sort(ref_chosen - ref_rejected) over the step's pairs:

    l = -(1 - e) log s(d) - e log s(-d),  d = beta (u - v), e = label_smoothing

    The k-th largest margin is compared with the k-th largest of the reference.
    """
    d = beta * ((chosen - rejected).sort().values - (ref_chosen - ref_rejected).sort().values)
    value = -(1 - label_smoothing) * logsigmoid(d) - label_smoothing * logsigmoid(-d)
    return value, reward_metrics(beta * (chosen - ref_chosen), beta * (rejected - ref_rejected))


@losses.register(per="batch")
def aot_unpaired(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Metrics]:
    """Alignment by optimal transport between all chosen and all rejected, whatever their prompts
    (arXiv 2406.05882).

    l = -(1 - e) log s(d) - e log s(-d),  d = beta (sort(c) - sort(r)), e = label_smoothing

    Both are sorted over the step's pairs.
    """
    c, r = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)
    d = c.sort().values - r.sort().values
    return -(1 - label_smoothing) * logsigmoid(d) - label_smoothing * logsigmoid(
        -d
    ), reward_metrics(c, r)
