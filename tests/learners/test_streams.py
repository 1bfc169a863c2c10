"""Numbers of a language model against plain passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from posttrain.learners.streams import NUM_GRADIENT_NUMBERS, Streams, _sketched
from posttrain.models.load import load_model
from posttrain.types import Sampling

ROWS = [{"id": "a", "prompt": "one two"}, {"id": "b", "prompt": "3"}, {"id": "c", "prompt": "xyz"}]


@pytest.fixture(scope="module")
def streams(tiny_folder: Path) -> Streams:
    return Streams(load_model(tiny_folder, dtype="float32"), Sampling(max_tokens=5), 3, 0)


def logits(streams: Streams, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = streams.model.pretrained(input_ids=torch.tensor([ids])).logits[0]
    return output.log_softmax(-1)


def test_entropies_and_logprobs_of_the_greedy_completion(streams: Streams) -> None:
    entropies, logprobs = streams.token_entropies(ROWS), streams.completion_logprobs(ROWS)
    for row, (sample,), h, lp in zip(
        ROWS, streams._written(ROWS, 1, 0.0), entropies, logprobs, strict=True
    ):
        before = streams._ids(row)
        table = logits(streams, [*before, *sample.ids])[len(before) - 1 : -1]
        assert h == pytest.approx(-(table.exp() * table).sum(-1).numpy(), abs=1e-4)
        own = table.gather(1, torch.tensor(sample.ids)[:, None])[:, 0]
        assert lp == pytest.approx(own.numpy(), abs=1e-4)


def test_perplexity_and_embedding_of_a_prompt(streams: Streams) -> None:
    perplexities, vectors = streams.perplexities(ROWS), streams.embeddings(ROWS)
    for place, row in enumerate(ROWS):
        ids = streams._ids(row)
        own = logits(streams, ids)[:-1].gather(1, torch.tensor(ids[1:])[:, None])
        assert perplexities[place] == pytest.approx(np.exp(-own.mean().item()), rel=1e-3)
        with torch.no_grad():
            hidden = streams.model.base(input_ids=torch.tensor([ids])).last_hidden_state[0]
        assert vectors[place] == pytest.approx(hidden[1:].mean(0).numpy(), abs=1e-4)


def test_samples_do_not_depend_on_the_other_rows(streams: Streams) -> None:
    assert streams.samples(ROWS)[2] == streams.samples(ROWS[2:])[0]
    assert len(streams.samples(ROWS)[0]) == 3 and streams.prompt_entropies(ROWS).shape == (3,)


def test_gradients_are_those_of_the_loss(streams: Streams) -> None:
    row = {"id": "d", "prompt": "ab", "completion": "cd"}
    (sketch,) = streams.gradients([row])
    model = streams.model
    before = streams._ids(row)
    after = model.tokenizer("cd", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*before, *after]])
    model.hf.zero_grad()
    table = model.pretrained(input_ids=ids).logits[0].log_softmax(-1)
    own = table[len(before) - 1 : -1].gather(1, torch.tensor(after)[:, None])
    (-own.mean()).backward()
    from posttrain.models.program import decoder_layers

    flat = [p.grad.flatten() for p in decoder_layers(model.hf)[-1].parameters()]  # type: ignore[union-attr]
    model.hf.zero_grad(set_to_none=True)
    assert sketch == pytest.approx(_sketched(torch.cat(flat).numpy()), abs=1e-4)
    assert streams.gradients(ROWS).shape == (3, NUM_GRADIENT_NUMBERS)


def test_a_sketch_keeps_inner_products_on_average() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 20000))
    b = 0.5 * a + b
    whole = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    x, y = _sketched(a), _sketched(b)
    assert x @ y / np.linalg.norm(x) / np.linalg.norm(y) == pytest.approx(whole, abs=0.1)
