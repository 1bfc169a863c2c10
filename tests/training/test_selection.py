"""Rows of several kinds in one batch: each term is averaged over its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from posttrain.config import Component
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.data.tree import marked
from posttrain.errors import ConfigError, DataError
from posttrain.recipe import component, parse_recipe
from posttrain.training.objective import Objective
from posttrain.yaml_reader import read_yaml

BETA = 0.1
TERMS = [
    Component("nll", {}, 0.7, "token_mean", on="texts"),
    Component("dpo", {"beta": BETA}, 1.3, on="pairs"),
    Component("reinforce", {}, 0.4, "sequence_mean", on="rollouts"),
]
ROLES = ("chosen", "rejected")
KINDS = {"texts": [3, 5, 1], "pairs": [2, 4, 3, 1], "rollouts": [4, 2, 6]}  # targets of each row


class Rows:
    """Texts, pairs and rollouts, with log-probs of a model that are looked up by token id."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self.trees: list[list[TokenSequence]] = []
        self.logprobs: dict[str, list[np.ndarray]] = {}
        self.ref: list[np.ndarray] = []
        self.advantages: list[np.ndarray] = []
        self.place: dict[int, tuple[str, int, int]] = {}
        for kind, lengths in KINDS.items():
            self.logprobs[kind] = [-np.abs(draw.normal(1, 1, n)) for n in lengths]
            rows = []
            for i, n in enumerate(lengths):
                first = 100 * (len(self.place) + 1)
                for t in range(n):
                    self.place[first + t] = (kind, i, t)
                rows.append(self._row(kind, n, first, draw))
            together = 2 if kind == "pairs" else 1
            self.trees += [rows[i : i + together] for i in range(0, len(rows), together)]

    def _row(self, kind: str, n: int, first: int, draw: np.random.Generator) -> TokenSequence:
        streams = {}
        numbers = np.float32(draw.normal(-1, 1, n))
        if kind == "pairs":
            streams["ref_logprobs"] = np.concatenate([[0, 0], numbers])
            self.ref.append(np.float64(numbers))
        elif kind == "rollouts":
            streams["advantages"] = np.concatenate([[0, 0], numbers])
            self.advantages.append(np.float64(numbers))
        ids = np.concatenate([[1, 2], first + np.arange(n)])
        row = TokenSequence(ids, np.arange(n + 2) >= 2, streams, row=f"{kind} {first}")
        return marked(row, kind)

    def expected(self) -> tuple[float, dict[str, float]]:
        """The weighted sum of separate computations, in float64."""
        nll = float(-np.concatenate(self.logprobs["texts"]).mean())
        ratios = [x.sum() - r.sum() for x, r in zip(self.logprobs["pairs"], self.ref)]
        margins = BETA * np.array([ratios[0] - ratios[1], ratios[2] - ratios[3]])
        dpo = float(np.log1p(np.exp(-margins)).mean())
        credit = [-(a * x).mean() for a, x in zip(self.advantages, self.logprobs["rollouts"])]
        parts = {"nll": nll, "dpo": dpo, "reinforce": float(np.mean(credit))}
        return 0.7 * nll + 1.3 * dpo + 0.4 * parts["reinforce"], parts


def losses_of(
    rows: Rows, order: list[int], max_tokens: int | None
) -> tuple[float, dict[str, float], np.ndarray]:
    """Loss, metrics and gradients as the loop forms them."""
    leaves = {
        kind: [torch.tensor(x, requires_grad=True) for x in some]
        for kind, some in rows.logprobs.items()
    }
    objective = Objective(TERMS, roles=ROLES, marks=KINDS, accuracy=True)
    trees = [Tree.build(rows.trees[i]) for i in order]
    batch = Batch(trees, whole=objective.whole)
    totals = objective.denominators(batch)
    value, parts = 0.0, dict.fromkeys(("nll", "dpo", "reinforce"), 0.0)
    for micro in batch.split(max_tokens):
        micro.streams = {k: v.double() for k, v in micro.streams.items()}
        places = [rows.place[int(t)] for t in micro.target]
        logprobs = torch.stack([leaves[kind][i][t] for kind, i, t in places])
        loss, metrics = objective(
            {"logprobs": logprobs, "entropy": torch.zeros_like(logprobs)}, micro, totals
        )
        loss.backward()
        value += float(loss.detach())
        for name in parts:
            parts[name] += metrics.means()[f"loss/{name}"]
    gradients = [x.grad.numpy() for some in leaves.values() for x in some]
    return value, parts, np.concatenate(gradients)


@pytest.mark.parametrize("max_tokens", [None, 25, 12, 1])
@pytest.mark.parametrize("seed", range(3))
def test_each_term_is_averaged_over_its_own_rows(seed: int, max_tokens: int | None) -> None:
    rows = Rows()
    order = np.random.default_rng(seed).permutation(len(rows.trees)).tolist()
    value, parts, gradients = losses_of(rows, order, max_tokens)
    expected, separate = rows.expected()
    assert value == pytest.approx(expected, rel=1e-12)
    for name, number in separate.items():
        assert parts[name] == pytest.approx(number, rel=1e-12)
    _, _, reference = losses_of(rows, list(range(len(rows.trees))), None)
    np.testing.assert_allclose(gradients, reference, rtol=1e-12)
    # Gradients of the texts are those of their own mean.
    np.testing.assert_allclose(gradients[:9], -0.7 / 9, rtol=1e-12)


def test_a_loss_is_refused_on_rows_that_lack_what_it_reads() -> None:
    rows = Rows()
    batch = Batch([Tree.build(tree) for tree in rows.trees])
    with pytest.raises(DataError, match="'reinforce'.*'texts 100'.*'advantages'"):
        Objective([Component("reinforce")]).denominators(batch)
    with pytest.raises(DataError, match="'simpo'.*'texts 100'.*pair"):
        Objective([Component("simpo")], roles=ROLES).denominators(batch)


def test_marks_and_terms_belong_together() -> None:
    with pytest.raises(ConfigError, match="'pairs'"):
        Objective([Component("nll", on="pars")], marks={"pairs"})
    with pytest.raises(ConfigError, match="'given'"):
        Objective([Component("nll")], marks={"given"})
    assert Objective([Component("nll", on="all")], marks={"given"}).marks == {"given"}


def test_a_recipe_names_the_targets_of_a_loss() -> None:
    (written,) = read_yaml("[{name: nll, on: given, weight: 0.1}]", "test")
    assert component(written, "losses[0]") == Component("nll", {}, 0.1, on="given")
    assert Component.of(written).on == "given"
    raw: dict[str, Any] = {"method": "sft", "model": "embedded", "data": "rows.jsonl"}
    assert parse_recipe({**raw, "losses": [written]}).losses[0].on == "given"
    with pytest.raises(ConfigError, match=r"losses\[0\].on"):
        parse_recipe({**raw, "losses": [{"name": "nll", "on": 3}]})
