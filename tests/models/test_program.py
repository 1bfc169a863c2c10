"""All that is computed from a model is computed in one forward of one module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.data.forest import Forest
from posttrain.models.language_model import LanguageModel
from posttrain.models.load import load_score_model
from posttrain.models.program import Program

Make = Callable[..., LanguageModel]


def watched(program: Program) -> list[str]:
    """What the hooks of a program see: its begin and its end."""
    seen: list[str] = []
    program.register_forward_pre_hook(lambda *_: seen.append("begin"))
    program.register_forward_hook(lambda *_: seen.append("end"))
    return seen


def test_a_program_returns_what_is_computed() -> None:
    program = Program(torch.nn.Linear(2, 3))
    x = torch.ones(1, 2)
    assert torch.equal(program(lambda value: program.hf(value) * 2, x), program.hf(x) * 2)


PASSES: dict[str, Callable[[Any, Forest], Any]] = {
    "forward": lambda model, forest: model.forward(forest, {"logprobs", "entropy"}),
    "distributions": lambda model, forest: model.forward(forest, {"distribution"}),
    "hidden": lambda model, forest: model.hidden(forest),
    "rows_at": lambda model, forest: model.rows_at(forest, sources=True),
    "predictions": lambda model, forest: model.predictions(forest),
    "prefill": lambda model, forest: model.prefill(forest),
}


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_is_one_call_of_the_program(name: str, tiny: Make, forest: Forest) -> None:
    model = tiny("Qwen3")
    seen = watched(model.program)
    PASSES[name](model, forest)
    assert seen == ["begin", "end"]


def test_every_parameter_is_read_within_the_program(tiny: Make, forest: Forest) -> None:
    """Outside of it the weights are not there, as those of a sharded model are not."""
    model = tiny("Qwen3")
    expected = model.forward(forest, {"logprobs", "entropy"})
    weights = {p: p.data for p in model.hf.parameters()}

    def gather(*_: Any) -> None:
        for p, data in weights.items():
            p.data = data

    def scatter(*_: Any) -> None:
        for p in weights:
            p.data = torch.full_like(weights[p], torch.nan)

    scatter()
    model.program.register_forward_pre_hook(gather)
    model.program.register_forward_hook(scatter)
    outputs = model.forward(forest, {"logprobs", "entropy"})
    assert all(torch.equal(outputs[name], expected[name]) for name in ("logprobs", "entropy"))


def test_the_reference_and_the_critic_are_programs_of_their_own(
    tiny: Make, tiny_folder: Path, forest: Forest
) -> None:
    model = tiny("Qwen3")
    model.enable_reference()
    model.critic = load_score_model(str(tiny_folder), per="token")
    assert model._frozen is not None
    programs = [model.program, model._frozen, model.critic.program]
    seen = [watched(program) for program in programs]
    model.forward(forest, {"logprobs", "ref_logprobs", "values"})
    assert seen == [["begin", "end"]] * 3
