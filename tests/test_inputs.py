"""The table of inputs: whole, and equal to what functions ask for and sources carry."""

from __future__ import annotations

import pytest

from posttrain import inputs, registry

CARRIED = {
    name: value
    for name, value in vars(inputs).items()
    if name.isupper() and isinstance(value, frozenset)
}


def test_each_input_is_described_and_asked_for() -> None:
    for table, functions in (
        (inputs.LOSS_INPUTS, registry.losses),
        (inputs.ADVANTAGE_INPUTS, registry.advantages),
    ):
        used = {name for entry in functions.entries().values() for name in entry.inputs}
        assert used <= table.keys()
        for name, row in table.items():
            assert row.name == name and row.meaning and row.producer


def test_carried_sets_hold_inputs_of_losses() -> None:
    assert {"IMITATED", "PAIRS", "LABELLED", "LISTS", "ROLLOUTS", "SAMPLED_PAIRS"} < CARRIED.keys()
    for names in CARRIED.values():
        assert names <= inputs.LOSS_INPUTS.keys()


@pytest.mark.parametrize(
    ("name", "base"),
    [("chosen", "logprobs"), ("ref_rejected", "ref_logprobs"), ("chosen_score", "scores")],
)
def test_an_input_of_a_role_is_computed_from_one_per_target(name: str, base: str) -> None:
    assert inputs.base_of(name, ("chosen", "rejected")) == base
    assert inputs.base_of(name, ()) is None


def test_what_is_missing() -> None:
    pair = ("chosen", "rejected")
    needs = ["chosen", "ref_rejected", "chosen_length", "margin", "gold", "label", "score"]
    assert inputs.missing_inputs(needs, inputs.PAIRS, pair) == ["gold", "label", "score"]
    assert inputs.missing_inputs(needs, inputs.PAIRS, (*pair, "gold")) == ["label", "score"]
    assert inputs.missing_inputs(["score", "label"], inputs.SCORES) == []
    assert inputs.missing_inputs(["old_logprob", "entropy"], inputs.IMITATED) == ["old_logprob"]


@pytest.mark.parametrize(
    ("loss", "carriers"),
    [
        ("nll", {"IMITATED", "PAIRS", "ROLLOUTS", "OFFLINE_REWARDS", "TEACHER"}),
        ("clipped", {"ROLLOUTS", "OFFLINE_REWARDS"}),
        ("kto", {"LABELLED"}),
        ("rrhf", {"LISTS", "ROLLOUTS", "OFFLINE_REWARDS"}),
        ("uld", {"TEACHER"}),
        ("oreo_value", {"OFFLINE_REWARDS"}),
        ("outcome", {"SCORES"}),
    ],
)
def test_losses_and_the_sources_that_carry_their_inputs(loss: str, carriers: set[str]) -> None:
    names = registry.losses.entry(loss).inputs
    sources = CARRIED.keys() - {"BATCH", "LANGUAGE_MODEL", "SCORE_MODEL"}
    able = {s for s in sources if not inputs.missing_inputs(names, CARRIED[s])}
    assert carriers <= able
    if loss != "nll":
        assert able - {"SCORES"} == carriers - {"SCORES"}
