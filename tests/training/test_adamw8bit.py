"""AdamW with moments of one byte: codes by hand, updates beside a plain reference in float64."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from posttrain.training.adamw8bit import BLOCK, MIN_SIZE, AdamW8bit, Quantizer, dynamic_codes
from posttrain.training.update_rules import state_bytes


@pytest.mark.parametrize("signed", [True, False])
def test_codes_fill_a_byte_and_rise(signed: bool) -> None:
    codes = dynamic_codes(signed=signed)
    assert len(codes) == 256 and bool((codes.diff() > 0).all())
    assert float(codes.max()) == 1.0 and 0.0 in codes.tolist()
    assert float(codes.min()) < 0 if signed else float(codes.min()) == 0


def test_codes_by_hand() -> None:
    """Six leading zeros leave one step of [0.1, 1], whose centre is 0.55; five leave two, with
    centres 0.325 and 0.775.
    """
    codes = dynamic_codes(signed=True)
    positive = codes[codes > 0].tolist()
    assert positive[:3] == pytest.approx([0.55e-6, 0.325e-5, 0.775e-5])
    assert dynamic_codes(signed=False)[1:3].tolist() == pytest.approx([0.325e-6, 0.775e-6])


def test_the_nearest_code_is_taken() -> None:
    torch.manual_seed(0)
    values = torch.randn(3 * BLOCK + 5, dtype=torch.float64) * 10 ** torch.randn(3 * BLOCK + 5)
    quantizer = Quantizer.on(values.device, values.dtype, signed=True)
    codes, scales = quantizer.encode(values)
    decoded = quantizer.decode(codes, scales)
    table = dynamic_codes(signed=True).numpy()
    for start in range(0, len(values), BLOCK):
        block = values[start : start + BLOCK].numpy()
        scale = np.abs(block).max()
        nearest = np.abs(block[:, None] / scale - table).min(1)
        distance = np.abs(block - decoded[start : start + BLOCK].numpy()) / scale
        np.testing.assert_allclose(distance, nearest, atol=1e-12)


def test_a_block_of_zeros_stays_zero() -> None:
    quantizer = Quantizer.on(torch.device("cpu"), torch.float32, signed=False)
    assert not quantizer.decode(*quantizer.encode(torch.zeros(300))).any()


def quantized(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Each block of values by its nearest codes, in plain NumPy."""
    result = np.zeros_like(values)
    for start in range(0, len(values), BLOCK):
        block = values[start : start + BLOCK]
        scale = np.abs(block).max()
        if scale > 0:
            nearest = np.abs(block[:, None] / scale - table).argmin(1)
            result[start : start + BLOCK] = table[nearest] * scale
    return result


def test_updates_beside_a_plain_reference() -> None:
    """Ten steps in float64 with blocks whose gradients differ by orders of magnitude."""
    draw = np.random.default_rng(0)
    count, rate, decay, (beta1, beta2), epsilon = MIN_SIZE + 100, 0.1, 0.01, (0.9, 0.99), 1e-8
    size = 10 ** draw.uniform(-3, 1, count)
    values = draw.standard_normal(count)
    parameter = nn.Parameter(torch.from_numpy(values.copy()))
    ours = AdamW8bit([parameter], lr=rate, betas=(beta1, beta2), eps=epsilon, weight_decay=decay)
    tables = [dynamic_codes(signed=signed).numpy() for signed in (True, False)]
    mean, root = np.zeros(count), np.zeros(count)
    for step in range(1, 11):
        gradient = draw.standard_normal(count) * size
        parameter.grad = torch.from_numpy(gradient.copy())
        ours.step()
        mean = beta1 * mean + (1 - beta1) * gradient
        root = np.sqrt(beta2 * root**2 + (1 - beta2) * gradient**2)
        scaled = root / math.sqrt(1 - beta2**step) + epsilon
        values = values * (1 - rate * decay) - rate / (1 - beta1**step) * mean / scaled
        mean, root = quantized(mean, tables[0]), quantized(root, tables[1])
    np.testing.assert_allclose(parameter.detach().numpy(), values, rtol=0, atol=1e-9)


def test_small_parameters_are_plain_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(MIN_SIZE - 1, dtype=torch.float64)) for _ in range(2))
    rules = AdamW8bit([ours], lr=0.1), torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.0)
    for _ in range(5):
        ours.grad = torch.randn_like(ours)
        theirs.grad = ours.grad.clone()
        for rule in rules:
            rule.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_it_follows_adamw_on_a_least_squares_problem() -> None:
    """The loss falls as AdamW's does: within a tenth after 200 steps, from 1."""
    torch.manual_seed(0)
    matrix, target = torch.randn(256, 64), torch.randn(256, 64)
    losses = []
    for make in (AdamW8bit, torch.optim.AdamW):
        weight = nn.Parameter(torch.zeros(64, 64))
        rule = make([weight], lr=0.01, weight_decay=0.0)
        for _ in range(200):
            loss = (matrix @ weight - target).square().mean()
            weight.grad = torch.autograd.grad(loss, weight)[0]
            rule.step()
        losses.append(float(loss))
    assert losses[0] == pytest.approx(losses[1], rel=0.01) and losses[1] < 0.8


def test_a_parameter_without_gradient_is_not_thrown_far() -> None:
    """A weight whose gradients stop beside others that have some moves no further than a few
    rates: sqrt(v) is not rounded to 0 before m is.
    """
    weight = nn.Parameter(torch.zeros(MIN_SIZE))
    rule = AdamW8bit([weight], lr=0.01)
    for step in range(300):
        gradient = torch.ones(MIN_SIZE)
        gradient[::2] = 1e-4 if step < 20 else 0.0
        weight.grad = gradient
        before = weight.detach().clone()
        rule.step()
        assert float((weight.detach() - before).abs().max()) < 0.05


def test_states_are_bytes_and_come_back_as_bytes() -> None:
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(100, 100)) for _ in range(2)]
    rules = [AdamW8bit([weight], lr=0.1) for weight in weights]

    def step(number: int) -> None:
        weights[number].grad = torch.randn(100, 100)
        rules[number].step()

    step(0)
    blocks = math.ceil(10_000 / BLOCK)
    assert state_bytes(rules[0]) == 2 * 10_000 + 2 * 4 * blocks
    with torch.no_grad():
        weights[1].copy_(weights[0])
    rules[1].load_state_dict(copy.deepcopy(rules[0].state_dict()))
    assert rules[1].state[weights[1]]["mean_codes"].dtype == torch.uint8
    for number in range(2):
        torch.manual_seed(1)
        step(number)
    assert torch.equal(weights[0], weights[1])


def test_a_closure_is_refused() -> None:
    with pytest.raises(TypeError):
        AdamW8bit([nn.Parameter(torch.zeros(2))]).step(lambda: 0.0)
