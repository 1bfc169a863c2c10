"""What a decorator of a registry may say of its function, beside what its signature says."""

from __future__ import annotations

from posttrain.entry import Declaration

LOSS_DECLARES = {
    "per": Declaration(
        {
            "token": "one value per target",
            "sequence": "one per sequence",
            "pair": "one per chosen and rejected pair",
            "group": "one per prompt",
            "batch": "values that depend on the whole batch",
        }
    )
}
ADVANTAGE_DECLARES = {
    "step_rewards": Declaration(
        {False: "takes any reward", True: "needs a reward that is declared per step"},
        default=False,
    ),
    "kl_in_reward": Declaration(
        {
            True: "KL to the reference may be subtracted from the reward",
            False: "it may not: the estimator normalises single rewards",
        },
        default=True,
    ),
}
REWARD_DECLARES = {
    "per": Declaration(
        {"completion": "one number per completion", "step": "a list: one number per step"},
        default="completion",
    )
}
SELECTOR_DECLARES = {"selects": Declaration({"row": "rows", "pair": "pairs"}, default="row")}
