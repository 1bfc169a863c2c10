"""Models with a score: on a forest as alone, saved as transformers loads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from posttrain.config import LoraConfig
from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.errors import ModelError
from posttrain.models.load import load_model, load_score_model

CLASSES = {"sequence": AutoModelForSequenceClassification, "token": AutoModelForTokenClassification}
ROWS = [[3, 4, 5, 6, 7, 8], [3, 4, 5, 9, 7, 8, 10], [3, 4]]


def _forest(masks: list[list[int]]) -> Forest:
    sequences = [
        TokenSequence(np.array(r), np.isin(np.arange(len(r)), m))
        for r, m in zip(ROWS, masks, strict=True)
    ]
    return Forest.pack([Tree.build(sequences[:2], min_shared=1), Tree.build(sequences[2:])])


@pytest.mark.parametrize("attention", ["forest", "unshared"])
@pytest.mark.parametrize("per", ["sequence", "token"])
def test_scores_are_those_of_transformers(
    per: str, attention: str, tiny_folder: Path, tmp_path: Path
) -> None:
    model = load_score_model(tiny_folder, per=per, attention=attention)  # type: ignore[arg-type]
    forest = _forest([[5], [4, 6], [1]])
    assert not model.forward(forest)["scores"].any()  # a fresh head gives 0
    with torch.no_grad():
        model.score_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    scores = model.forward(forest)["scores"]
    model.save(tmp_path / "saved")
    theirs = CLASSES[per].from_pretrained(tmp_path / "saved")
    assert theirs.config.num_labels == 1 and theirs.config.pad_token_id is not None
    with torch.no_grad():
        logits = [theirs(input_ids=torch.tensor([r])).logits.flatten() for r in ROWS]
    places = [5, 4, 6, 1] if per == "token" else [-1, None, -1, -1]
    for score, row, place in zip(scores, [0, 1, 1, 2], places, strict=True):
        if place is not None:
            assert float(score) == pytest.approx(float(logits[row][place]), abs=1e-5)
    again = load_score_model(tmp_path / "saved", per=per).forward(forest)["scores"]
    torch.testing.assert_close(again, scores, atol=1e-5, rtol=1e-5)


def test_values_are_of_the_state_before_a_target(tiny_folder: Path) -> None:
    model = load_score_model(tiny_folder, per="token")
    with torch.no_grad():
        model.score_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    at = model.forward(_forest([[4], [4, 5], [1]]))["scores"]
    before = model.values(_forest([[5], [5, 6], [1]]))
    torch.testing.assert_close(before[:3], at[:3])


def test_adapters_train_the_head_in_full(tiny_folder: Path, tmp_path: Path) -> None:
    model = load_score_model(tiny_folder, lora=LoraConfig(r=2))
    trained = [name for name, p in model.hf.named_parameters() if p.requires_grad]
    assert any("score" in name for name in trained) and any("lora" in name for name in trained)
    with torch.no_grad():
        for p in model.trainable_parameters():
            p.normal_(generator=torch.Generator().manual_seed(1))
    forest = _forest([[5], [6], [1]])
    model.save(tmp_path)
    again = load_score_model(tmp_path)
    torch.testing.assert_close(again.forward(forest)["scores"], model.forward(forest)["scores"])


def test_a_model_of_several_labels_and_a_score_model_as_language_model_are_refused(
    tiny_folder: Path, tmp_path: Path
) -> None:
    load_score_model(tiny_folder).save(tmp_path / "one")
    with pytest.raises(ModelError, match="SequenceClassification, not a causal language model"):
        load_model(tmp_path / "one")
    several = AutoModelForSequenceClassification.from_pretrained(tiny_folder, num_labels=3)
    several.save_pretrained(tmp_path / "three")
    load_model(tiny_folder).tokenizer.save_pretrained(tmp_path / "three")
    with pytest.raises(ModelError, match="3 labels; a score is one number"):
        load_score_model(tmp_path / "three")
