"""Rows of reasoning that ends in the right answer: reasoning-augmented continual learning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from posttrain.config import EndpointConfig, SamplingConfig
from posttrain.data.rows import Row
from posttrain.errors import ConfigError, DataError
from posttrain.loops.self_training import with_answer
from posttrain.methods.objects import ModelLike, TaskLike, task_of
from posttrain.methods.sample import sample
from posttrain.training.perform import perform

TEMPLATE = "{prompt}\nThe answer is {answer}. Explain step by step, then give the answer.\n"
"""What whoever writes the reasoning reads: it is told the answer."""


def reasoned_rows(
    model: ModelLike | None,
    task: TaskLike,
    *,
    template: str = TEMPLATE,
    num_generations: int = 4,
    max_per_prompt: int = 1,
    min_reward: float = 1.0,
    min_characters: int = 0,
    sampling: SamplingConfig = SamplingConfig(),
    endpoint: EndpointConfig | None = None,
    output: str | Path | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> list[Row]:
    """Rows of `reasoning, then answer` for a task that has answers (RCL of TRACE, arXiv
    2310.06762; rationalisation of STaR, arXiv 2203.14465).

        rows = pt.reasoned_rows("embedded", task)
        pt.continual(model, {"sums": pt.sft(rows), ...}, suites={"sums": task})

    The model, or a server, is asked for each problem with its answer in the prompt. What the task
    judges right is kept, with the prompt as it was, so that a stage learns to reason before it
    answers. TRACE finds 500 such rows per task about as good as 5000 plain ones.

    Args:
        model: what writes; None where `endpoint` does.
        task: its prompts, answers and verdict.
        template: the prompt with the answer, with {prompt} and {answer}.
        num_generations: completions per problem.
        max_per_prompt: rows per problem, equal ones once.
        min_reward: the task's least verdict on a row.
        min_characters: of a row's completion, against bare answers.
        sampling: of the completions.
        endpoint: a model behind an OpenAI-compatible server that writes.
        output: a folder for what was sampled; None keeps it in memory.
        seed: of the completions.
        console: where progress is shown.

    Returns:
        prompt and completion of each row, with the problem's id.

    Raises:
        ConfigError: the template lacks a part. DataError: a problem has no answer, or no
        completion is right.
    """
    for part in ("{prompt}", "{answer}"):
        if part not in template:
            raise ConfigError(f"template: it has no {part}; both are filled in for each problem")
    if max_per_prompt < 1:
        raise ConfigError(f"max_per_prompt: {max_per_prompt} rows per problem; at least 1")
    plain = task_of(task)
    missing = [e.id for e in plain.examples if e.answer is None]
    if missing:
        raise DataError(
            f"reasoned_rows: {len(missing)} problems of {plain.name} have no answer (first: "
            f"{missing[0]}); leave them out"
        )
    told = [replace(e, prompt=with_answer(e, template)) for e in plain.examples]
    job = sample(
        replace(plain, examples=told),
        num_generations=num_generations,
        min_reward=min_reward,
        distinct=True,
        sampling=sampling,
        endpoint=endpoint,
    )
    samples = perform(model, job, output=output, seed=seed, console=console)
    prompts = {e.id: e.prompt for e in plain.examples}
    rows: list[Row] = []
    counts: dict[str, int] = {}
    for drawn in samples:
        name = str(drawn["id"])
        long_enough = len(_text(drawn["completion"])) >= min_characters
        if long_enough and counts.get(name, 0) < max_per_prompt:
            counts[name] = counts.get(name, 0) + 1
            row = {"prompt": prompts[name], "completion": drawn["completion"], "id": name}
            rows.append(row)
    if not rows:
        raise DataError(
            f"reasoned_rows: no completion for {len(prompts)} problems has a reward of at least "
            f"{min_reward:g} and {min_characters} characters; raise num_generations, or let an "
            "endpoint write"
        )
    return rows


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
