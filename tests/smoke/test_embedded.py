"""The model that the package ships."""

from __future__ import annotations

from functools import partial
from importlib.resources import files
from pathlib import Path

import pytest

from posttrain.data.templates import decode_completion, encode_prompt
from posttrain.engines.torch import TorchEngine
from posttrain.evaluation.samples import measure_samples
from posttrain.models.load import load_model
from posttrain.registry import tasks
from posttrain.types import Sampling

FOLDER = Path(str(files("posttrain") / "assets" / "base"))


def test_it_is_a_few_megabytes_and_loads_elsewhere() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert sum(p.stat().st_size for p in FOLDER.iterdir()) < 5e6
    hf, tokenizer = (
        AutoModelForCausalLM.from_pretrained(FOLDER),
        AutoTokenizer.from_pretrained(FOLDER),
    )
    assert (
        hf.config.model_type == "qwen3"
        and hf.config.vocab_size == hf.get_input_embeddings().weight.shape[0]
    )
    text = "Grüße: 1+1=2\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.slow
def test_more_samples_find_far_more_than_one() -> None:
    """Room for reinforcement learning and for a vote: pass@16 far above pass@1 (64 problems,
    seed 0).
    """
    model = load_model(str(FOLDER), dtype="float32")
    task = tasks.get("arithmetic")(
        num_examples=64, num_steps=5, max_operand=60, max_value=249, split="test", seed=1
    )
    prompts = [(e, tuple(encode_prompt(model.tokenizer, e.prompt))) for e in task.examples]
    sampling = Sampling(max_tokens=task.max_tokens)
    found = measure_samples(
        TorchEngine(model),
        prompts,
        task,
        partial(decode_completion, model.tokenizer),
        num_samples=16,
        sampling=sampling,
        seed=0,
    )
    assert 0.03 < found.accuracy().estimate < 0.25
    assert found.pass_at(16).estimate > 0.5
