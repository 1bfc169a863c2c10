"""The loss of pairs that balances helpfulness and safety.

Inputs and symbols as in `preference`.
"""

from __future__ import annotations

from torch import Tensor

from posttrain.losses.inputs import Metrics
from posttrain.losses.preference import reward_metrics
from posttrain.losses.settings import check_positive
from posttrain.registry import losses


@losses.register(per="pair")
def bfpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    margin: Tensor,
    *,
    tau: float = 1.0,
) -> tuple[Tensor, Metrics]:
    """Bi-factorial preference optimisation: safety and helpfulness in one regression (arXiv
    2408.15313).

        l = (c - r - margin / tau)^2,   margin = 3/2 safe(chosen) - 1/2 safe(rejected) - alpha

    chosen is the more helpful of the two, and safe is 1 or 0. `pt.safety_margins` gives rows the
    column `margin`. With alpha = 1/2 a safe and helpful completion is driven above an unsafe one by
    1, above a less helpful safe one by 1/2, and an unsafe one is driven below: by 1 where the other
    is safe, by 1/2 where it is not. tau plays the part of beta: the larger, the nearer the policy
    stays to its reference. At the start l = (margin / tau)^2.
    """
    check_positive(tau=tau)
    c, r = chosen - ref_chosen, rejected - ref_rejected
    return (c - r - margin / tau).square(), reward_metrics(tau * c, tau * r)
