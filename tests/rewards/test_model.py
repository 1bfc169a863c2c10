"""Rewards that models give: as transformers computes them, aggregated, of several, and implied
by a policy.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from posttrain.errors import ConfigError, ModelError
from posttrain.models.load import load_model, load_score_model
from posttrain.rewards.base import RewardSet
from posttrain.rewards.model import (
    RewardModel,
    combined,
    process_model,
    reward_model,
)
from posttrain.types import Example, Sample, Trace, TraceGroup

PROMPTS = ["Q: 3+4\nA:", "Q: 3+4\nA:", "Q: 9-2\nA:"]
COMPLETIONS = [" 3+4=7\n#### 7", " 8", ""]


@pytest.fixture(scope="module")
def folders(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Score models with random heads, and a policy that differs from the tiny model."""
    made = {}
    for number, per in enumerate(("sequence", "token", "other")):
        model = load_score_model(tiny_folder, per="token" if per == "token" else "sequence")
        with torch.no_grad():
            model.score_head.weight.normal_(generator=torch.Generator().manual_seed(number))
        made[per] = tmp_path_factory.mktemp(per)
        model.save(made[per])
    policy = load_model(tiny_folder)
    with torch.no_grad():
        for p in policy.hf.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    made["policy"] = tmp_path_factory.mktemp("policy")
    policy.save(made["policy"])
    return made


def ids_of(tokenizer: Any, prompt: str, completion: str) -> list[int]:
    return [
        *tokenizer(prompt)["input_ids"],
        *tokenizer(completion, add_special_tokens=False)["input_ids"],
        tokenizer.eos_token_id,
    ]


