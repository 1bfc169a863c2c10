"""A reference that is cached, that moves, or that judges which pairs are likely: whole runs on
a tiny model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import stopped_and_resumed, tiny_model, told, weights, write

from posttrain.config import AdapterConfig, LoraConfig
from posttrain.data.comparisons import encode_pairs
from posttrain.data.forest import Forest, Tree
from posttrain.errors import ConfigError, ModelError
from posttrain.models.load import load_model
from posttrain.training.reference import fingerprint

ROWS = [
    {"prompt": f"Q: {a}+{b}\nA:", "chosen": f" {a + b}", "rejected": f" {a + b + 1 + a % 2}"}
    for a in range(6)
    for b in range(4)
]
RAW: dict[str, Any] = {"method": "dpo", "batch_size": 8, "max_steps": 4, "learning_rate": 1e-3}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "reference"


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_cached_run_is_the_run_with_a_reference_in_memory(
    run_recipe: Callable[..., Path],
    tmp_path: Path,
    tiny_folder: Path,
    lora: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = write(tmp_path / "pairs.jsonl", ROWS)
    model = tiny_model(tiny_folder, {"r": 2} if lora else None)
    raw = {**RAW, "model": model, "data": data, "eval_data": data}
    kept = run_recipe(**raw, output=str(tmp_path / "kept"))
    from posttrain.models.language_model import LanguageModel

    def refuse(self: Any) -> None:
        raise AssertionError("a reference was kept in memory")

    monkeypatch.setattr(LanguageModel, "enable_reference", refuse)
    whole, half = stopped_and_resumed(run_recipe, tmp_path, 2, **raw, cache_reference=True)
    assert weights(whole) == weights(half) and told(whole) == told(half)
    for a, b in zip(told(kept), told(whole), strict=True):
        assert (
            a["eval_loss"] == pytest.approx(b["eval_loss"], abs=1e-5) if "eval_loss" in a else True
        )
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5) if "loss" in a else True
    console = (tmp_path / "console.txt").read_text()
    assert (
        "0 sequences found, 96 computed" in console and "96 sequences found, 0 computed" in console
    )


@pytest.mark.parametrize(("lora", "mix"), [(False, 0.6), (True, 1.0)], ids=["full", "lora"])
def test_a_moving_reference_resumes_exactly(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path, lora: bool, mix: float
) -> None:
    data = write(tmp_path / "pairs.jsonl", ROWS)
    model = tiny_model(tiny_folder, {"r": 2} if lora else None)
    raw = {**RAW, "model": model, "data": data, "reference_mix": mix}
    whole, half = stopped_and_resumed(run_recipe, tmp_path, 3, **raw, reference_every=2)
    assert (half / "checkpoint-4" / "reference.safetensors").is_file()
    assert weights(whole) == weights(half) and told(whole) == told(half)
    still = run_recipe(**raw, output=str(tmp_path / "still"))
    assert told(still)[1] == told(whole)[1] and told(still)[2]["loss"] != told(whole)[2]["loss"]


def test_the_reference_moves_as_it_is_told(tiny_folder: Path) -> None:
    model = load_model(str(tiny_folder), dtype="float32", reference=True)
    name, parameter = next(iter(model.hf.named_parameters()))
    start = parameter.detach().clone()
    with torch.no_grad():
        parameter.add_(1.0)
    model.update_reference(0.25)
    with model.reference():
        assert torch.allclose(model.pretrained.get_parameter(name), start + 0.25)
    model.update_reference()
    with model.reference():
        assert torch.equal(model.pretrained.get_parameter(name), parameter)
    lora = load_model(str(tiny_folder), lora=LoraConfig(r=2))
    with pytest.raises(ModelError, match="frozen copy"):
        lora.update_reference(0.5)
    lora.update_reference()
    trained = {n for n, p in lora.hf.named_parameters() if p.requires_grad}
    with lora.reference():
        shared = dict(lora._active.hf.named_parameters())
    for name, p in lora.hf.named_parameters():
        assert (shared[name] is p) != (name in trained)  # the base is shared, adapters are copied


def test_adapters_that_were_trained_before_belong_to_the_reference(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    """Pairs after fine-tuning with LoRA: the reference is the fine-tuned model, not the one
    beneath its adapters.
    """
    lora = {"path": str(tiny_folder), "dtype": "float32", "lora": {"r": 2}}
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in ROWS]
    first = run_recipe(
        method="sft",
        model=lora,
        data=write(tmp_path / "s.jsonl", rows),
        max_steps=3,
        learning_rate=1e-2,
        output=str(tmp_path / "first"),
    )
    data = write(tmp_path / "pairs.jsonl", ROWS)
    raw = {**RAW, "model": {"path": str(first / "model"), "dtype": "float32"}, "data": data}
    whole, half = stopped_and_resumed(run_recipe, tmp_path, 2, **raw)
    assert (
        told(whole)[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
        and told(whole)[0]["rewards/margins"] == 0
    )
    assert weights(whole) == weights(half) and told(whole) == told(half)
    cached = run_recipe(**raw, output=str(tmp_path / "cached"), cache_reference=True)
    assert told(cached)[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
    base, tuned = (
        load_model(str(tiny_folder), dtype="float32"),
        load_model(first / "model", dtype="float32"),
    )
    assert fingerprint(base) != fingerprint(tuned)


def test_a_moved_reference_has_virtual_tokens_of_its_own(
    tiny_folder: Path, tiny_tokenizer: Any
) -> None:
    model = load_model(str(tiny_folder), dtype="float32", adapter=AdapterConfig(kind="prompt"))
    model.update_reference()
    pair = encode_pairs(ROWS[:1], tiny_tokenizer).groups[0]
    forest, needs = Forest.pack([Tree.build(pair)]), ("logprobs", "ref_logprobs")
    found = model.forward(forest, needs)
    assert torch.equal(found["ref_logprobs"], found["logprobs"].detach())
    with torch.no_grad():
        for p in model.trainable_parameters():
            p.add_(1.0)
    after = model.forward(forest, needs)
    assert torch.equal(after["ref_logprobs"], found["ref_logprobs"])
    assert not torch.equal(after["logprobs"], after["ref_logprobs"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"losses": ["simpo"], "cache_reference": True},
            "cache_reference: ",
        ),
        ({"losses": ["simpo"], "reference_every": 2}, "reference_every: "),
        (
            {"cache_reference": True, "reference_every": 2},
            "cache_reference|reference_every",
        ),
        ({"losses": ["tdpo"], "cache_reference": True}, "cache_reference.*distributions"),
        ({"reference_every": 2, "reference_mix": 0.0}, "reference_mix: 0.0"),
        (
            {"reference_every": 2, "model": {"path": "embedded", "lora": {"r": 2}}},
            "reference_mix.*set it to 1",
        ),
        ({"losses": ["odpo"]}, "'odpo'.*margin"),
        (
            {"losses": ["bradley_terry"]},
            "'bradley_terry'.*'chosen_score'",
        ),
        (
            {"losses": ["teacher_kl"]},
            "'teacher_kl'.*'teacher_distribution'",
        ),
        (
            {"losses": [{"name": "robust_dpo", "label_smoothing": 0.5}]},
            "'robust_dpo'.*label_smoothing",
        ),
        (
            {"losses": [{"name": "exo", "label_smoothing": 0.0}]},
            "'exo'.*label_smoothing",
        ),
        (
            {"reference_every": 2, "model": {"path": "embedded", "adapter": {"kind": "ia3"}}},
            "reference_mix",
        ),
        ({"losses": ["kto"]}, "'kto'.*'kl'"),
        ({"losses": ["tpo", "gold_nll"]}, "'gold_nll'.*reference"),
        ({"tail_weight": 2.0}, "tail_weight: 2.0"),
        (
            {"losses": ["aot"], "on_policy_weight": True},
            "'aot'",
        ),
        ({"perplexity_percentile": 100.0}, "perplexity_percentile: 100.0"),
    ],
)
def test_what_cannot_work_is_refused_before_weights_load(
    run_recipe: Callable[..., Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_recipe(**{**RAW, "data": write(tmp_path / "pairs.jsonl", ROWS), **change})
    assert not (tmp_path / "run").exists()


def test_adapters_that_are_trained_on_are_not_mixed(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    load_model(tiny_folder, lora=LoraConfig(r=2)).save(tmp_path / "adapters")
    raw = {
        **RAW,
        "data": write(tmp_path / "pairs.jsonl", ROWS),
        "model": {"path": str(tmp_path / "adapters")},
    }
    with pytest.raises(ConfigError, match="reference_mix.*set it to 1"):
        run_recipe(**raw, reference_every=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"losses": ["aot"]},
        {"losses": [{"name": "tdpo", "version": 1}]},
        {"losses": ["tdpo"]},
        {"on_policy_weight": True},
        {"tail_weight": 0.5},
        {"losses": ["tpo", "gold_nll"]},
    ],
    ids=["aot", "tdpo1", "tdpo2", "wpo", "ld-dpo", "tpo"],
)
def test_they_run_and_prefer_the_chosen(
    run_recipe: Callable[..., Path], tmp_path: Path, change: dict[str, Any]
) -> None:
    rows = (
        [{**r, "reference": r["chosen"] + "!"} for r in ROWS]
        if "gold_nll" in change.get("losses", [])
        else ROWS
    )
    data = write(tmp_path / "pairs.jsonl", rows)
    folder = run_recipe(
        **{**RAW, "data": data, "eval_data": data, "batch_size": 24, "max_steps": 12, **change}
    )
    start, end = told(folder)[0], told(folder)[-1]
    assert (
        end["eval_loss"] < start["eval_loss"]
        and end["eval_rewards/margins"] > start["eval_rewards/margins"]
    )
    assert load_file(folder / "model" / "model.safetensors")
