from __future__ import annotations

import numpy as np
import pytest
import torch

from posttrain.engines.sampling import (
    RowSettings,
    choose,
    row_keys,
    top_logprobs,
    truncate,
    uniforms,
)
from posttrain.types import Sampling

CPU = torch.device("cpu")


def many(
    logits: list[float], count: int, **settings: float
) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """Counts of the tokens drawn from one distribution, and their log-probs."""
    rows = torch.tensor([logits]).expand(count, -1).contiguous()
    keys = row_keys(np.full(count, 7), np.arange(count))
    config = RowSettings.of([Sampling(**settings)] * count, CPU)  # type: ignore[arg-type]
    tokens, sampled, raw = choose(rows, config, torch.from_numpy(uniforms(keys, 3)))
    return np.bincount(tokens.numpy(), minlength=len(logits)), sampled, raw


def chi_square(counts: np.ndarray, probs: np.ndarray) -> float:
    expected = counts.sum() * probs
    assert not counts[probs == 0].any()
    return float(((counts - expected)[probs > 0] ** 2 / expected[probs > 0]).sum())


# 99.9 % quantiles of chi-square with 1 to 4 degrees of freedom
QUANTILE = {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47}
PROBS = np.array([0.5, 0.25, 0.15, 0.07, 0.03])
LOGITS = np.log(PROBS).tolist()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, PROBS),
        ({"temperature": 2.0}, PROBS**0.5 / (PROBS**0.5).sum()),
        ({"top_k": 2}, np.array([2 / 3, 1 / 3, 0, 0, 0])),
        ({"top_p": 0.75}, np.array([2 / 3, 1 / 3, 0, 0, 0])),  # 0.5 + 0.25 reaches 0.75 exactly
        ({"top_p": 0.76}, np.array([0.5, 0.25, 0.15, 0, 0]) / 0.9),
        ({"min_p": 0.3}, np.array([0.5, 0.25, 0.15, 0, 0]) / 0.9),  # at least 0.15
        (
            {"top_k": 3, "top_p": 0.6},
            np.array([2 / 3, 1 / 3, 0, 0, 0]),
        ),  # top-p of (.556, .278, .167)
    ],
)
def test_draws_follow_the_distribution(settings: dict[str, float], expected: np.ndarray) -> None:
    counts, sampled, raw = many(LOGITS, 20_000, **settings)
    assert chi_square(counts, expected) < QUANTILE[int((expected > 0).sum()) - 1]
    seen = torch.unique(sampled).exp().sum()
    assert float(seen) == pytest.approx(
        1.0, abs=1e-5
    )  # the sampled distribution adds up over its support
    assert all(np.abs(PROBS - p).min() < 1e-6 for p in torch.unique(raw.exp()).tolist())


@pytest.mark.parametrize("vocab", [5, 64, 100, 300])
@pytest.mark.parametrize("temperatures", [(1.0,), (0.0,), (0.5, 1.0, 0.0, 3.0)])
def test_blocks_and_layouts_of_memory_change_nothing(
    vocab: int, temperatures: tuple[float, ...]
) -> None:
    """Against the inverse distribution function over the whole vocabulary in float64."""
    torch.manual_seed(0)
    rows = 64
    logits = torch.randn(rows, vocab) * 2
    each = [temperatures[i % len(temperatures)] for i in range(rows)]
    config = RowSettings.of([Sampling(temperature=t) for t in each], CPU)
    draws = torch.rand(rows, dtype=torch.float64)
    tokens, sampled, raw = choose(logits, config, draws)
    for row in range(rows):
        exact = logits[row].double().log_softmax(-1)
        heated = exact if each[row] == 0 else (logits[row].double() / each[row]).log_softmax(-1)
        expected = (
            int(logits[row].argmax())
            if each[row] == 0
            else int((heated.exp().cumsum(-1) <= draws[row]).sum())
        )
        assert int(tokens[row]) == expected
        assert float(sampled[row]) == pytest.approx(float(heated[expected]), abs=2e-6)
        assert float(raw[row]) == pytest.approx(float(exact[expected]), abs=2e-6)
    by_columns = choose(logits.t().contiguous().t(), config, draws)
    assert torch.equal(by_columns[0], tokens)
    torch.testing.assert_close(by_columns[1:], (sampled, raw), atol=1e-6, rtol=0)


def test_greedy_takes_the_first_maximum_and_raw_logprobs() -> None:
    counts, sampled, raw = many([0.0, 3.0, 3.0], 5, temperature=0.0)
    assert counts.tolist() == [0, 5, 0]
    assert torch.equal(sampled, raw)


def test_settings_may_differ_by_row() -> None:
    logits = torch.tensor([LOGITS] * 3)
    config = RowSettings.of(
        [Sampling(temperature=0.0), Sampling(top_k=1), Sampling(top_p=1.0)], CPU
    )
    tokens, sampled, raw = choose(
        logits, config, torch.tensor([0.99, 0.99, 0.99], dtype=torch.float64)
    )
    assert tokens.tolist() == [0, 0, 4]
    assert sampled.exp().tolist() == pytest.approx([0.5, 1.0, 0.03], rel=1e-5)
    assert raw.exp().tolist() == pytest.approx([0.5, 0.5, 0.03], rel=1e-5)


def test_truncation_by_hand_keeps_the_most_likely() -> None:
    logits = torch.tensor([LOGITS])
    kept = truncate(logits, torch.tensor([0]), torch.tensor([1e-9]), torch.tensor([0.0]))
    assert torch.isfinite(kept).tolist() == [[True, False, False, False, False]]
    kept = truncate(logits, torch.tensor([99]), torch.tensor([1.0]), torch.tensor([0.0]))
    assert torch.equal(kept, logits)


def test_extreme_draws_stay_inside() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 0.0, -torch.inf]] * 2)
    config = RowSettings.of([Sampling()] * 2, CPU)
    tokens, _, _ = choose(logits, config, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert tokens.tolist() == [0, 2]


def test_uniform_numbers_look_uniform_and_independent() -> None:
    keys = row_keys(np.arange(2000), np.zeros(2000, dtype=int))
    table = np.stack([uniforms(keys, step) for step in range(20)])
    assert table.min() >= 0 and table.max() < 1
    counts = np.histogram(table, bins=20, range=(0, 1))[0]
    assert (
        (counts - table.size / 20) ** 2 / (table.size / 20)
    ).sum() < 43.8  # 99.9 % quantile, 19 degrees
    assert abs(np.corrcoef(table[0], table[1])[0, 1]) < 0.08
    assert abs(np.corrcoef(table[:, :-1].ravel(), table[:, 1:].ravel())[0, 1]) < 0.02
    assert len(np.unique(row_keys(np.arange(50).repeat(50), np.tile(np.arange(50), 50)))) == 2500


def test_the_likeliest_ids_and_ties_by_id() -> None:
    logits = torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.2, 0.7]]).log() + 3.0
    first, second = top_logprobs(logits, 3)
    assert [i for i, _ in first] == [1, 0, 2] and [i for i, _ in second] == [2, 1, 0]
    assert [x for _, x in first] == pytest.approx(np.log([0.5, 0.25, 0.25]).tolist())
    assert len(top_logprobs(logits, 1)[0]) == 1
