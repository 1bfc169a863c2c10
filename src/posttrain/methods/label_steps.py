"""Rows for process models whose labels no human wrote: steps are judged by how often their
continuations come out right.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from posttrain.config import Limits, SamplingConfig
from posttrain.data.account import Account
from posttrain.data.steps import PieceTexts, step_ends, step_texts
from posttrain.data.templates import decode_completion
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError, DataError
from posttrain.files import write_text_whole
from posttrain.methods.evaluate import needed
from posttrain.methods.objects import TaskLike, task_of
from posttrain.methods.parts import make_parts, remove_parts
from posttrain.methods.prompts import decoder, encode_prompts, sampling_of, sampling_text
from posttrain.methods.sample import SAMPLES, Row
from posttrain.models.language_model import LanguageModel
from posttrain.models.spec import ModelSpec
from posttrain.registry import methods
from posttrain.sources.collect import Prompt
from posttrain.sources.step_labels import Solution, StepLabeller
from posttrain.terminal import write
from posttrain.training.plan import Job, Place, PreparedJob, check_positive
from posttrain.types import Request, Sampling, Task


@methods.register
def label_steps(
    task: TaskLike,
    *,
    num_solutions: int = 4,
    num_rollouts: int = 8,
    labels: Literal["hard", "soft"] = "hard",
    search: Literal["every_step", "first_wrong_step"] = "every_step",
    step_separator: str = "\n",
    sampling: SamplingConfig = SamplingConfig(),
    batch_size: int = 32,
    limits: Limits = Limits(),
) -> Job:
    """Sample solutions of a task, label their steps by Monte Carlo rollouts, and write
    samples.jsonl for method reward_model.

    A step is judged by num_rollouts continuations from its end (Math-Shepherd, arXiv 2312.08935).
    The ids that were sampled are continued as they are, and what continuations share is computed
    once. A row has prompt, completions (the steps), labels, correct, answer and id. All sampled
    tokens are counted in labels.json.

    Args:
        task: its prompts and its verdict.
        num_solutions: solutions per prompt.
        num_rollouts: continuations per step.
        labels: hard: whether any continuation is right; soft: the share that is.
        search: every_step tries each step; first_wrong_step looks for the first step without a
            right continuation by binary search (OmegaPRM, arXiv 2406.06592) and labels hard.
        step_separator: text between steps.
        sampling: of solutions and continuations.
        batch_size: prompts that are worked on at a time and saved as a part.
        limits: how much may be dropped.
    """
    settings = dict(locals())
    check_positive(num_solutions=num_solutions, num_rollouts=num_rollouts)
    _check(labels, search, step_separator)
    prompt_task = task_of(task)
    sampled = sampling_of(sampling, prompt_task)

    def prepare(spec: ModelSpec | None, seed: int) -> PreparedJob:
        policy = needed(spec)
        account = Account()
        prompts = encode_prompts(policy, prompt_task, sampled, limits=limits, account=account)

        def run(place: Place) -> list[Row]:
            started = time.perf_counter()
            model = policy.load()
            place.open()
            labeller = _Labeller(model, prompt_task, sampled, num_solutions, num_rollouts, seed)

            def part(some: Sequence[Prompt], number: int) -> Row:
                return labeller.part(
                    some, number * batch_size, search, step_separator, soft=labels == "soft"
                )

            parts = make_parts(place.path, prompts, batch_size, part)
            rows = [row for p in parts for row in p["rows"]]
            if not rows:
                raise DataError(
                    "no solution has a step to label; look at the model's completions with method "
                    "evaluate"
                )
            counts = {name: sum(p["counts"][name] for p in parts) for name in parts[0]["counts"]}
            _write(place, rows, counts, time.perf_counter() - started)
            remove_parts(place.path)
            return rows

        text = f"{num_solutions} solutions each"
        return PreparedJob(
            facts=[
                ("task", f"{prompt_task.name}: {len(prompts)} prompts, {text}"),
                ("labels", f"{labels}, {search} with {num_rollouts} continuations"),
                ("sampling", sampling_text(sampled)),
            ],
            run=run,
            account=account,
        )

    return Job(method="label_steps", settings=settings, prepare=prepare, leaves=SAMPLES)


def _check(labels: str, search: str, step_separator: str) -> None:
    if not step_separator:
        raise ConfigError(
            "step_separator: it is empty; name the text between steps, such as a line break"
        )
    if search == "first_wrong_step" and labels == "soft":
        raise ConfigError(
            "labels: soft needs search: every_step; a binary search leaves most steps untried"
        )


class _Labeller:
    """Solutions of prompts by a model, with the labels of their steps."""

    def __init__(
        self,
        model: LanguageModel,
        task: Task,
        sampling: Sampling,
        num_solutions: int,
        num_rollouts: int,
        seed: int,
    ) -> None:
        self.task, self.sampling, self.num_solutions, self.seed = (
            task,
            sampling,
            num_solutions,
            seed,
        )
        self.engine = TorchEngine(model)
        self.texts = PieceTexts(model.tokenizer)
        self.steps = StepLabeller(
            self.engine,
            judge=task.score,
            decode=decoder(model),
            sampling=sampling,
            num_rollouts=num_rollouts,
            seed=seed + 1,
        )

    def part(
        self, prompts: Sequence[Prompt], start: int, search: str, separator: str, *, soft: bool
    ) -> Row:
        """Rows of some prompts, and how many tokens were sampled for them."""
        counts = {"solutions": 0, "solution_tokens": 0}
        self.steps.num_samples = self.steps.num_tokens = 0
        samples = _samples(
            self.engine, prompts, self.sampling, self.num_solutions, (self.seed, start)
        )
        solutions = _solutions(
            self.engine, self.task, prompts, samples, separator, self.texts, counts
        )
        getattr(self.steps, search)(solutions)
        rows = [_row(s, self.texts, separator, soft) for s in solutions]
        counts |= {"rollouts": self.steps.num_samples, "rollout_tokens": self.steps.num_tokens}
        return {"rows": rows, "counts": counts}


def _samples(
    engine: TorchEngine,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    num: int,
    entropy: tuple[int, int],
) -> list[list[Any]]:
    """Sampled solutions of some prompts."""
    seeds = np.random.default_rng(entropy).integers(0, 2**62, size=len(prompts))
    requests = [
        Request(p.ids, sampling, n=num, seed=int(s)) for p, s in zip(prompts, seeds, strict=True)
    ]
    return engine.generate(requests)


def _solutions(
    engine: TorchEngine,
    task: Task,
    prompts: Sequence[Prompt],
    rows: Sequence[Sequence[Any]],
    separator: str,
    texts: PieceTexts,
    counts: dict[str, int],
) -> list[Solution]:
    """Solutions of some prompts, each text once. Those without a step or cut at the length limit
    are left out.
    """
    solutions: list[Solution] = []
    for prompt, samples in zip(prompts, rows, strict=True):
        counts["solutions"] += len(samples)
        counts["solution_tokens"] += sum(len(s.ids) for s in samples)
        distinct = {tuple(s.ids): s for s in samples if s.finish_reason == "stop"}
        for s in distinct.values():
            ends = step_ends(texts(s.ids), separator)
            if not ends:
                continue
            text = decode_completion(engine.model.tokenizer, s)
            right = task.score(text, prompt.example) >= 1.0
            solutions.append(Solution(prompt.example, prompt.ids, tuple(s.ids), ends, right))
    return solutions


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


def _write(place: Place, rows: list[Row], counts: dict[str, int], seconds: float) -> None:
    flat = [float(x) for row in rows for x in row["labels"]]
    summary = {
        **counts,
        "rows": len(rows),
        "correct": sum(row["correct"] for row in rows) / len(rows),
        "steps": len(flat),
        "mean_label": sum(flat) / len(flat),
        "num_tokens": counts["solution_tokens"] + counts["rollout_tokens"],
        "seconds": seconds,
    }
    write_text_whole(place.path / "labels.json", json.dumps(summary, indent=1))
    write_text_whole(
        place.path / SAMPLES, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    )
    write(
        place.console,
        f"{len(rows)} solutions ({summary['correct']:.0%} right) with {len(flat)} steps (mean "
        f"label {summary['mean_label']:.2f}){place.written(SAMPLES)}; "
        f"{summary['num_tokens']} tokens sampled, {counts['rollout_tokens']} of them in "
        f"{counts['rollouts']} rollouts",
    )
