"""Rows for process models whose labels no human wrote: steps are judged by how often their
continuations come out right.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from posttrain.config import Component, SamplingConfig
from posttrain.data.steps import PieceTexts, step_ends, step_texts
from posttrain.data.templates import decode_completion
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError, DataError
from posttrain.methods.parts import make_parts, remove_parts
from posttrain.methods.prompting import encode_prompts, make_sampling, make_task
from posttrain.methods.run import SAMPLES, Job, Run
from posttrain.registry import methods
from posttrain.rollouts.collect import Prompt
from posttrain.rollouts.step_labels import Solution, StepLabeller
from posttrain.terminal import write
from posttrain.training.checkpoint import write_text_whole
from posttrain.types import Request, Sampling, Task


@methods.register
def label_steps(
    run,
    *,
    task: Component,
    num_solutions: int = 4,
    num_rollouts: int = 8,
    labels: Literal["hard", "soft"] = "hard",
    search: Literal["every_step", "first_wrong_step"] = "every_step",
    step_separator: str = "\n",
    sampling: SamplingConfig = {},  # type: ignore[assignment]
    batch_size: int = 32,
) -> Job:
    """Sample solutions of a task, label their steps by Monte Carlo rollouts, and write
    samples.jsonl for method reward_model.

    A step is judged by num_rollouts continuations from its end (Math-Shepherd, arXiv 2312.08935):
    hard labels, whether any comes out right; soft labels, the share that does. first_wrong_step
    looks for the first step without a right continuation by binary search (OmegaPRM, arXiv
    2406.06592) and labels hard. The ids that were sampled are continued as they are, and what
    continuations share is computed once. A row has prompt, completions (the steps), labels,
    correct, answer, id; all tokens that were sampled are counted in labels.json. batch_size prompts
    are worked on at a time.
    """
    for name, value in (("num_solutions", num_solutions), ("num_rollouts", num_rollouts)):
        if value < 1:
            raise ConfigError(f"{name}: {value} must be at least 1")
    if not step_separator:
        raise ConfigError(
            "step_separator: it is empty; name the text between steps, such as a line break"
        )
    if search == "first_wrong_step" and labels == "soft":
        raise ConfigError(
            "labels: soft needs search: every_step; a binary search leaves most steps untried"
        )
    made = make_task(run, task)
    sampled = make_sampling(sampling, made)
    prompts = encode_prompts(run, made, sampled)
    facts = [
        ("task", f"{made.name}: {len(prompts)} prompts, {num_solutions} solutions each"),
        ("labels", f"{labels}, {search} with {num_rollouts} continuations"),
        ("sampling", f"at most {sampled.max_tokens} tokens, temperature {sampled.temperature:g}"),
    ]

    def execute() -> None:
        started = time.perf_counter()
        model = run.load_model()
        run.open()
        engine = TorchEngine(model)
        labeller = StepLabeller(
            engine,
            judge=made.score,
            decode=lambda s: decode_completion(model.tokenizer, s),
            sampling=sampled,
            num_rollouts=num_rollouts,
            seed=run.recipe.seed + 1,
        )
        texts = PieceTexts(model.tokenizer)

        def part(some: Sequence[Prompt], number: int) -> dict[str, Any]:
            counts = {"solutions": 0, "solution_tokens": 0}
            labeller.num_samples = labeller.num_tokens = 0
            solutions = _solutions(
                run,
                engine,
                made,
                some,
                sampled,
                num_solutions,
                step_separator,
                texts,
                counts,
                number * batch_size,
            )
            getattr(labeller, search)(solutions)
            rows = [_row(s, texts, step_separator, labels == "soft") for s in solutions]
            counts |= {"rollouts": labeller.num_samples, "rollout_tokens": labeller.num_tokens}
            return {"rows": rows, "counts": counts}

        parts = make_parts(run, prompts, batch_size, part)
        rows = [row for p in parts for row in p["rows"]]
        if not rows:
            raise DataError(
                "no solution has a step to label; look at the model's completions with method "
                "evaluate"
            )
        counts = {name: sum(p["counts"][name] for p in parts) for name in parts[0]["counts"]}
        _write(run, rows, counts, time.perf_counter() - started)
        remove_parts(run)

    return Job(facts, execute)


def _solutions(
    run: Run,
    engine: TorchEngine,
    task: Task,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    num: int,
    separator: str,
    texts: PieceTexts,
    counts: dict[str, int],
    start: int,
) -> list[Solution]:
    """Solutions of some prompts, each text once; those without a step or cut at the length
    limit are left out.
    """
    seeds = np.random.default_rng((run.recipe.seed, start)).integers(0, 2**62, size=len(prompts))
    requests = [
        Request(p.ids, sampling, n=num, seed=int(s)) for p, s in zip(prompts, seeds, strict=True)
    ]
    found: list[Solution] = []
    for prompt, samples in zip(prompts, engine.generate(requests), strict=True):
        counts["solutions"] += len(samples)
        counts["solution_tokens"] += sum(len(s.ids) for s in samples)
        for s in {tuple(s.ids): s for s in samples if s.finish_reason == "stop"}.values():
            ends = step_ends(texts(s.ids), separator)
            if ends:
                right = (
                    task.score(decode_completion(engine.model.tokenizer, s), prompt.example) >= 1.0
                )
                found.append(Solution(prompt.example, prompt.ids, tuple(s.ids), ends, right))
    return found


def _row(solution: Solution, texts: PieceTexts, separator: str, soft: bool) -> dict[str, Any]:
    """A row of the stepwise format; the steps joined by the separator are the solution's text."""
    steps = step_texts("".join(texts(solution.ids)), separator)
    labels: list[Any] = solution.labels(soft=soft) if soft else [x > 0.5 for x in solution.labels()]
    return {
        "prompt": solution.example.prompt,
        "completions": steps,
        "labels": labels,
        "correct": solution.right,
        "answer": None if solution.example.answer is None else str(solution.example.answer),
        "id": solution.example.id,
    }


def _write(run: Run, rows: list[dict[str, Any]], counts: dict[str, int], seconds: float) -> None:
    flat = [float(x) for row in rows for x in row["labels"]]
    told = {
        **counts,
        "rows": len(rows),
        "correct": sum(row["correct"] for row in rows) / len(rows),
        "steps": len(flat),
        "mean_label": sum(flat) / len(flat),
        "num_tokens": counts["solution_tokens"] + counts["rollout_tokens"],
        "seconds": seconds,
    }
    write_text_whole(run.folder / "labels.json", json.dumps(told, indent=1))
    write_text_whole(
        run.folder / SAMPLES, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    )
    write(
        run.console,
        f"{len(rows)} solutions ({told['correct']:.0%} right) with {len(flat)} steps (mean label "
        f"{told['mean_label']:.2f}) "
        f"written to {run.folder / SAMPLES}; {told['num_tokens']} tokens sampled, "
        f"{counts['rollout_tokens']} of them in "
        f"{counts['rollouts']} rollouts",
    )
