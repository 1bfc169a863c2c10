"""The model that the package ships."""

from __future__ import annotations

import itertools
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.templates import decode_completion, encode_prompt
from posttrain.engines.torch import TorchEngine
from posttrain.episodes.agent import Agent, EpisodeLimits
from posttrain.episodes.drive import drive
from posttrain.episodes.environments import Step, TextEnvironment
from posttrain.evaluation.samples import measure_samples
from posttrain.models.load import load_model
from posttrain.registry import tasks
from posttrain.tasks.calculator import Calculator, calculator
from posttrain.types import Example, Sampling

FOLDER = Path(str(files("posttrain") / "assets" / "base"))
TOOLS = FOLDER.parent / "tools"
ICL = FOLDER.parent / "icl"


@pytest.mark.parametrize(
    "folder", [FOLDER, TOOLS, ICL], ids=["embedded", "embedded-tools", "embedded-icl"]
)
def test_it_is_a_few_megabytes_and_loads_elsewhere(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert sum(p.stat().st_size for p in folder.iterdir()) < 5e6
    hf, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    assert (
        hf.config.model_type in ("qwen3", "llama")
        and hf.config.vocab_size == hf.get_input_embeddings().weight.shape[0]
    )
    text = "Grüße: 1+1=2\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_the_in_context_model_begins_as_its_recipe_says(tmp_path: Path) -> None:
    """The start has the shipped tokenizer and shapes, and looks a few tokens back."""
    import runpy

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    script = Path(__file__).parents[2] / "recipes" / "in_context" / "model_start.py"
    runpy.run_path(str(script))["write"](tmp_path)
    assert (tmp_path / "tokenizer.json").read_text() == (ICL / "tokenizer.json").read_text()
    start = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    shipped = AutoModelForCausalLM.from_pretrained(ICL)
    shapes = {name: p.shape for name, p in start.named_parameters()}
    assert shapes == {name: p.shape for name, p in shipped.named_parameters()}
    ids = AutoTokenizer.from_pretrained(tmp_path)(" a red cat" * 12, return_tensors="pt").input_ids
    with torch.no_grad():
        looks = start(ids, output_attentions=True).attentions[0][0, :, -1]
    assert (looks[:, -6:].sum(-1) > 0.9).all()


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


def test_the_package_stays_under_20_megabytes() -> None:
    package = Path(str(files("posttrain")))
    sizes = [p.stat().st_size for p in package.rglob("*") if p.is_file() and p.suffix != ".pyc"]
    assert sum(sizes) < 20e6


def test_the_tool_model_is_right_where_it_calls_the_tool() -> None:
    """Held-out problems of two steps at temperature 1: about half call the tool, and those are
    right; in its head it cannot multiply (64 problems, seed 0).
    """
    model = load_model(str(TOOLS), dtype="float32")
    task = calculator(num_examples=64, split="test")
    agent = Agent(model.tokenizer, Calculator, limits=EpisodeLimits(max_turns=8))
    traces = drive(
        [partial(agent, example, tools=()) for example in task.examples],
        TorchEngine(model),
        sampling=Sampling(max_tokens=task.max_tokens),
    )
    called = [any(turn.tool_calls for turn in trace.turns) for trace in traces]
    right = [task.score(t.text, e) == 1 for t, e in zip(traces, task.examples, strict=True)]
    with_tool = [r for r, c in zip(right, called, strict=True) if c]
    without = [r for r, c in zip(right, called, strict=True) if not c]
    assert len(with_tool) > 16 and sum(with_tool) / len(with_tool) > 0.85
    assert len(without) > 16 and sum(without) / len(without) < 0.1


class Words(TextEnvironment):
    """Asks for eight words, one a turn."""

    def reset(self, **row: Any) -> str:
        self.turn = 0
        return "Repeat: apple"

    def step(self, action: str) -> Step:
        self.turn += 1
        return Step(f"Repeat: word{self.turn}", done=self.turn == 8)


def test_an_episode_of_eight_turns_prefills_only_new_tokens() -> None:
    model = load_model(str(TOOLS), dtype="float32")
    engine = TorchEngine(model)
    agent = Agent(model.tokenizer, Words, limits=EpisodeLimits(max_turns=8), chat=True)
    (trace,) = drive(
        [partial(agent, Example(""), tools=())], engine, sampling=Sampling(max_tokens=16)
    )
    turns, spent = trace.turns, engine.stats
    assert len(turns) == 8
    said = [len(b.context_ids) - len(a.ids) for a, b in itertools.pairwise(turns)]
    # A turn's last token was sampled and never read, so the next turn computes it with what is new.
    assert spent.computed_tokens == len(turns[0].context_ids) + sum(said) + 7
    assert spent.prompt_tokens == sum(len(turn.context_ids) for turn in turns)
    assert spent.prompt_tokens == spent.computed_tokens + spent.reused_tokens
    assert spent.generated_tokens == trace.num_sampled == spent.returned_tokens