def test_scores_are_those_of_transformers(folders: dict[str, Path], tiny_tokenizer: Any) -> None:
    rows = [ids_of(tiny_tokenizer, p, c) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    theirs = AutoModelForSequenceClassification.from_pretrained(folders["sequence"])
    with torch.no_grad():
        expected = [float(theirs(input_ids=torch.tensor([row])).logits[0, 0]) for row in rows]
    assert reward_model(
        PROMPTS, COMPLETIONS, path=str(folders["sequence"]), device="cpu"
    ) == pytest.approx(expected, abs=1e-5)
    tokens = AutoModelForTokenClassification.from_pretrained(folders["token"]).eval()
    with torch.no_grad():
        p = [
            tokens(input_ids=torch.tensor([row])).logits[0, :, 0].double().sigmoid().tolist()
            for row in rows
        ]
    first = len(tiny_tokenizer(PROMPTS[0])["input_ids"])
    # the first completion has two steps, the first of which ends with the line break behind "
    # 3+4=7"
    steps = [[p[0][first + 6], p[0][-1]], [p[1][-1]], [p[2][-1]]]
    for aggregation, reduce in (
        ("last", lambda x: x[-1]),
        ("min", min),
        ("prod", math.prod),
        ("mean", np.mean),
    ):
        found = reward_model(
            PROMPTS, COMPLETIONS, path=str(folders["token"]), aggregation=aggregation, device="cpu"
        )
        assert found == pytest.approx([reduce(x) for x in steps], abs=1e-5)


def test_several_models(folders: dict[str, Path]) -> None:
    table = np.array([[1.0, 2.0], [3.0, 2.0]])
    assert combined(table, "mean").tolist() == [2, 2] and combined(table, "min").tolist() == [1, 2]
    assert combined(table, "uncertainty", 0.5).tolist() == [1.5, 2]
    one, two = (
        reward_model(PROMPTS, COMPLETIONS, path=str(folders[k]), device="cpu")
        for k in ("sequence", "other")
    )
    both = reward_model(
        PROMPTS,
        COMPLETIONS,
        path=[str(folders["sequence"]), str(folders["other"])],
        ensemble="min",
        device="cpu",
    )
    assert both == pytest.approx([min(a, b) for a, b in zip(one, two, strict=True)])


def test_how_far_several_models_are_apart_is_told_once(folders: dict[str, Path]) -> None:
    places = [str(folders["sequence"]), str(folders["other"])]
    settings = {"name": "reward_model", "path": places, "device": "cpu"}
    rewards = RewardSet([settings])
    pairs = [(Example("p", id="e"), Trace.of_text(t)) for t in ("a", "bb")]
    rewards.score_pairs(pairs)
    one, two = (reward_model(["p", "p"], ["a", "bb"], path=place, device="cpu") for place in places)
    expected = sum(abs(a - b) / 2 for a, b in zip(one, two, strict=True))
    assert rewards.take_spread() == {"reward_model": (pytest.approx(expected, abs=1e-5), 2)}
    assert rewards.take_spread() == {}
    rewards.probe(pairs)
    assert rewards.take_spread() == {}  # probes are nobody's samples
    rewards.close()


def test_a_completion_beyond_the_context_has_no_score_and_stops_nothing(
    folders: dict[str, Path],
) -> None:
    group = TraceGroup(
        Example("p", id="e"),
        (1,),
        [Trace.of_sample((1,), Sample([1], [0.0], [0.0], "stop"), t) for t in ("x" * 600, "y")],
    )
    rewards = RewardSet(
        [("reward_model", 1.0, {"path": str(folders["sequence"]), "device": "cpu"})]
    )
    rewards.self_test([group.example])
    rewards.reward([group])
    assert group.traces[0].reward is None and "nan" in str(group.traces[0].error)
    assert group.traces[1].reward is not None and rewards.failures == {"reward_model": 1}
    rewards.close()


def test_what_is_refused_before_weights_load(
    folders: dict[str, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    def refused(error: type[Exception], message: str, name: str, **settings: Any) -> None:
        with pytest.raises(error, match=message):
            RewardSet([(name, 1.0, settings)]).self_test([Example("p", id="e")])

    refused(
        ModelError,
        "holds a language model, which gives no score",
        "reward_model",
        path=str(tiny_folder),
    )
    refused(
        ModelError,
        "no model folder",
        "reward_model",
        path=[str(folders["sequence"]), str(tmp_path / "none")],
    )
    refused(ConfigError, "reward_model: set path", "reward_model", path=[])
    several = AutoModelForSequenceClassification.from_pretrained(tiny_folder, num_labels=3)
    several.save_pretrained(tmp_path / "three")
    refused(ModelError, "has 3 labels", "reward_model", path=str(tmp_path / "three"))
    refused(
        ModelError,
        "not a causal language model",
        "implicit_reward",
        path=str(folders["token"]),
        ref_path=str(tiny_folder),
    )


def test_chat_prompts(folders: dict[str, Path]) -> None:
    model = RewardModel(load_score_model(folders["sequence"]), level="sequence")
    prompt = [{"role": "user", "content": "hi"}]
    one, other = model(
        [prompt, prompt], [[{"role": "assistant", "content": t}] for t in ("a", "b")]
    )
    assert math.isfinite(one) and one != other


def test_a_process_model_gives_a_probability_per_step(folders: dict[str, Path]) -> None:
    path = str(folders["token"])
    texts = [" 3+4=7\n\n#### 7", " 8", "", "x" * 600]
    prompts = ["Q: 3+4\nA:"] * 4
    steps = process_model(prompts, texts, path=path, device="cpu")
    assert [None if s is None else len(s) for s in steps] == [2, 1, 0, None]
    scores = RewardModel(load_score_model(path, per="token"), level="token").scores(
        prompts[:2], texts[:2]
    )
    np.testing.assert_allclose(steps[0], 1 / (1 + np.exp(-scores[0])), rtol=1e-5)
    assert 0 < steps[0][0] < 1 and steps[0][0] != steps[0][1]
    means = reward_model(prompts[:1], texts[:1], path=path, aggregation="mean", device="cpu")
    assert np.mean(steps[0]) == pytest.approx(means[0], rel=1e-5)


def test_a_model_of_whole_sequences_judges_no_steps(folders: dict[str, Path]) -> None:
    rewards = RewardSet([("process_model", 1.0, {"path": str(folders["sequence"])})])
    with pytest.raises(ConfigError, match="one score for a whole sequence; name a process model"):
        rewards.self_test([Example("p", id="e")])
