"""Every registered loss at extreme log-probs and scores.

Float32 and bfloat16 stay finite, and float32 agrees with float64. A new loss is tested
through its lines in the CASES of a file of tests here (see `test_coverage`).
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from posttrain import registry
from posttrain.config import Component
from posttrain.errors import ConfigError
from posttrain.training.objective import Objective

DIVERGENCES: list[dict[str, Any]] = [
    {"divergence": "forward_kl"},
    {"divergence": "js"},
    {"divergence": "alpha"},
    {"divergence": "alpha", "alpha": 0.0},
    {"divergence": "alpha", "alpha": 1.0},
    {"divergence": "alpha", "alpha": 1 - 1e-9},
    {"divergence": "alpha", "alpha": -3.0},
]
DIVERGING = ("dpo", "robust_dpo", "dpo_norm", "ipo", "hinge_dpo", "exo", "discopop")
EDGES: list[tuple[str, dict[str, Any]]] = [
    *((name, settings) for name in DIVERGING for settings in DIVERGENCES),
    *(("alphapo", {"alpha": a}) for a in (0.0, 1e-12, 1e-6, 0.01, 1.0, -0.5)),
    *(
        ("discopop", {"temperature": t, "divergence": d})
        for t in (1.0, 2.0)
        for d in ("reverse_kl", "forward_kl")
    ),
    *(
        (name, {"level": level})
        for name in ("clipped", "surrogate", "cispo", "sapo", "opsm", "kl_corrected")
        for level in ("token", "sequence")
    ),
    *(
        (name, {"level": level})
        for name in ("clipped", "surrogate")
        for level in ("sequence_sum", "sequence_token")
    ),
    ("clipped", {"clip_max": 3.0}),
    ("clipped", {"level": "sequence_sum", "clip_max": 3.0}),
    *(("kl_corrected", {"estimator": e}) for e in ("k1", "k2", "k3")),
    ("jsd", {"beta": 0.0}),
    ("jsd", {"beta": 1.0}),
    ("jsd", {"beta": 1e-6}),
    ("skew_kl", {"alpha": 0.0}),
    ("skew_kl", {"alpha": 0.999, "direction": "reverse"}),
    *((name, {"top_k": 2}) for name in ("teacher_kl", "jsd", "skew_kl")),
    *(
        (name, {"temperature": t})
        for name in ("teacher_kl", "jsd", "skew_kl")
        for t in (0.01, 100.0)
    ),
]


def _settings(case: tuple[Any, ...]) -> dict[str, Any]:
    return next((part for part in case[1:2] if isinstance(part, dict)), {})


def cases() -> list[tuple[str, dict[str, Any]]]:
    """Every (loss, settings) that a test file here proves, and the edges of their settings."""
    rows: list[tuple[str, dict[str, Any]]] = []
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path == Path(__file__) or path.name == "test_coverage.py":
            continue
        spec = importlib.util.spec_from_file_location(f"finite_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        rows += [(case[0], _settings(case)) for case in getattr(module, "CASES", ())]
    unique: list[tuple[str, dict[str, Any]]] = []
    for row in rows + EDGES:
        if row not in unique:
            unique.append(row)
    return unique


CASES_HERE = cases()
EXTREMES = (0.0, 1e-3, 0.3, 1.0, 8.0, 20.0, 46.0, 79.0, 90.0, 150.0, 1e3, 1e4)
TRAINED = {
    "logprobs",
    "entropy",
    "forward_kl",
    "reverse_kl",
    "scores",
    "class_logits",
    "values",
    "distribution",
    "logprob",
    "score",
    "chosen",
    "rejected",
    "gold",
    "chosen_score",
    "rejected_score",
    "chosen_forward_kl",
    "rejected_forward_kl",
}


class Extremes:
    """Inputs of every name in float32: M targets in S sequences, which are also S pairs, in two
    groups.
    """

    def __init__(self, seed: int, length: int) -> None:
        self.draw = torch.Generator().manual_seed(seed)
        self.num_sequences = 24
        self.sequence = torch.arange(self.num_sequences).repeat_interleave(length)
        num = len(self.sequence)
        self.inputs: dict[str, Any] = {
            "sequence": self.sequence,
            "num_sequences": self.num_sequences,
        }
        self._per_target(num, length)
        self._per_sequence(length)
        self._distributions(num)

    def pick(self, choices: tuple[float, ...], num: int) -> Tensor:
        return torch.tensor(choices)[torch.randint(len(choices), (num,), generator=self.draw)]

    def signed(self, num: int) -> Tensor:
        return self.pick(EXTREMES, num) * self.pick((1.0, -1.0), num)

    def apart(self, num: int, per: int = 1) -> dict[str, Tensor]:
        """Log-probs of the policy and of others, whose differences are extreme; one difference
        for `per` in a row.
        """
        differences = self.signed(num // per).repeat_interleave(per)
        policy = -1e-3 - (-differences).relu()
        others = {"policy": policy, "old": -1e-3 - differences.relu()}
        for name in ("ref", "engine", "teacher"):
            others[name] = (policy - self.signed(num)).clamp(max=0)
        return others

    def _per_target(self, num: int, length: int) -> None:
        far = self.apart(num, length)
        self.inputs |= {
            "logprobs": far["policy"],
            "old_logprobs": far["old"],
            "ref_logprobs": far["ref"],
            "engine_logprobs": far["engine"],
            "teacher_logprobs": far["teacher"],
            "entropy": self.pick((0.0, 1e-3, 1.0, 12.0), num),
            "log_collision": -self.pick((0.0, 1.0, 12.0), num),
            "forward_kl": self.pick(EXTREMES, num),
            "reverse_kl": self.pick(EXTREMES, num),
            "advantages": self.pick((0.0, 1e-3, 1.0, -1e-3, -1.0, 10.0, -10.0), num),
            "scores": 100 * self.signed(num),
            "class_logits": self.signed(3 * num).view(num, 3),
            "values": 100 * self.signed(num),
            "old_values": 100 * self.signed(num),
            "returns": 100 * self.signed(num),
            "labels": self.pick((0.0, 0.3, 1.0), num),
            "entropy_weight": self.pick((0.0, 0.01, 1.0), num),
            "retention_weight": self.pick((0.0, 0.5, 1.0, 2.0), num),
            "reward_variance": 100 * self.pick(EXTREMES, num),
            "step": torch.arange(num) % length // 3,
            "given": self.pick((0.0, 1.0), num),
            "target": torch.randint(6, (num,), generator=self.draw),
        }

    def _per_sequence(self, length: int) -> None:
        num = self.num_sequences
        sums = self.apart(num)
        self.inputs |= {
            "logprob": sums["policy"],
            "ref_logprob": sums["ref"],
            "old_logprob": sums["old"],
            "engine_logprob": sums["engine"],
            "length": torch.full((num,), float(length)),
            "completion_length": 1.0 + 43 * (torch.arange(2 * num) % 7),
            "score": 100 * self.signed(num),
            "reward": self.signed(num),
            "label": self.pick((0.0, 1.0), num),
            "class_index": torch.arange(num) % 3,
            "group": torch.arange(num) // 4,
            "kl": self.pick(EXTREMES, num),
            "shift": self.signed(num),
            "margin": self.pick(EXTREMES, num),
            "probability": self.pick((0.0, 0.5, 1.0), num),
        }
        for role in ("chosen", "rejected", "gold"):
            far = self.apart(num)
            self.inputs |= {
                role: far["policy"],
                f"ref_{role}": far["ref"],
                f"{role}_score": 100 * self.signed(num),
            }
            self.inputs |= {f"{role}_length": self.pick((1.0, float(length), 300.0), num)}
            self.inputs |= {f"{role}_forward_kl": self.pick(EXTREMES, num)}

    def _distributions(self, num: int) -> None:
        for name, width in (
            ("distribution", 6),
            ("ref_distribution", 6),
            ("teacher_distribution", 6),
        ):
            scale = self.pick((1e-3, 1.0, 30.0, 1e3), num)[:, None]
            logits = scale * torch.randn(num, width, generator=self.draw)
            self.inputs[name] = logits.log_softmax(-1)
        self.inputs["foreign_distribution"] = torch.randn(num, 9, generator=self.draw).log_softmax(
            -1
        )
        self.inputs["aligned"] = self.pick((0.0, 1.0), num)

    def run(
        self, name: str, settings: dict[str, Any], dtype: torch.dtype
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Values, and the gradients of their sum, in float64."""
        entry = registry.losses.entry(name)
        inputs = {}
        for key in entry.inputs:
            value = self.inputs[key]
            if isinstance(value, Tensor) and value.is_floating_point():
                value = value.to(dtype)
                value = value.detach().clone().requires_grad_(key in TRAINED)
            inputs[key] = value
        result = registry.losses.bind(name, settings)(*inputs.values())
        values = result[0] if isinstance(result, tuple) else result
        assert values.dtype in (dtype, torch.float32)
        values.sum().backward()
        gradients = {
            k: x.grad.double()
            for k, x in inputs.items()
            if isinstance(x, Tensor) and x.grad is not None
        }
        return values.detach().double(), gradients


