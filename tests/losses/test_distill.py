"""Losses of distillation against a plain float64 reference, finite differences, and every way
of cutting a batch.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from posttrain import registry
from posttrain.config import Component
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.models.logprobs import Head
from posttrain.models.vocabulary import Vocabulary
from posttrain.training.objective import Objective

V, D, FOREIGN_V, FOREIGN_D = 7, 5, 9, 4
LENGTHS = (4, 1, 6, 3)


def softmax(x: Any) -> list[float]:
    top = max(x)
    e = [math.exp(v - top) for v in x]
    return [v / sum(e) for v in e]


def flatten(p: list[float], temperature: float) -> list[float]:
    return softmax([math.log(x) / temperature for x in p])


def binned(q: list[float], p: list[float], k: int) -> tuple[list[float], list[float]]:
    if not k or k >= len(q):
        return q, p
    kept = sorted(range(len(q)), key=lambda v: -q[v])[:k]
    return tuple(
        [x[v] for v in kept] + [sum(x[v] for v in range(len(x)) if v not in kept)] for x in (q, p)
    )  # type: ignore[return-value]


def kl(a: list[float], b: list[float]) -> float:
    return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True))


def mix(a: list[float], b: list[float], share: float) -> list[float]:
    return [share * x + (1 - share) * y for x, y in zip(a, b, strict=True)]


def teacher_kl(
    t: dict[str, Any], direction: str = "forward", temperature: float = 1.0, top_k: int = 0
) -> float:
    q, p = binned(flatten(t["q"], temperature), flatten(t["p"], temperature), top_k)
    return kl(q, p) if direction == "forward" else kl(p, q)


def jsd(t: dict[str, Any], beta: float = 0.5, temperature: float = 1.0, top_k: int = 0) -> float:
    q, p = binned(flatten(t["q"], temperature), flatten(t["p"], temperature), top_k)
    if beta in (0, 1):
        return kl(q, p) if beta == 0 else kl(p, q)
    m = mix(q, p, beta)
    return beta * kl(q, m) + (1 - beta) * kl(p, m)


def skew_kl(
    t: dict[str, Any],
    alpha: float = 0.1,
    direction: str = "forward",
    temperature: float = 1.0,
    top_k: int = 0,
) -> float:
    q, p = binned(flatten(t["q"], temperature), flatten(t["p"], temperature), top_k)
    a, b = (q, p) if direction == "forward" else (p, q)
    return kl(a, mix(a, b, alpha))


def sampled_reverse_kl(t: dict[str, Any], horizon: str = "token") -> float:
    """The advantages are those of the frozen numbers, which finite differences do not move."""
    later = (
        t["frozen_rewards"][t["place"] :]
        if horizon == "sequence"
        else t["frozen_rewards"][t["place"]][None]
    )
    return -float(sum(later)) * math.log(t["p"][t["target"]])


def uld(t: dict[str, Any]) -> float:
    p, q = (sorted(x, reverse=True) for x in (t["p"], t["foreign"]))
    p += [0.0] * (len(q) - len(p))
    return t["aligned"] * sum(abs(a - b) for a, b in zip(p, q, strict=True))


def label_smoothing(t: dict[str, Any], epsilon: float = 0.1) -> float:
    smooth = [epsilon / V + (1 - epsilon) * (v == t["target"]) for v in range(V)]
    return -sum(s * math.log(p) for s, p in zip(smooth, t["p"], strict=True))


REFERENCE: dict[str, Any] = {
    f.__name__: f for f in (teacher_kl, jsd, skew_kl, sampled_reverse_kl, uld, label_smoothing)
}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("teacher_kl", {}),
    ("teacher_kl", {"direction": "reverse", "temperature": 2.0}),
    ("teacher_kl", {"top_k": 3}),
    ("teacher_kl", {"direction": "reverse", "top_k": 2}),
    ("jsd", {}),
    ("jsd", {"beta": 0.0}),
    ("jsd", {"beta": 1.0}),
    ("jsd", {"beta": 0.2, "temperature": 0.7, "top_k": 4}),
    ("jsd", {"top_k": 99}),
    ("skew_kl", {}),
    ("skew_kl", {"alpha": 0.4, "direction": "reverse"}),
    ("skew_kl", {"alpha": 0.0}),
    ("sampled_reverse_kl", {}),
    ("sampled_reverse_kl", {"horizon": "sequence"}),
    ("uld", {}),
    ("label_smoothing", {}),
    ("label_smoothing", {"epsilon": 0.3}),
]
IDS = [f"{n}-{i}" for i, (n, _) in enumerate(CASES)]


class World:
    """Hidden states of a student, a teacher and a foreign teacher for the targets of a few
    sequences, and their heads.
    """

    def __init__(self, seed: int, scale: float = 1.0) -> None:
        draw = np.random.default_rng(seed)
        self.hidden = [draw.normal(0, scale, (n, D)) for n in LENGTHS]
        self.weight = draw.normal(0, 1, (V, D))
        self.teacher = [draw.normal(0, scale, (n, D)) for n in LENGTHS]
        self.teacher_weight = draw.normal(0, 1, (V, D))
        self.foreign = [draw.normal(0, scale, (n, FOREIGN_D)) for n in LENGTHS]
        self.foreign_weight = draw.normal(0, 1, (FOREIGN_V, FOREIGN_D))
        self.target = [draw.integers(0, V, n) for n in LENGTHS]
        self.aligned = [np.arange(n) < max(1, n - 2) for n in LENGTHS]

    def sequences(self) -> list[TokenSequence]:
        """Ids that name (sequence, place), so that the rows of a target can be looked up."""
        return [
            TokenSequence(
                np.array([1, 2, *(100 * (i + 1) + np.arange(n))]), np.arange(n + 2) >= 2, row=str(i)
            )
            for i, n in enumerate(LENGTHS)
        ]

    def value(
        self, objective: Objective, trees: list[Tree], max_tokens: int | None = None
    ) -> tuple[float, list[np.ndarray]]:
        """Loss and gradients of the student's hidden states and head, as the loop forms them."""
        leaves = [torch.tensor(x, requires_grad=True) for x in [*self.hidden, self.weight]]
        totals = objective.denominators(Batch(trees))
        total = 0.0
        for micro in Batch(trees).split(max_tokens):
            places = [(int(t) // 100 - 1, int(t) % 100) for t in micro.target]
            micro.target = torch.tensor([self.target[i][j] for i, j in places])
            rows = {
                "distribution": (torch.stack([leaves[i][j] for i, j in places]), Head(leaves[-1])),
                "teacher_distribution": self._fixed(self.teacher, self.teacher_weight, places),
                "foreign_distribution": self._fixed(self.foreign, self.foreign_weight, places),
            }
            chosen = {
                n: torch.log_softmax(h @ x.weight.T, -1)
                for n, (h, x) in rows.items()
                if n != "foreign_distribution"
            }
            at = micro.target[:, None]
            outputs: dict[str, Any] = {
                "vocabulary": Vocabulary(rows, chunk_bytes=400),
                "logprobs": chosen["distribution"].gather(-1, at)[:, 0],
                "teacher_logprobs": chosen["teacher_distribution"].gather(-1, at)[:, 0],
                "aligned": torch.tensor(
                    [float(self.aligned[i][j]) for i, j in places], dtype=torch.float64
                ),
            }
            loss, _ = objective(outputs, micro, totals)
            loss.backward()
            total += float(loss.detach())
        return total, [x.grad.numpy() if x.grad is not None else np.zeros(x.shape) for x in leaves]

    @staticmethod
    def _fixed(
        rows: list[np.ndarray], weight: np.ndarray, places: list[tuple[int, int]]
    ) -> tuple[torch.Tensor, Head]:
        return torch.tensor(np.stack([rows[i][j] for i, j in places])), Head(torch.tensor(weight))

    def reference(self, name: str, settings: dict[str, Any], frozen: World) -> float:
        """The mean over all targets."""
        values = []
        for i, n in enumerate(LENGTHS):
            rewards = np.array(
                [
                    math.log(softmax(self.teacher_weight @ self.teacher[i][j])[self.target[i][j]])
                    - math.log(softmax(frozen.weight @ frozen.hidden[i][j])[self.target[i][j]])
                    for j in range(n)
                ]
            )
            for j in range(n):
                numbers = {
                    "p": softmax(self.weight @ self.hidden[i][j]),
                    "q": softmax(self.teacher_weight @ self.teacher[i][j]),
                    "foreign": softmax(self.foreign_weight @ self.foreign[i][j]),
                    "aligned": float(self.aligned[i][j]),
                    "target": self.target[i][j],
                    "frozen_rewards": rewards,
                    "place": j,
                }
                values.append(REFERENCE[name](numbers, **settings))
        return sum(values) / len(values)


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_value_and_gradient_equal_the_reference(name: str, settings: dict[str, Any]) -> None:
    for seed, scale in ((0, 1.0), (1, 0.05), (2, 2.5)):
        world = World(seed, scale)
        objective = Objective([Component(name, settings)])
        value, gradients = world.value(objective, [Tree.build([s]) for s in world.sequences()])
        assert value == pytest.approx(world.reference(name, settings, world), rel=1e-7, abs=1e-10)
        draw = np.random.default_rng(9)
        for which, gradient in enumerate(gradients):
            for _ in range(3):  # some entries of each
                index = tuple(draw.integers(0, s) for s in gradient.shape)
                ends = []
                for sign in (1, -1):
                    moved = World(seed, scale)
                    (moved.hidden[which] if which < len(LENGTHS) else moved.weight)[index] += (
                        sign * 1e-6
                    )
                    ends.append(moved.reference(name, settings, World(seed, scale)))
                assert gradient[index] == pytest.approx(
                    (ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-7
                )


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_invariance(name: str, settings: dict[str, Any]) -> None:
    """Packing, order, sharing and micro-batches change nothing."""
    world = World(3)
    sequences = world.sequences()
    objective = Objective([Component(name, settings)])
    alone = [Tree.build([s]) for s in sequences]
    value, gradients = world.value(objective, alone)
    for trees, max_tokens in (
        ([Tree.build(sequences, min_shared=1)], None),
        (alone[::-1], None),
        (alone, 7),
        (alone, 1),
    ):
        other, other_gradients = world.value(objective, trees, max_tokens)
        assert other == pytest.approx(value, rel=1e-9, abs=1e-12)
        for a, b in zip(gradients, other_gradients, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_by_hand() -> None:
    """q = (1/2, 1/2), p = (1/4, 3/4): KL(q||p) = 0.143841, KL(p||q) = 0.130812; with m = (3/8,
    5/8) the JSD is 0.033822.
    """
    q, p = torch.tensor([[0.5, 0.5]]).double().log(), torch.tensor([[0.25, 0.75]]).double().log()

    def of(name: str, **settings: Any) -> float:
        value = registry.losses.get(name)(p, q, **settings)
        return float(value[0])

    assert of("teacher_kl") == of("jsd", beta=0.0) == pytest.approx(0.1438410, abs=1e-6)
    assert (
        of("teacher_kl", direction="reverse")
        == of("jsd", beta=1.0)
        == pytest.approx(0.1308120, abs=1e-6)
    )
    assert of("jsd") == pytest.approx(0.0338221, abs=1e-6)
    # Small beta: the divergence over beta (1 - beta) nears the forward KL.
    assert of("jsd", beta=1e-6) / 1e-6 == pytest.approx(of("teacher_kl"), rel=1e-4)
    assert of("skew_kl", alpha=0.5, direction="forward") == pytest.approx(
        2 * of("jsd") - kl([0.25, 0.75], [0.375, 0.625])
    )
    distance = registry.losses.get("uld")(
        p, torch.tensor([[0.2, 0.5, 0.3]]).double().log(), torch.ones(1)
    )
    assert float(distance) == pytest.approx(0.25 + 0.05 + 0.2)  # (.75, .25, 0) against (.5, .3, .2)


def test_top_k_is_a_lower_bound_that_grows_to_the_whole() -> None:
    draw = torch.Generator().manual_seed(0)
    q, p = (
        torch.log_softmax(torch.randn(50, 12, generator=draw, dtype=torch.float64) * 2, -1)
        for _ in range(2)
    )
    loss = registry.losses.get("teacher_kl")
    values = [loss(p, q, top_k=k)[0] for k in (1, 2, 4, 8, 11)] + [loss(p, q)[0]]
    for fewer, more in itertools.pairwise(values):
        assert bool((more - fewer > -1e-12).all())
    torch.testing.assert_close(values[-2], values[-1])  # 11 tokens and a bin of one


def test_skew_and_jsd_are_bounded_where_kl_is_not() -> None:
    q, p = torch.tensor([[0.0, -300.0]]), torch.tensor([[-300.0, 0.0]], requires_grad=True)
    skew, _ = registry.losses.get("skew_kl")(p, q, alpha=0.1)
    js, _ = registry.losses.get("jsd")(p, q)
    (skew + js).sum().backward()
    assert float(skew.detach()) == pytest.approx(-math.log(0.1)) and float(
        js.detach()
    ) == pytest.approx(math.log(2))
    assert p.grad is not None and torch.isfinite(p.grad).all()


def test_the_sampled_loss_has_the_gradient_of_the_reverse_kl() -> None:
    """All outcomes weighted by their probability: horizon sequence gives the gradient of a
    two-step sequence's reverse KL.
    """
    draw = torch.Generator().manual_seed(1)
    first, second = (
        torch.randn(*s, generator=draw, dtype=torch.float64, requires_grad=True)
        for s in ((3,), (3, 3))
    )
    teacher = [
        torch.log_softmax(torch.randn(*s, generator=draw, dtype=torch.float64), -1)
        for s in ((3,), (3, 3))
    ]
    loss = registry.losses.get("sampled_reverse_kl")
    p, p2 = torch.log_softmax(first, -1), torch.log_softmax(second, -1)
    exact = sum(
        (p[a] + p2[a, b]).exp() * (p[a] + p2[a, b] - teacher[0][a] - teacher[1][a, b])
        for a in range(3)
        for b in range(3)
    )
    surrogate = torch.zeros((), dtype=torch.float64)
    for a in range(3):
        for b in range(3):
            logprobs, theirs = (
                torch.stack([p[a], p2[a, b]]),
                torch.stack([teacher[0][a], teacher[1][a, b]]),
            )
            value, _ = loss(
                logprobs, theirs, torch.zeros(2, dtype=torch.long), 1, horizon="sequence"
            )
            surrogate = surrogate + logprobs.sum().exp().detach() * value.sum()
    assert isinstance(exact, torch.Tensor)
    for x, y in zip(
        torch.autograd.grad(exact, [first, second], retain_graph=True),
        torch.autograd.grad(surrogate, [first, second]),
    ):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("name", ["teacher_kl", "jsd", "skew_kl"])
def test_no_tensor_of_all_targets_and_the_vocabulary(name: str) -> None:
    """What the loss is given, forward and backward, is a chunk: 64 targets come 4 at a time."""
    sizes: list[tuple[int, ...]] = []
    rows = {
        n: (torch.randn(64, D, requires_grad=True), Head(torch.randn(V, D)))
        for n in ("distribution", "teacher_distribution")
    }

    def watched(distribution: torch.Tensor, teacher_distribution: torch.Tensor) -> Any:
        sizes.append(tuple(distribution.shape))
        return registry.losses.get(name)(distribution, teacher_distribution)

    value, _ = Vocabulary(rows, chunk_bytes=4 * 2 * V * 4).apply(watched, tuple(rows), {})
    value.sum().backward()
    assert set(sizes) == {(4, V)} and len(sizes) == 2 * 16


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("jsd", {"beta": 1.5}, "beta is 1.5"),
        ("jsd", {"temperature": 0.0}, "temperature is 0"),
        ("teacher_kl", {"top_k": -1}, "top_k is -1"),
        ("skew_kl", {"alpha": 1.0}, "alpha is 1"),
    ],
)
def test_settings_out_of_range(name: str, settings: dict[str, Any], message: str) -> None:
    p = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=message):
        registry.losses.get(name)(p, p, **settings)
