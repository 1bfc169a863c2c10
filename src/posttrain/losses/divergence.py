"""f-DPO: the divergence that holds the policy to its reference decides how a log-ratio becomes
a reward.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from posttrain.losses.exponential import bounded_expm1

Divergence = Literal["reverse_kl", "forward_kl", "js", "alpha"]
"""What holds the policy to its reference."""


def score(
    log_ratio: Tensor, divergence: Divergence, alpha: float | None, *, power: int = 1
) -> Tensor:
    """f'(u) at u = pi / ref = e^log_ratio, up to a constant: what takes the place of a log-ratio
    under a divergence D_f.

    Maximising E[reward] - beta D_f(pi || ref), D_f = E_ref[f(pi / ref)], has the solution reward =
    beta f'(pi / ref) + a constant of the prompt (f-DPO, arXiv 2309.16240). The constant is unknown
    and leaves only where two completions of a prompt are subtracted: losses that hold a single
    completion's log-ratio to a fixed number have no such form.
      reverse_kl: f = u log u,                        f' = x             with x = log u
      forward_kl: f = -log u,                         f' = 1 - e^-x
      js:         f = u log u - (u+1) log((u+1)/2),   f' = log 2 + log s(x)
      alpha:      f = (u^a - 1 - a (u-1)) / (a (a-1)),  f' = (e^((a-1) x) - 1) / (a-1)

    a = 0 is forward_kl, a = 1 reverse_kl. The paper's own alpha is 1 - a. Exponentials grow as a
    logarithm beyond e^80, see `bounded_exp`.

    Args:
        log_ratio: nats, any shape. alpha: a, finite and at most 1; None means 0.5 for alpha and
        nothing for the others.
        power: of the score in the loss, 2 where it is squared.
    Raises:
        ValueError: alpha above 1, where f'(0) is finite: the best policy may then give a completion
        no probability at all,
            and its reward does not follow from its log-ratio. Or alpha given to a divergence that
            has none.
    """
    if alpha is not None and divergence != "alpha":
        raise ValueError(
            f"alpha is {alpha}, but divergence {divergence} has none; leave it out or set "
            "divergence: alpha"
        )
    if divergence == "reverse_kl":
        return log_ratio
    if divergence == "js":
        return math.log(2) + logsigmoid(log_ratio)
    slope = -1.0 if divergence == "forward_kl" else (0.5 if alpha is None else alpha) - 1
    if not -math.inf < slope <= 0:
        raise ValueError(
            f"alpha is {alpha}; it must be at most 1 (0 is forward_kl, 1 is reverse_kl, 0.5 is "
            "usual)"
        )
    return log_ratio if slope == 0 else bounded_expm1(slope * log_ratio, power=power) / slope
