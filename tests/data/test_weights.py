"""How much rows, messages and rationales count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from posttrain.data.comparisons import encode_labelled, encode_lists, encode_pairs
from posttrain.data.encode import encode_rows
from posttrain.data.scored import encode_scores, reshaped
from posttrain.errors import ConfigError, DataError


def test_a_row_counts_as_its_weight_says(tiny_tokenizer: Any) -> None:
    rows = [{"prompt": "a", "completion": "b", "weight": 0.25}, {"prompt": "c", "completion": "d"}]
    quarter, whole = encode_rows(rows, tiny_tokenizer).sequences
    assert set(quarter.streams["weights"].tolist()) == {0.25} and set(
        whole.streams["weights"].tolist()
    ) == {1.0}
    left_out = encode_rows([{**rows[0], "weight": 0}, *[rows[1]] * 20], tiny_tokenizer)
    assert len(left_out.sequences) == 20 and left_out.masked == ["0"]
    assert (
        encode_rows([{"prompt": "c", "completion": "d"}], tiny_tokenizer).sequences[0].streams == {}
    )
    for bad in (-1, "much", True, float("inf")):
        with pytest.raises(DataError, match="row 0: weight .* a number, 0 or above"):
            encode_rows([{**rows[0], "weight": bad}], tiny_tokenizer)


def test_weights_that_no_loss_reads_are_refused(tiny_tokenizer: Any) -> None:
    """Losses of pairs, lists and scores count each row once."""
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    label = {"prompt": "a", "completion": "b", "label": True}
    ranked = {"prompt": "a", "completions": ["b", "c"], "rewards": [1.0, 0.0]}
    reward = {"prompt": "a", "completion": "b", "reward": 1.0}
    other = {"prompt": "a", "completion": "c", "label": False}
    cases: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
        (encode_pairs, pair, pair),
        (encode_labelled, label, label),
        (encode_labelled, pair, pair),
        (encode_lists, ranked, ranked),
        (encode_scores, pair, pair),
        (encode_scores, label, other),
        (
            lambda rows, _: reshaped(rows, "pairs"),
            reward,
            {**reward, "completion": "c", "reward": 0.0},
        ),
    ]
    for encode, row, second in cases:
        encode([{**row, "weight": 1.0}, {**second, "weight": None}], tiny_tokenizer)
        with pytest.raises(DataError, match="row 1: weight 0.5 .* repeat or drop rows instead"):
            encode([row, {**second, "weight": 0.5}], tiny_tokenizer)


def test_messages_count_as_their_weights_say_times_the_row(tiny_tokenizer: Any) -> None:
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "half", "weight": 0.5},
        {"role": "user", "content": "r"},
        {"role": "assistant", "content": "none", "train": False},
        {"role": "user", "content": "s"},
        {"role": "assistant", "content": "full"},
    ]
    plain = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "plain"}]
    first, second = encode_rows(
        [{"messages": turns, "weight": 2.0}, {"messages": plain}], tiny_tokenizer
    ).sequences
    weights = first.streams["weights"][first.loss_mask]
    assert sorted(set(weights.tolist())) == [1.0, 2.0] and set(
        second.streams["weights"].tolist()
    ) == {1.0}
    text = tiny_tokenizer.decode(first.ids[first.loss_mask])
    assert "half" in text and "full" in text and "none" not in text
    half = first.ids[first.loss_mask][weights == 1.0]
    assert "half" in tiny_tokenizer.decode(half) and "full" not in tiny_tokenizer.decode(half)
    with pytest.raises(DataError, match="messages.1. has the weight -1"):
        encode_rows([{"messages": [turns[0], {**turns[1], "weight": -1}]}], tiny_tokenizer)


def test_rationales_are_a_second_task(tiny_tokenizer: Any) -> None:
    rows = [{"prompt": "2+3?", "completion": "5", "rationale": "two and three", "weight": 3.0}]
    label, rationale = encode_rows(rows, tiny_tokenizer, rationale_weight=0.5).sequences
    assert tiny_tokenizer.decode(label.ids, skip_special_tokens=True) == "[label] 2+3?5"
    assert (
        tiny_tokenizer.decode(rationale.ids, skip_special_tokens=True)
        == "[rationale] 2+3?two and three"
    )
    assert (label.streams["weights"] == 3).all() and (rationale.streams["weights"] == 1.5).all()
    chat = [{"instruction": "2+3?", "output": "5", "rationale": "why"}]
    both = encode_rows(chat, tiny_tokenizer, rationale_weight=1.0).sequences
    texts = [tiny_tokenizer.decode(s.ids) for s in both]
    assert "[label] 2+3?" in texts[0] and "[rationale] 2+3?" in texts[1] and "why" in texts[1]
    with pytest.raises(DataError, match="row 0 has no text in the column 'rationale'"):
        encode_rows([{"prompt": "a", "completion": "b"}], tiny_tokenizer, rationale_weight=1.0)
    with pytest.raises(DataError, match="row 0 has no prompt, which a rationale needs"):
        encode_rows([{"text": "a", "rationale": "b"}], tiny_tokenizer, rationale_weight=1.0)


def test_the_loss_is_the_weighted_mean(tiny_tokenizer: Any) -> None:
    """By hand: weights 1 and 3 of two rows with 2 and 1 trained tokens and losses of 1 and 2:
    (2 * 1 + 3 * 2) / (2 + 3).
    """
    import torch

    from posttrain.config import Component
    from posttrain.data.forest import Batch, TokenSequence, Tree
    from posttrain.training.objective import Objective

    rows = [
        TokenSequence(np.array([1, 2, 3]), np.array([False, True, True]), {"weights": np.ones(3)}),
        TokenSequence(np.array([1, 2]), np.array([False, True]), {"weights": np.full(2, 3.0)}),
    ]
    batch = Batch([Tree.build([r]) for r in rows])
    objective = Objective([Component("nll")])
    (micro,) = batch.split()
    loss, _ = objective(
        {"logprobs": torch.tensor([-1.0, -1.0, -2.0])}, micro, objective.denominators(batch)
    )
    assert float(loss) == pytest.approx(8 / 5)


def test_negative_settings_are_refused() -> None:
    from posttrain.recipe import parse_recipe

    with pytest.raises(ConfigError, match="rationale_weight: -1"):
        parse_recipe({"method": "sft", "model": "m", "data": {"path": "x", "rationale_weight": -1}})
