"""The decoder in columns against the model's own step, by families; where it must not stand in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.engines import steppers
from posttrain.engines.decode import DecodePlan
from posttrain.engines.stepping import matching_decoder, model_step
from posttrain.engines.torch import TorchEngine
from posttrain.kernels.columns import ColumnDecoder
from posttrain.models.language_model import LanguageModel
from posttrain.types import Request, Sampling

Build = Callable[[str], LanguageModel]


def plan_of(model: LanguageModel, prompts: list[list[int]], prompt_of: list[int]) -> DecodePlan:
    kv = []
    for ids in prompts:
        tree = Tree.build([TokenSequence(np.array(ids), np.zeros(len(ids), dtype=bool))])
        _, computed = model.prefill(Forest.pack([tree]))
        kv.append([(k[0], v[0]) for _, (k, v) in sorted(computed.kv.items())])
    return DecodePlan(kv, torch.tensor(prompt_of), torch.full((len(prompt_of),), 8))


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_it_gives_what_the_model_gives(llama_like: Build, family: str) -> None:
    """Prompts of unequal length, rows that leave on the way."""
    model = llama_like(family)
    decoder = matching_decoder(model)
    assert decoder is not None
    with torch.no_grad():
        plans = [plan_of(model, [[3, 5, 7, 9], [4, 6]], [0, 0, 1, 1, 1]) for _ in range(2)]
        tokens = torch.tensor([1, 2, 3, 4, 5])
        for step in range(6):
            found = decoder.step(tokens, plans[0].positions(), plans[0])
            expected = model_step(model.base, tokens, plans[1])
            torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)
            for plan in plans:
                plan.advance()
            tokens = (tokens * 7 + step) % 97
            if step == 2:
                kept = torch.tensor([0, 2, 4])
                tokens = tokens[kept]
                for plan in plans:
                    plan.keep(kept)


@pytest.mark.parametrize("family", ["windows", "gemma2", "granite", "ministral3", "output bias"])
def test_other_models_run_their_own_step(llama_like: Build, family: str) -> None:
    assert matching_decoder(llama_like(family)) is None


def test_float16_runs_its_own_step(llama_like: Build) -> None:
    model = llama_like("llama")
    model.hf.half()
    assert matching_decoder(model) is None


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_bfloat16_gives_the_log_probs_of_the_trainer_more_closely_than_the_model_s_own_step(
    llama_like: Build, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = llama_like(family)
    model.hf.bfloat16()
    assert matching_decoder(model) is not None
    request = Request((3, 5, 7, 2, 8), Sampling(max_tokens=24), n=8, seed=0)

    def gaps() -> torch.Tensor:
        """Between the log-probs of the engine and the trainer's, of all tokens."""
        engine = TorchEngine(model)
        (samples,) = engine.generate([request])
        told = torch.tensor([x for s in samples for x in s.raw_logprobs])
        scored = engine.score([((*request.prompt_ids, *s.ids), 5) for s in samples])
        return told - torch.tensor([x for one in scored for x in one])

    ours = gaps()
    monkeypatch.setattr(steppers, "matching_decoder", lambda model: None)
    own = gaps()
    assert len(ours) > 50
    assert ours.square().mean().sqrt() < 0.05 and ours.square().mean() < own.square().mean()


@pytest.mark.parametrize("family", ["gelu", "hooked"])
def test_bfloat16_layers_that_are_not_fused_decode_in_columns_too(
    llama_like: Build, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their prompts' keys and values are in bfloat16 then."""
    model = llama_like("llama" if family == "hooked" else family)
    model.hf.bfloat16()
    if family == "hooked":
        model.base.register_forward_hook(lambda *given: None)
    steps: list[torch.dtype] = []
    step = ColumnDecoder.step

    def noted(
        self: ColumnDecoder, tokens: torch.Tensor, positions: torch.Tensor, plan: DecodePlan
    ) -> torch.Tensor:
        steps.append(plan._prompts[0][0].dtype)
        return step(self, tokens, positions, plan)

    monkeypatch.setattr(ColumnDecoder, "step", noted)
    engine = TorchEngine(model)
    ((sample,),) = engine.generate([Request((3, 5, 7), Sampling(max_tokens=6), n=1, seed=0)])
    assert set(steps) == {torch.bfloat16}
    (scored,) = engine.score([((3, 5, 7, *sample.ids), 3)])
    torch.testing.assert_close(
        torch.tensor(sample.raw_logprobs), torch.tensor(scored), rtol=0.05, atol=0.1
    )


def adapted(model: LanguageModel, **settings: Any) -> LanguageModel:
    config = LoraConfig(
        target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False, **settings
    )
    found = LanguageModel(get_peft_model(model.hf, config), None)  # type: ignore[arg-type]
    found.share_trunks()
    return found


def test_adapters_of_low_rank_are_added_to_the_weights_and_followed_when_they_are_switched_off(
    llama_like: Build,
) -> None:
    model = adapted(llama_like("llama"))
    engine = TorchEngine(model)
    request = Request((3, 5, 7), Sampling(max_tokens=6), n=1, seed=0)
    assert matching_decoder(model) is not None
    for _ in range(2):
        ((sample,),) = engine.generate([request])
        scored = engine.score([((3, 5, 7, *sample.ids), 3)])[0]
        torch.testing.assert_close(
            torch.tensor(sample.raw_logprobs), torch.tensor(scored), rtol=1e-4, atol=1e-4
        )
        model.hf.base_model.disable_adapter_layers()


def test_adapters_that_are_more_than_a_sum_run_the_model_s_own_step(llama_like: Build) -> None:
    assert matching_decoder(adapted(llama_like("llama"), use_dora=True)) is None


def test_adapters_in_half_precision_are_not_rounded_into_the_weights(llama_like: Build) -> None:
    model = adapted(llama_like("llama"))
    model.hf.bfloat16()
    assert matching_decoder(model) is None
    model.hf.base_model.disable_adapter_layers()
    assert matching_decoder(model) is not None


def test_weights_that_change_in_place_are_read_again(llama_like: Build) -> None:
    """By version for the trainer; and by what torch counts for a caller who tells no version."""
    model = llama_like("qwen3")
    engine = TorchEngine(model)
    request = Request((3, 5, 7), Sampling(max_tokens=6, temperature=0.0), n=1, seed=0)
    engine.generate([request])
    with torch.no_grad():
        for p in model.hf.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    ((sample,),) = engine.generate([request])
    ((expected,),) = TorchEngine(model).generate([request])
    assert sample.ids == expected.ids
    torch.testing.assert_close(
        torch.tensor(sample.raw_logprobs), torch.tensor(expected.raw_logprobs)
    )
    scored = engine.score([((3, 5, 7, *sample.ids), 3)])[0]
    torch.testing.assert_close(
        torch.tensor(sample.raw_logprobs), torch.tensor(scored), rtol=1e-4, atol=1e-4
    )
