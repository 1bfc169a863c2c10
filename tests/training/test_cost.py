"""The cost model: numbers by hand, and what must hold between layouts."""

from __future__ import annotations

import dataclasses
import math

import pytest

from posttrain.errors import ConfigError
from posttrain.training.cost import Layout, Workload, predict, rows_side_by_side
from posttrain.training.devices import Device
from posttrain.training.shapes import Shape

SHAPE = Shape(2, 8, 16, 2, 1, 4, 100)
DEVICE = Device("toy", 1e6, 1e6, 1e9, 1e3, 8, 1e2, 0.5, 0.5, 0.0)
ROWS = Workload(tokens=100, targets=50, context=0, micro_tokens=1000)


def test_training_by_hand() -> None:
    """Two layers of 2 x 8 (2 + 1) 4 + 3 x 8 x 16 = 576 weights, and a head of 800 for each target:
    3 (100 x 2 x 1152 + 50 x 2 x 800) operations at half a million per second.
    """
    assert SHAPE.matrices == 1152 and SHAPE.head == 800 and SHAPE.parameters == 1952
    cost = predict(SHAPE, ROWS, Layout(), DEVICE)
    assert cost.seconds["training"] == pytest.approx(3 * (100 * 2304 + 50 * 1600) / 5e5)
    assert cost.memory["weights"] == 2 * 1952 and cost.memory["gradients"] == 2 * 1952
    assert cost.memory["optimiser"] == (8 + 4) * 1952
    assert cost.traffic == {}


def test_float32_weights_have_no_copies() -> None:
    cost = predict(SHAPE, ROWS, Layout(weight_bytes=4), DEVICE)
    assert cost.memory["optimiser"] == 8 * 1952
    averaged = predict(SHAPE, ROWS, Layout(weight_bytes=4, average=True), DEVICE)
    assert averaged.memory["optimiser"] == 12 * 1952


def test_moments_of_every_rule() -> None:
    memory = {
        name: predict(SHAPE, ROWS, Layout(optimizer=name, weight_bytes=4), DEVICE).memory
        for name in ("adamw_8bit", "muon")
    }
    assert memory["adamw_8bit"]["optimiser"] == pytest.approx((2 + 8 / 256) * 1952)
    assert memory["muon"]["optimiser"] == pytest.approx(4 * 1152 + 8 * 800)


def test_muon_orthogonalises_whole_matrices() -> None:
    """Two layers of 8 x 8 twice, 4 x 8 twice and 8 x 16 three times; five steps each."""
    by_hand = 2 * 5 * (2 * 6 * 8**3 + 2 * (4 * 4 * 4 * 8 + 2 * 4**3) + 3 * (4 * 64 * 16 + 2 * 8**3))
    for layout in (Layout(optimizer="muon"), Layout(4, sharded=True, optimizer="muon")):
        seconds = predict(SHAPE, ROWS, layout, DEVICE).seconds["update"]
        slow = dataclasses.replace(DEVICE, bandwidth=1e30)
        assert predict(SHAPE, ROWS, layout, slow).seconds["update"] == pytest.approx(by_hand / 5e5)
        assert seconds > by_hand / 5e5


def test_sharding_divides_what_stays_and_moves_more() -> None:
    alone = predict(SHAPE, ROWS, Layout(), DEVICE)
    split = predict(SHAPE, ROWS, Layout(4, sharded=True), DEVICE)
    copied = predict(SHAPE, ROWS, Layout(4), DEVICE)
    for name in ("weights", "gradients", "optimiser"):
        assert split.memory[name] == pytest.approx(alone.memory[name] / 4)
        assert copied.memory[name] == alone.memory[name]
    assert split.memory["activations"] == pytest.approx(alone.memory["activations"] / 4)
    # Gathered twice and scattered once against a sum, which is a scatter and a gather.
    assert split.traffic["weights gathered"] == 2 * 2 * 1952 * 3 / 4
    assert split.traffic["gradients scattered"] == 2 * 1952 * 3 / 4
    assert copied.traffic["gradients summed"] == 2 * 2 * 1952 * 3 / 4
    assert sum(split.traffic.values()) > sum(copied.traffic.values())


