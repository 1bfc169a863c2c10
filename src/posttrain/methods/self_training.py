"""Self-training: STaR, ReST-EM, RAFT, rejection-sampling fine-tuning and expert iteration are
settings of this one method.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from posttrain.config import Component, EvaluationConfig, SamplingConfig
from posttrain.data.templates import encode_prompt
from posttrain.errors import ConfigError
from posttrain.inputs import IMITATED
from posttrain.methods.evaluating import evaluate_model, evaluation_hooks
from posttrain.methods.prompting import (
    context_length,
    encode_prompts,
    make_collector,
    make_rewards,
    make_sampling,
    make_task,
)
from posttrain.methods.run import Run, TrainingJob
from posttrain.models.language_model import LanguageModel
from posttrain.registry import methods
from posttrain.rollouts.collect import Prompt
from posttrain.rollouts.filter import Rule, SelfTrainingSource
from posttrain.training.hooks import RolloutWriter, first_rollout
from posttrain.training.objective import Objective
from posttrain.types import Example, Sampling, Task, Text


@methods.register
def self_training(
    run,
    *,
    task: Component,
    evaluation: EvaluationConfig | None = None,
    rewards: list[Component] = ("task",),  # type: ignore[assignment]
    losses: list[Component] = ("nll",),  # type: ignore[assignment]
    num_rounds: int = 3,
    steps_per_round: int = 50,
    prompts_per_round: int | None = None,
    num_generations: int = 4,
    min_reward: float | None = 1.0,
    top_fraction: float = 1.0,
    max_per_prompt: int | None = None,
    distinct: bool = True,
    restart: bool = False,
    accumulate: bool = False,
    rationalise: str | None = None,
    sampling: SamplingConfig = {},  # type: ignore[assignment]
    batch_size: int = 16,
    learning_rate: float = 1e-5,
    lr_scheduler_type: Literal[
        "linear", "cosine", "constant", "constant_with_warmup"
    ] = "constant_with_warmup",
) -> TrainingJob:
    """Rounds of sampling, keeping what is good, and fine-tuning on it.

    Each of num_rounds rounds samples num_generations completions of prompts_per_round prompts (all,
    where it is left out) with the present model, keeps those with a reward of at least min_reward,
    of these the top_fraction, at most max_per_prompt of a prompt with the best first, equal ones
    once; then takes steps_per_round updates of batch_size kept completions. restart: every round
    trains from the weights of the start with a fresh optimiser (the present model only samples).
    accumulate: train on what all rounds kept. A round that keeps nothing is an error.
    rationalise: a prompt that failed is asked again with its answer told, and what passes is learnt
    as if it had not been told; a text such as "{prompt} (the answer is {answer})", in chats of the
    last user turn.
      rejection-sampling fine-tuning:   num_rounds: 1
      STaR (arXiv 2203.14465):      num_generations: 1, restart: true, rationalise: ...
      ReST-EM (arXiv 2312.06585):   restart: true, max_per_prompt: 10
      RAFT (arXiv 2304.06767):      min_reward: null, max_per_prompt: 1
      expert iteration:             prompts_per_round: 64, accumulate: true
    """
    rule = Rule(min_reward, top_fraction, max_per_prompt, distinct)
    rule.check(num_generations)
    _check(
        num_rounds=num_rounds, steps_per_round=steps_per_round, prompts_per_round=prompts_per_round
    )
    made = make_task(run, task)
    sampled = make_sampling(sampling, made)
    prompts = encode_prompts(run, made, sampled)
    hints = _hints(run, made, prompts, rationalise, sampled) if rationalise is not None else None
    reward_set = make_rewards(run, rewards, made)
    reward_set.self_test(made.examples)
    objective = Objective(
        losses,
        accuracy=True,
        carries=IMITATED,
    )
    steps = run.recipe.max_steps or num_rounds * steps_per_round
    size = min(prompts_per_round or len(prompts), len(prompts))
    first: dict[str, torch.Tensor] = {}

    def load(last: Path | None) -> LanguageModel:
        model = run.load_model(reference=objective.needs_reference, weights=last)
        if restart:
            first.update(_trained_weights(model if last is None else run.load_model()))
        return model

    def make_source(model: LanguageModel) -> SelfTrainingSource:
        return SelfTrainingSource(
            make_collector(
                run,
                model,
                prompts,
                reward_set,
                sampled,
                batch_size=size,
                num_generations=num_generations,
            ),
            rule,
            batch_size=batch_size,
            steps_per_round=steps_per_round,
            restart=(lambda: _bring_back(run, model, first)) if restart else None,
            accumulate=accumulate,
            hints=hints,
        )

    def make_hooks(model: Any, source: Any) -> list[Any]:
        writer = RolloutWriter(
            run.folder / "rollouts.jsonl", lambda: source.groups, resume_step=run.resume_step
        )
        return [writer, *evaluation_hooks(run, model, evaluation, steps)]

    def execute() -> None:
        try:
            model = run.train(
                make_source,
                objective,
                steps=steps,
                load=load,
                make_hooks=make_hooks,
                show=first_rollout,
            )
        finally:
            reward_set.close()
        evaluate_model(run, model, evaluation)

    facts = [
        ("task", f"{made.name}: {len(prompts)} prompts"),
        (
            "a round",
            f"{num_generations} completions of {size} prompts, at most {sampled.max_tokens} "
            "tokens, temperature "
            f"{sampled.temperature:g}; then {steps_per_round} updates of {batch_size} kept "
            "completions" + (", from the weights of the start" if restart else ""),
        ),
        (
            "kept",
            f"reward at least {min_reward}, top {top_fraction:.0%}, at most "
            f"{max_per_prompt or 'all'} a prompt"
            + (", distinct" if distinct else "")
            + (", failed prompts once more with the answer" if hints else ""),
        ),
        ("steps", f"{steps}, {num_rounds} rounds"),
    ]
    return TrainingJob(facts, execute)


def _check(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name}: {value} must be at least 1")


def _bring_back(run: Run, model: LanguageModel, weights: dict[str, torch.Tensor]) -> None:
    """Set the model to earlier weights, and begin the optimiser anew."""
    with torch.no_grad():
        for name, parameter in model.hf.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])
    assert run.optimizer is not None
    run.optimizer.restart()


def _trained_weights(model: LanguageModel) -> dict[str, torch.Tensor]:
    """A copy of the weights that training moves, by name."""
    return {name: p.detach().clone() for name, p in model.hf.named_parameters() if p.requires_grad}


def _hints(
    run: Run, task: Task, prompts: Sequence[Prompt], text: str, sampling: Sampling
) -> dict[str, tuple[int, ...]]:
    """Each prompt with its answer told, as token ids, by the example's id."""
    if "{prompt}" not in text or "{answer}" not in text:
        raise ConfigError(
            f"rationalise: {text!r} must hold {{prompt}} and {{answer}}, which are filled in for "
            "each problem"
        )
    context = context_length(run)
    hints = {}
    for example in (p.example for p in prompts):
        if example.answer is None:
            raise ConfigError(
                f"rationalise: example {example.id} of task {task.name} has no answer to tell; "
                "leave it out"
            )
        ids = encode_prompt(run.tokenizer, _told(example, text), system=task.system)
        if context is not None and len(ids) + sampling.max_tokens > context:
            raise ConfigError(
                f"rationalise: the prompt of {example.id} with its answer has {len(ids)} tokens, "
                "which with "
                f"sampling.max_tokens {sampling.max_tokens} exceed the model's context of "
                f"{context}; lower one of them"
            )
        hints[example.id] = tuple(ids)
    return hints


def _told(example: Example, text: str) -> Text:
    def fill(prompt: str) -> str:
        return text.replace("{prompt}", prompt).replace("{answer}", str(example.answer))

    if isinstance(example.prompt, str):
        return fill(example.prompt)
    last = max(
        (i for i, m in enumerate(example.prompt) if m["role"] == "user"),
        default=len(example.prompt) - 1,
    )
    return [
        {**m, "content": fill(str(m["content"]))} if i == last else m
        for i, m in enumerate(example.prompt)
    ]
