"""Noise on the embeddings: its law, only in training, and by length."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.models.language_model import LanguageModel


def one(length: int) -> TokenSequence:
    return TokenSequence(np.arange(length) % 50, np.arange(length) > 0)


@pytest.mark.parametrize("shared", [True, False], ids=["forest", "rows"])
def test_noise_is_uniform_within_alpha_over_root_l_d(
    tiny: Callable[..., LanguageModel], shared: bool
) -> None:
    model = tiny("Llama")
    if not shared:
        model.keep_unshared("to be tested")
    seen: list[torch.Tensor] = []
    model.base.register_forward_pre_hook(
        lambda m, a, k: seen.append(k.get("inputs_embeds")), with_kwargs=True
    )
    model.neftune_noise_alpha = 5.0
    forest = Forest.pack([Tree.build([one(40)]), Tree.build([one(10)])])
    model.train()
    with torch.no_grad():
        model.forward(forest)
    embedded = seen[-1].flatten(0, 1)
    ids = forest.tokens if shared else forest.unshared().ids.flatten()
    noise = (embedded - model.pretrained.get_input_embeddings()(ids)).detach()
    for part, length in ((noise[:40], 40), (noise[40:50], 10)):
        bound = 5.0 / (length * 32) ** 0.5
        assert 0.98 * bound < float(part.abs().max()) <= bound
        assert float(part.std()) == pytest.approx(bound / 3**0.5, rel=0.1)
    model.eval()
    with torch.no_grad():
        model.forward(forest)
    assert seen[-1] is None  # in evaluation the model is asked as ever


def test_the_reference_and_the_seed(tiny: Callable[..., LanguageModel]) -> None:
    model = tiny("Llama")
    model.enable_reference()
    forest = Forest.pack([Tree.build([one(12)])])
    quiet = model.forward(forest)["logprobs"]
    model.neftune_noise_alpha = 5.0
    model.train()
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(model.forward(forest, frozenset({"logprobs", "ref_logprobs"})))
    assert torch.equal(found[0]["logprobs"], found[1]["logprobs"])
    assert not torch.equal(found[0]["logprobs"], found[2]["logprobs"])
    torch.testing.assert_close(found[0]["ref_logprobs"], quiet.detach())


def test_a_shared_token_takes_the_longest_sequence() -> None:
    stem = np.arange(20)
    sequences = [
        TokenSequence(np.concatenate([stem, [i] * n]), np.arange(20 + n) > 0)
        for i, n in ((1, 3), (2, 9))
    ]
    forest = Forest.pack([Tree.build(sequences), Tree.build([one(4)])])
    assert forest.lengths().tolist() == [29] * 20 + [23] * 3 + [29] * 9 + [4] * 4
