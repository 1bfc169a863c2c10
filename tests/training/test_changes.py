from __future__ import annotations

import dataclasses

import pytest

from posttrain import registry
from posttrain.config import Recipe
from posttrain.credit_config import CreditConfig
from posttrain.errors import ConfigError
from posttrain.training.changes import RULES, check_accepted, recipe_changes, refusals, rule_of


def test_every_key_of_the_table_exists() -> None:
    known = {f.name for f in dataclasses.fields(Recipe)} | {"schedule_steps"}  # of `fit` alone
    for name in registry.methods.names():
        known |= registry.methods.entry(name).settings.keys()
    named = [key for keys in RULES.values() for key in keys]
    assert {key.split(".")[0] for key in named} <= known
    assert len(named) == len(set(named))


@pytest.mark.parametrize(
    ("key", "rule"),
    [
        ("learning_rate", "accept"),
        ("model.lora.r", "refused"),
        ("model.path", "content"),
        ("model.new_setting", "refused"),
        ("data.max_length", "content"),
        ("task.path", "content"),
        ("task.num_steps", "accept"),
        ("evaluation.task.name", "free"),
        ("credit.kl_weight", "refused"),
        ("nobody_knows", "refused"),
        ("max_steps", "length"),
        ("save_seconds", "free"),
    ],
)
def test_the_longest_key_decides(key: str, rule: str) -> None:
    assert rule_of(key) == rule


def test_changes_are_listed_and_refused_by_name() -> None:
    before = {
        "learning_rate": 1e-3,
        "losses": ["nll"],
        "model": {"path": "a", "lora": {"r": 2}},
        "title": "x",
    }
    now = {
        "learning_rate": 1e-4,
        "losses": ["dft"],
        "model": {"path": "a", "lora": {"r": 4}},
        "title": "y",
    }
    changes = recipe_changes(before, now)
    assert [c.text for c in changes] == [
        "learning_rate: 0.001 -> 0.0001",
        "losses: ['nll'] -> ['dft']",
        "model.lora.r: 2 -> 4",
        "title: x -> y",
    ]
    assert [c.name for c in refusals(changes, ())] == ["learning_rate", "losses", "model.lora.r"]
    assert [c.name for c in refusals(changes, ("learning_rate", "losses", "model.lora.r"))] == [
        "model.lora.r"
    ]
    assert recipe_changes(before, before) == []


def test_only_what_can_be_accepted_is_accepted() -> None:
    check_accepted(["learning_rate", "max_steps", "data", "weights", "plugins"])
    with pytest.raises(ConfigError, match="lerning_rate.*did you mean 'learning_rate'"):
        check_accepted(["lerning_rate"])
    with pytest.raises(ConfigError, match="seed"):
        check_accepted(["seed"])


def test_a_setting_that_is_newer_than_the_run_has_its_default() -> None:
    before = {"method": "grpo", "learning_rate": 1e-4, "credit": {"kl_weight": 0.1}}
    now = {
        **before,
        "optimizer": "adamw",
        "num_minibatches": 1,
        "credit": {**before["credit"], "rejection_max": CreditConfig().rejection_max},  # type: ignore[dict-item]
    }
    assert recipe_changes(before, now) == []
    changed = recipe_changes(before, {**now, "optimizer": "muon", "num_minibatches": 2})
    assert [c.name for c in changed] == ["num_minibatches", "optimizer"]
    assert [c.name for c in recipe_changes(now, before)] != []  # a key that is gone is a change
