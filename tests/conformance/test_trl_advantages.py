"""Advantages and reward metrics beside TRL's GRPOTrainer: the same completions, the same numbers of
several weighted rewards.

Runs in the environment of `make conformance`, where TRL is installed; skipped elsewhere. Both sides
go the whole way from the reward functions to the advantages: here collector, reward set and credit;
there rollout_func and what scores its completions. Different by intent:
- Rewards that tie give exactly 0 here; in TRL the rounding of their mean, divided by 1e-4. The ties
below round to nothing.
- frac_reward_zero_std is the share of groups without signal, however rewards are scaled; TRL tells
of the step's one deviation
  where that is what divides (batch, normalize_then_sum), and counts groups with fewer than two
  rewards among all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

trl = pytest.importorskip("trl", reason="TRL is not installed; run `make conformance`")

# by prompt and completion: what the three reward functions say, None where one does not apply
PLAIN = [
    [(1.0, 0.3, -2.0), (0.0, 0.1, -1.0), (1.0, 0.9, -0.5), (0.0, 0.4, -0.1)],
    [(0.0, 0.2, -1.0), (0.0, 0.8, -1.0), (1.0, 0.5, -1.0), (0.0, 0.7, -1.0)],
    [(0.5, 0.25, -1.0)] * 4,
]
MISSING = [
    PLAIN[0],
    [(1.0, None, -2.0), (0.0, 0.1, None), (None, 0.9, -0.5), (0.0, 0.4, -0.1)],
    [(None, None, None), (1.0, 0.5, -1.0), (0.0, 0.25, -1.0), (1.0, 1.0, -4.0)],
    [(None, 0.3, -2.0), (None, 0.1, -1.0), (None, 0.9, -0.5), (None, 0.4, -0.1)],
    [(None, None, None), (None, None, None), (1.0, 0.5, -1.0), (None, None, None)],
]
TABLES = {"plain": PLAIN, "missing": MISSING}
NAMES = ("conformance_right", "conformance_form", "conformance_length")
WEIGHTS = (1.0, 0.5, 0.25)
# our estimator with settings, TRL's settings
SCALINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "group": ("group_mean", {"scale": "group"}, {"scale_rewards": "group"}),
    "batch": ("group_mean", {"scale": "batch"}, {"scale_rewards": "batch"}),
    "none": ("group_mean", {"scale": "none"}, {"scale_rewards": "none"}),
    "normalize_then_sum": ("gdpo", {}, {"multi_objective_aggregation": "normalize_then_sum"}),
}


def reward_function(table: Any, f: int) -> Callable[..., Any]:
    """The f-th reward, of completions that name their place in the table."""

    def function(completions: Any, **columns: Any) -> list[float | None]:
        places = [[int(x) for x in text.split()[:2]] for text in completions]
        return [table[p][g][f] for p, g in places]

    function.__name__ = NAMES[f]
    return function


def ours(
    table: Any, num_rewards: int, estimator: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> tuple[np.ndarray, dict[str, float]]:
    """Advantages [P, G] and metrics."""
    from posttrain import registry
    from posttrain.config import Component, CreditConfig
    from posttrain.rewards.base import RewardSet
    from posttrain.sources.collect import Collector, Prompt
    from posttrain.sources.credit import Creditor
    from posttrain.types import Example, Sample, Sampling

    class Engine:
        def generate(self, requests: Any) -> Any:
            return [
                [Sample([r.prompt_ids[0], g], [0.0] * 2, [0.0] * 2, "stop") for g in range(r.n)]
                for r in requests
            ]

    for f in range(num_rewards):
        monkeypatch.setitem(registry.rewards._functions, NAMES[f], reward_function(table, f))
    rewards = RewardSet([(name, weight, {}) for name, weight in zip(NAMES[:num_rewards], WEIGHTS)])
    collector = Collector(
        [Prompt(Example(""), (p,)) for p in range(len(table))],
        Engine(),
        rewards,  # type: ignore[arg-type]
        decode=lambda sample: " ".join(map(str, sample.ids)),
        sampling=Sampling(max_tokens=2),
        batch_size=len(table),
        num_generations=len(table[0]),
        seed=0,
    )
    groups = collector.collect(0)
    creditor = Creditor(
        Component(estimator, settings),
        CreditConfig(),
        asked=("advantages",),
        reward_weights=rewards.weights,
        token_text=str,
    )
    counted = [[np.ones(len(r.sample.ids), dtype=bool) for r in g.traces] for g in groups]
    streams = creditor.credit(groups, {}, None, counted)["advantages"]
    order = np.argsort([g.prompt_ids[0] for g in groups])
    assert all((array == array[0]).all() for row in streams for array in row)
    return np.array([[array[0] for array in streams[i]] for i in order]), collector.metrics(
        groups, 0
    ).means()


def theirs(
    table: Any, num_rewards: int, settings: Any, model: Any, base: Any, tokenizer: Any
) -> tuple[np.ndarray, dict[str, float]]:
    from datasets import Dataset

    places = [(p, g) for p, row in enumerate(table) for g in range(len(row))]
    texts = [tokenizer(f"{p} {g} ", add_special_tokens=False).input_ids for p, g in places]
    config = trl.GRPOConfig(
        per_device_train_batch_size=len(places),
        num_generations=len(table[0]),
        max_completion_length=8,
        reward_weights=list(WEIGHTS[:num_rewards]),
        **base,
        **settings,
    )
    rows = [{"prompt": "a"}] * len(places)
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=[reward_function(table, f) for f in range(num_rewards)],
        args=config,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        rollout_func=lambda prompts, _: {
            "prompt_ids": [[1]] * len(prompts),
            "completion_ids": texts,
            "logprobs": [[0.0] * len(x) for x in texts],
        },
    )
    model.train()
    advantages = trainer._generate_and_score_completions(rows)["advantages"]
    told = {k: v[-1] for k, v in trainer._metrics["train"].items() if v}
    return advantages.view(len(table), -1).numpy(), told


@pytest.fixture(scope="module")
def peer(peer_model: Any) -> Any:
    return peer_model()


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("rewards", TABLES)
@pytest.mark.parametrize("num_rewards", [1, 3])
def test_advantages_and_metrics(
    num_rewards: int,
    rewards: str,
    scaling: str,
    peer: Any,
    peer_settings: Any,
    tiny_tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    estimator, settings, peers = SCALINGS[scaling]
    table = TABLES[rewards]
    mine, told = ours(table, num_rewards, estimator, settings, monkeypatch)
    other, told_by_trl = theirs(table, num_rewards, peers, peer, peer_settings, tiny_tokenizer)
    assert np.abs(other).max() > 0.1
    torch.testing.assert_close(mine, other.astype(np.float64), rtol=1e-5, atol=1e-5)
    names = [
        "reward",
        "reward_std",
        *(f"rewards/{n}/{of}" for n in NAMES[:num_rewards] for of in ("mean", "std")),
    ]
    if rewards == "plain" and scaling in ("group", "none"):
        names.append("frac_reward_zero_std")
    for name in names:
        assert told[name] == pytest.approx(told_by_trl[name], rel=1e-5, abs=1e-5), name