def test_micro_batches_bound_memory_and_gather_again() -> None:
    one = predict(SHAPE, ROWS, Layout(2, sharded=True), DEVICE)
    small = dataclasses.replace(ROWS, micro_tokens=10)
    five = predict(SHAPE, small, Layout(2, sharded=True), DEVICE)
    assert five.memory["activations"] == pytest.approx(one.memory["activations"] / 5)
    assert five.traffic["weights gathered"] == pytest.approx(5 * one.traffic["weights gathered"])
    assert five.seconds["training"] == one.seconds["training"]


def test_waiting_is_what_sending_takes_beyond_computing() -> None:
    near = dataclasses.replace(DEVICE, link=math.inf)
    assert "waiting for others" not in predict(SHAPE, ROWS, Layout(8, sharded=True), near).seconds
    far = predict(SHAPE, ROWS, Layout(16, sharded=True), DEVICE)
    sent = sum(far.traffic.values()) / DEVICE.network  # more than one machine
    waited = far.seconds["waiting for others"]
    assert waited == pytest.approx(sent - far.seconds["training"])


def test_checkpointing_trades_memory_for_time() -> None:
    plain = predict(SHAPE, ROWS, Layout(), DEVICE)
    again = predict(SHAPE, ROWS, Layout(checkpointing=True), DEVICE)
    assert again.memory["activations"] < plain.memory["activations"]
    assert again.seconds["training"] == pytest.approx(plain.seconds["training"] * 4 / 3)


def test_sampling_reads_the_weights_for_every_token() -> None:
    """Ten tokens of one row, whose keys and values are small beside the weights."""
    work = dataclasses.replace(ROWS, sampled_rows=1, prompt_tokens=1, completion_tokens=10, group=1)
    fast = dataclasses.replace(DEVICE, rate=1e15)
    seconds = predict(SHAPE, work, Layout(), fast).seconds["sampling"]
    read = 2 * 1952 + (10 / 2 + 1) * SHAPE.kv_bytes(2)
    assert seconds == pytest.approx(10 * read / 5e5, rel=1e-6)


def test_rows_decode_in_waves_of_what_there_is_room_for() -> None:
    work = dataclasses.replace(
        ROWS, sampled_rows=600, prompt_tokens=8, completion_tokens=10, group=4
    )
    row = (10 + 8 / 4) * SHAPE.kv_bytes(2)
    roomy = dataclasses.replace(DEVICE, memory=1e12)
    assert rows_side_by_side(SHAPE, work, Layout(), roomy) == 256
    narrow = dataclasses.replace(DEVICE, memory=4 * 5.5 * row)
    assert rows_side_by_side(SHAPE, work, Layout(), narrow) == 5
    cost = predict(SHAPE, work, Layout(), narrow)
    assert cost.memory["keys and values"] == pytest.approx(5 * row)
    took = []
    for device in (narrow, roomy):  # reading the weights takes the time
        fast = dataclasses.replace(device, rate=1e15)
        took.append(predict(SHAPE, work, Layout(), fast).seconds["sampling"])
    assert took[0] > 2 * took[1]


def test_the_first_limit_is_named() -> None:
    small = dataclasses.replace(DEVICE, memory=1e4)
    assert predict(SHAPE, ROWS, Layout(), small).breaks_first.startswith("memory")
    assert predict(SHAPE, ROWS, Layout(), DEVICE).breaks_first.startswith("time")


def test_training_and_sampling_do_not_overlap_in_memory() -> None:
    cost = predict(SHAPE, ROWS, Layout(), DEVICE)
    memory = dict(cost.memory)
    assert cost.peak == pytest.approx(sum(memory.values()))
    sampling = dataclasses.replace(cost, memory={**memory, "keys and values": 1.0})
    assert sampling.peak == cost.peak


def test_no_devices_and_no_tokens_are_refused() -> None:
    with pytest.raises(ConfigError, match="^devices: 0"):
        predict(SHAPE, ROWS, Layout(0), DEVICE)
    with pytest.raises(ConfigError):
        predict(SHAPE, dataclasses.replace(ROWS, tokens=0), Layout(), DEVICE)