CASE_IDS = [f"{name}-{i}" for i, (name, _) in enumerate(CASES_HERE)]
# Values and gradients that are compared with float64 lie below this: bounded exponentials lie above
# it.
ORDINARY = 1e12
# Two numbers beyond float32 are subtracted, and which is the larger is lost.
BEYOND = [("dpo_norm", {"divergence": "alpha", "alpha": -3.0})]


@pytest.mark.parametrize(("name", "settings"), CASES_HERE, ids=CASE_IDS)
def test_values_and_gradients_are_finite_and_those_of_float64(
    name: str, settings: dict[str, Any]
) -> None:
    """All are finite. Of those that float64 computes as ordinary numbers, nine in ten agree.

    The others lie on a kink, or where float32 cancels.
    """
    agree: list[Tensor] = []
    for seed, length in ((0, 1), (1, 5), (2, 300)):
        inputs = Extremes(seed, length)
        value, gradients = inputs.run(name, settings, torch.float32)
        exact_value, exact_gradients = inputs.run(name, settings, torch.float64)
        assert gradients.keys() == exact_gradients.keys()
        for key, exact in {"value": exact_value, **exact_gradients}.items():
            computed = value if key == "value" else gradients[key]
            assert computed.isfinite().all(), f"{key} at length {length}"
            assert exact.isfinite().all(), f"{key} in float64 at length {length}"
            ordinary = exact.abs() < ORDINARY
            error = (computed - exact).abs()[ordinary]
            agree.append(error <= 0.05 * exact.abs()[ordinary] + 2e-3)
    shares = torch.cat(agree).double()
    assert len(shares) > 20
    if (name, settings) not in BEYOND:
        assert shares.mean() >= 0.9


