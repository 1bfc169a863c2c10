"""Steppers: a column decoder has to agree with the model; rows of a cache come and go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from decoders import with_lora

from posttrain.engines.decode import DecodePlan
from posttrain.engines.prefill import Prefill
from posttrain.engines.prefix_tree import PrefixTree
from posttrain.engines.steady_plan import SteadyPlan
from posttrain.engines.stepping import CacheStepper, ForestStepper, matching_decoder
from posttrain.kernels.columns import ColumnDecoder
from posttrain.models.language_model import LanguageModel

Build = Callable[[str], LanguageModel]


def test_a_decoder_that_gives_other_states_is_not_used(
    llama_like: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = llama_like("llama")
    assert matching_decoder(model) is not None
    step = ColumnDecoder.step

    def wrong(self: ColumnDecoder, *args: Any) -> torch.Tensor:
        return step(self, *args) * 1.01

    monkeypatch.setattr(ColumnDecoder, "step", wrong)
    assert matching_decoder(model) is None


def test_rows_of_a_cache_keep_their_order_when_others_leave(decoder: Build) -> None:
    model = decoder("llama")
    stepper = CacheStepper(model)
    with torch.no_grad():
        joined = stepper.join([(3, 4, 5), (3, 4, 5), (7, 8)], [9, 9, 9])
        assert joined.num_computed == [3, 3, 2]
        before = stepper.step(torch.tensor([10, 11, 12]))
        stepper.keep(torch.tensor([1, 2]))
        logits = stepper.step(torch.tensor([13, 14]))
        expected = [
            model.pretrained(input_ids=torch.tensor([ids])).logits[0, -1]
            for ids in ([3, 4, 5, 11, 13], [7, 8, 12, 14])
        ]
    assert before.shape == (3, 97)
    torch.testing.assert_close(logits, torch.stack(expected), rtol=1e-4, atol=1e-4)


TRUNK = tuple(range(3, 80))
BRANCHES = [(*TRUNK, 40, 41), (*TRUNK, 50), (*TRUNK, 60, 61, 62), (*TRUNK, 40, 42), (5, 6, 7)]


def plain_states(model: LanguageModel, ids: tuple[int, ...]) -> torch.Tensor:
    return model._row_hidden(torch.tensor([ids]))[0, -1]


@pytest.mark.parametrize("plan", [DecodePlan, SteadyPlan])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "gpt2", "lora"])
def test_rows_below_a_trunk_are_exact_and_begin_later_prompts(
    decoder: Build, kind: str, plan: type[DecodePlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Branches hold their trunk once. What they write is what a plain forward pass computes, and
    a later prompt that begins with it computes the rest alone.
    """
    monkeypatch.setattr("posttrain.engines.stepping.DecodePlan", plan)
    model = with_lora(decoder) if kind == "lora" else decoder(kind)
    model.hf.double()
    model.share_trunks()
    assert model.shares_trunks
    tree = PrefixTree(1 << 30)
    prefill = Prefill(model, tree, max_tokens=1000)
    stepper = ForestStepper(model, prefill)
    with torch.inference_mode():
        joined = stepper.join([*BRANCHES, BRANCHES[0]], [20, 20, 4, 20, 20, 20])
        # Branches 0 and 3 have one more token in common, which is too little to share.
        assert joined.num_computed == [79, 1, 3, 2, 3, 0]
        assert stepper._plan is not None
        assert sorted(stepper._plan.lengths.tolist()) == [3, 77]
        texts = [*BRANCHES, BRANCHES[0]]
        for number in range(3):
            tokens = [(7 * number + 11 * line) % 97 for line in range(len(texts))]
            texts = [(*text, token) for text, token in zip(texts, tokens, strict=True)]
            logits = stepper.step(torch.tensor(tokens))
            states = torch.stack([plain_states(model, text) for text in texts])
            expected = model.head.logits(states).float()
            torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
        stepper.keep(torch.tensor([0, 2, 3, 4]))
        texts = [texts[line] for line in (0, 2, 3, 4)]
        stepper.store({line: (*text, 9) for line, text in enumerate(texts)})
        later = [(*text, 9, 8, line) for line, text in enumerate(texts)]
        found = prefill(later)
        assert [p.num_computed for p in found] == [3, 3, 3, 3]  # the newest was not computed yet
        for prompt, ours in zip(later, found, strict=True):
            theirs = plain_states(model, prompt)
            torch.testing.assert_close(ours.hidden, theirs, rtol=1e-9, atol=1e-9)
        logits = stepper.join(later[:2], [5, 5]).logits  # beside those that run
        states = torch.stack([plain_states(model, prompt) for prompt in later[:2]])
        torch.testing.assert_close(logits, model.head.logits(states).float(), rtol=1e-5, atol=1e-5)
