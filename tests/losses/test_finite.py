"""Every registered loss at extreme log-probs and scores: float32 stays finite and agrees with float64.

A new loss is tested through its lines in the CASES of a file of tests here (see `test_coverage`).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from posttrain import registry
from posttrain.config import Component
from posttrain.data.forest import Batch, Forest, TokenSequence, Tree
from posttrain.errors import ConfigError
from posttrain.training.objective import Objective

DIVERGENCES: list[dict[str, Any]] = [
    {"divergence": "forward_kl"}, {"divergence": "js"}, {"divergence": "alpha"},
    {"divergence": "alpha", "alpha": 0.0}, {"divergence": "alpha", "alpha": 1.0},
    {"divergence": "alpha", "alpha": 1 - 1e-9}, {"divergence": "alpha", "alpha": -3.0},
]  # fmt: skip
DIVERGING = ("dpo", "robust_dpo", "dpo_norm", "ipo", "hinge_dpo", "exo", "discopop")
EDGES: list[tuple[str, dict[str, Any]]] = [
    *((name, settings) for name in DIVERGING for settings in DIVERGENCES),
    *(("alphapo", {"alpha": a}) for a in (0.0, 1e-12, 1e-6, 0.01, 1.0, -0.5)),
    *(("discopop", {"temperature": t, "divergence": d}) for t in (1.0, 2.0) for d in ("reverse_kl", "forward_kl")),
    *((name, {"level": level}) for name in ("clipped", "surrogate", "cispo", "sapo", "opsm", "kl_corrected")
      for level in ("token", "sequence")),
    *((name, {"level": level}) for name in ("clipped", "surrogate") for level in ("sequence_sum", "sequence_token")),
    ("clipped", {"clip_max": 3.0}), ("clipped", {"level": "sequence_sum", "clip_max": 3.0}),
    *(("kl_corrected", {"estimator": e}) for e in ("k1", "k2", "k3")),
    ("jsd", {"beta": 0.0}), ("jsd", {"beta": 1.0}), ("jsd", {"beta": 1e-6}),
    ("skew_kl", {"alpha": 0.0}), ("skew_kl", {"alpha": 0.999, "direction": "reverse"}),
    *((name, {"top_k": 2}) for name in ("teacher_kl", "jsd", "skew_kl")),
    *((name, {"temperature": t}) for name in ("teacher_kl", "jsd", "skew_kl") for t in (0.01, 100.0)),
]  # fmt: skip


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
    "logprobs", "entropy", "forward_kl", "reverse_kl", "scores", "values", "distribution", "logprob", "score",
    "chosen", "rejected", "gold", "chosen_score", "rejected_score", "chosen_forward_kl", "rejected_forward_kl",
}  # fmt: skip


class Extremes:
    """Inputs of every name in float32: M targets in S sequences, which are also S pairs, in two groups."""

    def __init__(self, seed: int, length: int, extremes: tuple[float, ...] = EXTREMES) -> None:
        self.extremes = extremes
        self.draw = torch.Generator().manual_seed(seed)
        self.num_sequences = 24
        self.sequence = torch.arange(self.num_sequences).repeat_interleave(length)
        num = len(self.sequence)
        self.inputs: dict[str, Any] = {"sequence": self.sequence, "num_sequences": self.num_sequences}
        self._per_target(num, length)
        self._per_sequence(length)
        self._distributions(num)

    def pick(self, choices: tuple[float, ...], num: int) -> Tensor:
        return torch.tensor(choices)[torch.randint(len(choices), (num,), generator=self.draw)]

    def signed(self, num: int) -> Tensor:
        return self.pick(self.extremes, num) * self.pick((1.0, -1.0), num)

    def apart(self, num: int, per: int = 1) -> dict[str, Tensor]:
        """Log-probs of the policy and of others, whose differences are extreme; one difference for `per` in a row."""
        differences = self.signed(num // per).repeat_interleave(per)
        policy = -1e-3 - (-differences).relu()
        others = {"policy": policy, "old": -1e-3 - differences.relu()}
        for name in ("ref", "engine", "teacher"):
            others[name] = (policy - self.signed(num)).clamp(max=0)
        return others

    def _per_target(self, num: int, length: int) -> None:
        far = self.apart(num, length)
        self.inputs |= {
            "logprobs": far["policy"], "old_logprobs": far["old"], "ref_logprobs": far["ref"],
            "engine_logprobs": far["engine"], "teacher_logprobs": far["teacher"],
            "entropy": self.pick((0.0, 1e-3, 1.0, 12.0), num), "log_collision": -self.pick((0.0, 1.0, 12.0), num),
            "forward_kl": self.pick(self.extremes, num), "reverse_kl": self.pick(self.extremes, num),
            "advantages": self.pick((0.0, 1e-3, 1.0, -1e-3, -1.0, 10.0, -10.0), num),
            "scores": 100 * self.signed(num), "values": 100 * self.signed(num), "old_values": 100 * self.signed(num),
            "returns": 100 * self.signed(num), "labels": self.pick((0.0, 0.3, 1.0), num),
            "entropy_weight": self.pick((0.0, 0.01, 1.0), num), "reward_variance": 100 * self.pick(self.extremes, num),
            "step": torch.arange(num) % length // 3, "given": self.pick((0.0, 1.0), num),
            "target": torch.randint(6, (num,), generator=self.draw),
        }  # fmt: skip

    def _per_sequence(self, length: int) -> None:
        num = self.num_sequences
        sums = self.apart(num)
        self.inputs |= {
            "logprob": sums["policy"], "ref_logprob": sums["ref"], "old_logprob": sums["old"],
            "engine_logprob": sums["engine"], "length": torch.full((num,), float(length)),
            "score": 100 * self.signed(num), "reward": self.signed(num), "label": self.pick((0.0, 1.0), num),
            "group": torch.arange(num) // 4, "kl": self.pick(self.extremes, num), "shift": self.signed(num),
            "margin": self.pick(self.extremes, num), "probability": self.pick((0.0, 0.5, 1.0), num),
        }  # fmt: skip
        for role in ("chosen", "rejected", "gold"):
            far = self.apart(num)
            self.inputs |= {role: far["policy"], f"ref_{role}": far["ref"], f"{role}_score": 100 * self.signed(num)}
            self.inputs |= {f"{role}_length": self.pick((1.0, float(length), 300.0), num)}
            self.inputs |= {f"{role}_forward_kl": self.pick(self.extremes, num)}

    def _distributions(self, num: int) -> None:
        for name, width in (("distribution", 6), ("ref_distribution", 6), ("teacher_distribution", 6)):
            scale = self.pick((1e-3, 1.0, 30.0, 1e3), num)[:, None]
            logits = scale * torch.randn(num, width, generator=self.draw)
            self.inputs[name] = logits.log_softmax(-1)
        self.inputs["foreign_distribution"] = torch.randn(num, 9, generator=self.draw).log_softmax(-1)
        self.inputs["aligned"] = self.pick((0.0, 1.0), num)

    def run(self, name: str, settings: dict[str, Any], dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
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
        values.sum().backward()
        gradients = {k: x.grad.double() for k, x in inputs.items() if isinstance(x, Tensor) and x.grad is not None}
        return values.detach().double(), gradients


IDS = [f"{name}-{i}" for i, (name, _) in enumerate(CASES_HERE)]


def test_every_loss_stands_here() -> None:
    assert {name for name, _ in CASES_HERE} == set(registry.losses.names())


@pytest.mark.parametrize(("name", "settings"), CASES_HERE, ids=IDS)
def test_values_and_gradients_stay_finite(name: str, settings: dict[str, Any]) -> None:
    """Log-ratios up to 10,000 nats a token, scores and values up to a million."""
    for dtype, length in ((torch.float32, 1), (torch.float32, 40), (torch.bfloat16, 1)):
        values, gradients = Extremes(0, length).run(name, settings, dtype)
        assert values.isfinite().all()
        assert gradients
        for key, gradient in gradients.items():
            assert gradient.isfinite().all(), key


@pytest.mark.parametrize(("name", "settings"), CASES_HERE, ids=IDS)
def test_float32_agrees_with_float64(name: str, settings: dict[str, Any]) -> None:
    """Up to 20 nats, where nothing overflows: what keeps extremes finite leaves the rest alone."""
    if settings.get("temperature") == 0.01 or name == "aot_unpaired":
        pytest.skip("divides by a hundredth, which magnifies rounding; or sorts numbers that tie")
    extremes = Extremes(1, 4, (0.01, 0.3, 1.0, 3.0, 8.0, 20.0))
    values, gradients = extremes.run(name, settings, torch.float32)
    exact, exact_gradients = extremes.run(name, settings, torch.float64)
    torch.testing.assert_close(values, exact, rtol=0.01, atol=0.01 + 1e-6 * float(exact.abs().max()))
    for key, gradient in gradients.items():
        room = 1e-3 + 1e-6 * float(exact_gradients[key].abs().max())
        torch.testing.assert_close(gradient, exact_gradients[key], rtol=0.01, atol=room, msg=lambda m, k=key: f"{k}: {m}")


def gradient_of(name: str, at: float, advantage: float, **settings: Any) -> tuple[float, float]:
    """Value and gradient of a token whose log-ratio to the policy that sampled it is `at`."""
    logprobs = torch.tensor([-1e-3 + min(at, 0.0)], requires_grad=True)
    inputs = {
        "logprobs": logprobs, "old_logprobs": logprobs.detach() - at, "engine_logprobs": logprobs.detach() - at,
        "advantages": torch.tensor([advantage]), "sequence": torch.tensor([0]), "num_sequences": 1,
    }  # fmt: skip
    entry = registry.losses.entry(name)
    result = registry.losses.bind(name, settings)(*(inputs[i] for i in entry.inputs))
    value = result[0] if isinstance(result, tuple) else result
    value.sum().backward()
    assert logprobs.grad is not None
    return float(value.detach()), float(logprobs.grad)


@pytest.mark.parametrize("at", [5.0, 80.0, 89.0, 200.0, 1e4])
@pytest.mark.parametrize("name", ["clipped", "opsm", "sapo"])
def test_a_clipped_ratio_has_gradient_zero_however_large(name: str, at: float) -> None:
    value, gradient = gradient_of(name, at, 1.0)
    assert gradient == pytest.approx(0.0, abs=1e-20)
    assert value == pytest.approx(-4.0 if name == "sapo" else -1.2, rel=1e-6)


def test_a_long_sequence_at_the_level_of_sequences() -> None:
    """300 tokens at +0.3 nats are a log-ratio of 90, above what float32 can exponentiate."""
    num = 300
    ids = torch.arange(num + 1).numpy()
    streams = {"advantages": (ids > 0) * 1.0, "old_logprobs": (ids > 0) * -0.8}
    sequence = TokenSequence(ids, ids > 0, streams, row="0")
    goal = Objective([Component("clipped", {"level": "sequence_sum"}, 1.0, "sequence_sum")])
    batch = Batch([Tree.build([sequence])])
    logprobs = torch.full((num,), -0.5, requires_grad=True)
    outputs = {"logprobs": logprobs, "entropy": torch.zeros(num)}
    loss, _ = goal(outputs, Forest.pack(batch.trees), goal.denominators(batch))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-1.2 * num, rel=1e-6)
    assert logprobs.grad is not None and not logprobs.grad.any()


@pytest.mark.parametrize("lost", [1.0, 8.0, 20.0, 90.0])
def test_discopop_under_forward_kl_where_a_completion_lost_its_probability(lost: float) -> None:
    """d = -0.05 (e^lost - 1), far below zero: l = -log s(d) = -d, 149 at 8 nats."""
    chosen = torch.tensor([-lost], requires_grad=True)
    zero = torch.zeros(1)
    value, _ = registry.losses.get("discopop")(chosen, zero, zero, zero, divergence="forward_kl")
    value.sum().backward()
    assert value.isfinite().all() and chosen.grad is not None and chosen.grad.isfinite().all()
    if 8 <= lost < 80:
        d = 0.05 * torch.tensor(lost).double().expm1()
        assert float(value.detach()) == pytest.approx(float(d), rel=1e-5)
        assert float(chosen.grad) == pytest.approx(-float(d + 0.05), rel=1e-5)


def test_alphapo_with_alpha_zero_is_simpo() -> None:
    chosen, rejected = torch.tensor([-20.0, -3.0]), torch.tensor([-30.0, -1.0])
    lengths = (torch.tensor([5.0, 3.0]), torch.tensor([4.0, 7.0]))
    simpo, _ = registry.losses.get("simpo")(chosen, rejected, *lengths)
    for alpha in (0.0, 1e-9, -1e-9):
        alphapo, _ = registry.losses.get("alphapo")(chosen, rejected, *lengths, alpha=alpha)
        torch.testing.assert_close(alphapo, simpo, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sapo", {"temperature_positive": 0.0}, "temperature_positive is 0.0; it must be above 0"),
        ("awr", {"beta": 0.0}, "beta is 0.0; it must be above 0"),
        ("adaptive_entropy", {"rate": -1.0}, "rate is -1.0; it must not be negative"),
        ("ipo", {"beta": 0.0}, "a setting of 0 divides by zero"),
    ],
)
def test_settings_that_divide_by_zero_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    roles = ("chosen", "rejected") if name == "ipo" else ()
    with pytest.raises(ConfigError, match=message):
        Objective([Component(name, settings)], roles=roles)