@pytest.mark.parametrize(("name", "settings"), CASES_HERE, ids=CASE_IDS)
def test_values_and_gradients_are_finite_in_bfloat16(name: str, settings: dict[str, Any]) -> None:
    value, gradients = Extremes(3, 5).run(name, settings, torch.bfloat16)
    for key, computed in {"value": value, **gradients}.items():
        assert computed.isfinite().all(), key


@pytest.mark.parametrize("name", ["clipped", "opsm", "clip_cov", "sapo"])
@pytest.mark.parametrize("far", [79.0, 81.0, 88.0, 90.0, 1e4])
def test_the_gradient_of_a_clipped_ratio_is_zero(name: str, far: float) -> None:
    """A positive advantage and a ratio far above its bound: the value is constant there."""
    old = torch.full((4,), -1e-3 - far)
    logprobs = torch.full((4,), -1e-3, requires_grad=True)
    inputs = {
        "logprobs": logprobs,
        "old_logprobs": old,
        "engine_logprobs": old,
        "advantages": torch.ones(4),
        "sequence": torch.arange(4),
        "num_sequences": 4,
    }
    entry = registry.losses.entry(name)
    result = registry.losses.get(name)(*(inputs[key] for key in entry.inputs))
    value = result[0] if isinstance(result, tuple) else result
    value.sum().backward()
    assert logprobs.grad is not None and logprobs.grad.tolist() == [0.0] * 4
    assert value.tolist() == pytest.approx([-4.0 if name == "sapo" else -1.2] * 4)


def test_a_long_sequence_at_the_ratio_of_its_sum_is_clipped() -> None:
    """300 tokens at +0.3 nats are 90 nats, more than float32 can exponentiate."""
    logprobs = torch.full((300,), -0.1, requires_grad=True)
    inputs = (
        logprobs,
        torch.full((300,), -0.4),
        torch.ones(300),
        torch.zeros(300, dtype=torch.long),
        1,
    )
    value, _ = registry.losses.get("clipped")(*inputs, level="sequence_sum")
    value.sum().backward()
    assert value.tolist() == pytest.approx([-1.2] * 300)
    assert logprobs.grad is not None and logprobs.grad.abs().max() == 0


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [({"divergence": "forward_kl"}, 149.0), ({"divergence": "alpha", "alpha": 0.0}, 149.0)],
)
def test_discopop_of_a_chosen_completion_that_has_lost_8_nats(
    divergence: dict[str, Any], expected: float
) -> None:
    """d = 0.05 (1 - e^8) = -149.0, m = s(d / 0.05) = 0, and so l = -log s(d) = 149.0, with the
    slope -1 in d.
    """
    chosen, zero = torch.tensor([-8.0], requires_grad=True), torch.zeros(1)
    value, _ = registry.losses.get("discopop")(chosen, zero, zero, zero, **divergence)
    value.sum().backward()
    assert value.item() == pytest.approx(expected, rel=1e-4)
    assert chosen.grad is not None and chosen.grad.item() == pytest.approx(
        -0.05 * math.exp(8), rel=1e-4
    )


def test_alphapo_at_alpha_0_is_simpo_and_nothing_jumps_on_the_way() -> None:
    chosen, rejected, length = (
        torch.tensor([-3.0, -40.0]),
        torch.tensor([-5.0, -10.0]),
        torch.tensor([4.0, 20.0]),
    )
    alphapo, simpo = (registry.losses.get(name) for name in ("alphapo", "simpo"))
    expected = simpo(chosen, rejected, length, length)[0]
    assert torch.equal(alphapo(chosen, rejected, length, length, alpha=0.0)[0], expected)
    for alpha in (1e-12, -1e-12, 1e-6, 1e-4):
        value = alphapo(chosen, rejected, length, length, alpha=alpha)[0]
        torch.testing.assert_close(value, expected, rtol=2e-3, atol=0)
    # Where the formula changes, at 1e-3, both sides agree.
    below, above = (
        alphapo(chosen, rejected, length, length, alpha=a)[0] for a in (0.999e-3, 1.001e-3)
    )
    torch.testing.assert_close(below, above, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("ipo", "beta"),
        ("cal_dpo", "beta"),
        ("sppo", "beta"),
        ("npo", "beta"),
        ("discopop", "temperature"),
    ],
)
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_divisor_that_is_not_positive_is_refused_before_weights_load(
    name: str, setting: str, value: float
) -> None:
    rule = f"{name}.*{setting} is {value}; it must be a finite number above 0"
    with pytest.raises(
        ConfigError, match=rule if math.isfinite(value) else f"{setting}: {value} is not finite"
    ):
        Objective([Component(name, {setting: value})], roles=("chosen", "rejected"))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sapo", {"temperature_positive": 0.0}),
        ("sapo", {"temperature_negative": 0.0}),
        ("awr", {"beta": 0.0}),
        ("awr_critic", {"beta": 0.0}),
        ("mipo", {"beta": 0.0}),
        ("tpo", {"beta": 0.0, "form": "ipo"}),
        ("adaptive_entropy", {"rate": -1.0}),
    ],
)
def test_settings_without_a_finite_loss_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=" is -?[01].0; it must "):
        Extremes(0, 1).run(name, settings, torch.float32)
