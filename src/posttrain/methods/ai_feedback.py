"""Rows from a model's own judgement: preferences by a judge, and answers revised after a
critique.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain.config import Limits, SamplingConfig
from posttrain.data.account import Account
from posttrain.data.templates import decode_completion, encode_prompt
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError, DataError
from posttrain.files import write_text_whole
from posttrain.methods.evaluate import needed
from posttrain.methods.objects import ModelLike, TaskLike, model_of, task_of
from posttrain.methods.parts import make_parts, remove_parts
from posttrain.methods.prompts import encode_prompts, sampling_of
from posttrain.methods.sample import SAMPLES, Row
from posttrain.models.language_model import LanguageModel
from posttrain.models.spec import ModelSpec
from posttrain.registry import methods
from posttrain.rewards.base import as_completion
from posttrain.rewards.judge import Judge
from posttrain.rewards.judge_questions import critique_prompt, revision_prompt
from posttrain.sources.collect import Prompt
from posttrain.terminal import write
from posttrain.training.plan import Job, Place, PreparedJob
from posttrain.types import Request, Sampling


@methods.register
def label_preferences(
    task: TaskLike,
    *,
    judge: ModelLike | None = None,
    instruction: str | None = None,
    chat: bool | None = None,
    min_probability: float = 0.5,
    sampling: SamplingConfig = SamplingConfig(),
    batch_size: int = 32,
    limits: Limits = Limits(),
) -> Job:
    """Two completions of every prompt, compared by a judge: preference rows in samples.jsonl
    (RLAIF, arXiv 2309.00267).

    The judge is asked which of the two is better, in both orders. A row has prompt, chosen,
    rejected, probability (that the chosen one is better, for loss soft_bradley_terry) and id.
    Prompts whose two completions are equal or empty, or whose probability is below min_probability,
    are left out and counted.

    Args:
        task: its prompts.
        judge: the model that compares; None lets the model judge its own work (arXiv 2401.10020).
        instruction: the grading criteria in the judge's prompt.
        chat: whether the judge is asked in chat turns; None follows its tokenizer.
        min_probability: least probability of a preference that is written.
        sampling: of the completions.
        batch_size: prompts that are worked on at a time and saved as a part.
        limits: how much may be dropped.
    """
    settings = dict(locals())
    if not 0.5 <= min_probability < 1:
        raise ConfigError(f"min_probability: {min_probability} must be at least 0.5 and below 1")
    prompt_task = task_of(task)
    sampled = sampling_of(sampling, prompt_task)
    judge_model = model_of(judge)

    def prepare(spec: ModelSpec | None, seed: int) -> PreparedJob:
        policy = needed(spec)
        account = Account()
        prompts = encode_prompts(policy, prompt_task, sampled, limits=limits, account=account)

        def run(place: Place) -> list[Row]:
            model = policy.load()
            engine = TorchEngine(judge_model.load_frozen() if judge_model else model)
            place.open()
            voice = Judge(engine, engine.model.tokenizer, instruction=instruction, chat=chat)

            def judged(part: Sequence[Prompt], number: int) -> Row:
                ids = [p.ids for p in part]
                texts = _sample(seed, model, ids, sampled, 2, number * batch_size)
                return _judged(part, texts, voice, min_probability)

            parts = make_parts(place.path, prompts, batch_size, judged)
            rows = [row for p in parts for row in p["rows"]]
            equal, unsure = (sum(p[name] for p in parts) for name in ("equal", "unsure"))
            note = (
                f"{equal} prompts with equal or empty completions and {unsure} unsure verdicts "
                "left out"
            )
            _write(place, SAMPLES, rows, note)
            remove_parts(place.path)
            return rows

        return PreparedJob(
            facts=[
                (
                    "task",
                    f"{prompt_task.name}: {len(prompts)} prompts, two completions each",
                ),
                ("judge", judge_model.name if judge_model else "the model itself"),
            ],
            run=run,
            account=account,
        )

    return Job(method="label_preferences", settings=settings, prepare=prepare, leaves=SAMPLES)


def _judged(
    part: Sequence[Prompt], texts: list[list[str]], voice: Judge, min_probability: float
) -> Row:
    """Preference rows of some prompts, and how many were left out."""
    pairs = [
        (p, a, b)
        for p, (a, b) in zip(part, texts, strict=True)
        if a.strip() != b.strip() and a.strip() and b.strip()
    ]
    verdicts: Sequence[float] = []
    if pairs:
        prompts = [p.example.prompt for p, _, _ in pairs]
        verdicts = voice.prefer(prompts, [a for _, a, _ in pairs], [b for _, _, b in pairs])
    rows: list[Row] = []
    unsure = 0
    for (p, a, b), first_is_better in zip(pairs, verdicts, strict=True):
        probability = max(first_is_better, 1 - first_is_better)
        if probability < min_probability:
            unsure += 1
            continue
        chosen, rejected = (a, b) if first_is_better >= 0.5 else (b, a)
        rows.append(
            {
                "prompt": p.example.prompt,
                "chosen": as_completion(p.example.prompt, chosen),
                "rejected": as_completion(p.example.prompt, rejected),
                "probability": probability,
                "id": p.example.id,
            }
        )
    return {"rows": rows, "equal": len(part) - len(pairs), "unsure": unsure}


@methods.register
def critique_revise(
    task: TaskLike,
    *,
    principles: list[str] = ["The answer is correct, complete and to the point."],
    num_revisions: int = 1,
    sampling: SamplingConfig = SamplingConfig(),
    critique_max_tokens: int = 256,
    batch_size: int = 32,
    limits: Limits = Limits(),
) -> Job:
    """The model answers, criticises its answer by a principle, and rewrites it (Constitutional AI,
    arXiv 2212.08073).

    samples.jsonl has prompt and the last revision as completion, for method sft. pairs.jsonl has
    the last revision as chosen and the first answer as rejected, with critique and principle.
    Prompts whose revision is empty or the answer unchanged are left out and counted.

    Args:
        task: its prompts.
        principles: each round draws one of them.
        num_revisions: rounds of critique and revision.
        sampling: of answers and revisions.
        critique_max_tokens: longest critique.
        batch_size: prompts that are worked on at a time and saved as a part.
        limits: how much may be dropped.
    """
    settings = dict(locals())
    if num_revisions < 1 or not principles:
        raise ConfigError(
            f"num_revisions: {num_revisions} must be at least 1, and principles name at least one"
        )
    prompt_task = task_of(task)
    sampled = sampling_of(sampling, prompt_task)

    def prepare(spec: ModelSpec | None, seed: int) -> PreparedJob:
        policy = needed(spec)
        account = Account()
        prompts = encode_prompts(policy, prompt_task, sampled, limits=limits, account=account)

        def run(place: Place) -> list[Row]:
            model = policy.load()
            place.open()

            def revised(part: Sequence[Prompt], number: int) -> Row:
                start = number * batch_size
                rows = _revised(
                    seed,
                    model,
                    part,
                    principles,
                    num_revisions,
                    sampled,
                    critique_max_tokens,
                    start,
                )
                return {"rows": rows}

            parts = make_parts(place.path, prompts, batch_size, revised)
            rows = _write_revisions(place, [row for p in parts for row in p["rows"]])
            remove_parts(place.path)
            return rows

        return PreparedJob(
            facts=[
                ("task", f"{prompt_task.name}: {len(prompts)} prompts"),
                ("revisions", f"{num_revisions} by {len(principles)} principles"),
            ],
            run=run,
            account=account,
        )

    return Job(method="critique_revise", settings=settings, prepare=prepare, leaves=SAMPLES)


def _write_revisions(place: Place, rows: list[Row]) -> list[Row]:
    """Write pairs.jsonl and samples.jsonl; returns the rows of the latter."""

    def improved(row: Row) -> bool:
        revision, answer = row["chosen"].strip(), row["rejected"].strip()
        return bool(revision and answer and revision != answer)

    pairs = []
    for row in filter(improved, rows):
        texts = {k: as_completion(row["prompt"], row[k]) for k in ("chosen", "rejected")}
        pairs.append({**row, **texts})
    note = f"{len(rows) - len(pairs)} prompts with an empty or unchanged revision left out"
    _write(place, "pairs.jsonl", pairs, note)
    samples = [{"prompt": r["prompt"], "completion": r["chosen"], "id": r["id"]} for r in pairs]
    _write(place, SAMPLES, samples, note)
    return samples


def _revised(
    seed: int,
    model: LanguageModel,
    prompts: Sequence[Prompt],
    principles: list[str],
    num_revisions: int,
    sampling: Sampling,
    critique_max_tokens: int,
    start: int,
) -> list[dict[str, Any]]:
    """First answer, last critique and last revision of each prompt."""
    answers = [
        texts[0] for texts in _sample(seed, model, [p.ids for p in prompts], sampling, 1, start)
    ]
    first, critiques, drawn = list(answers), [""] * len(prompts), [""] * len(prompts)
    thinking = Sampling(
        max_tokens=critique_max_tokens, temperature=sampling.temperature, top_p=sampling.top_p
    )
    for number in range(num_revisions):
        drawn = [
            random.Random(f"{seed} {p.example.id} {number}").choice(principles) for p in prompts
        ]
        talks = [
            critique_prompt(p.example.prompt, a, d)
            for p, a, d in zip(prompts, answers, drawn, strict=True)
        ]
        ids = [tuple(encode_prompt(model.tokenizer, talk)) for talk in talks]
        critiques = [
            t[0].strip() for t in _sample(seed, model, ids, thinking, 1, start, 2 * number + 1)
        ]
        talks = [
            revision_prompt(p.example.prompt, a, d, c)
            for p, a, d, c in zip(prompts, answers, drawn, critiques, strict=True)
        ]
        ids = [tuple(encode_prompt(model.tokenizer, talk)) for talk in talks]
        answers = [t[0] for t in _sample(seed, model, ids, sampling, 1, start, 2 * number + 2)]
    return [
        {
            "prompt": p.example.prompt,
            "chosen": a,
            "rejected": f,
            "critique": c,
            "principle": d,
            "id": p.example.id,
        }
        for p, a, f, c, d in zip(prompts, answers, first, critiques, drawn, strict=True)
    ]


def _sample(
    seed: int,
    model: LanguageModel,
    ids: Sequence[tuple[int, ...]],
    sampling: Sampling,
    num: int,
    start: int,
    turn: int = 0,
) -> list[list[str]]:
    """Texts of `num` completions of each prompt."""
    seeds = np.random.default_rng((seed, start, turn)).integers(0, 2**62, size=len(ids))
    requests = [Request(i, sampling, n=num, seed=int(s)) for i, s in zip(ids, seeds, strict=True)]
    return [
        [decode_completion(model.tokenizer, s) for s in row]
        for row in TorchEngine(model).generate(requests)
    ]


def _write(place: Place, name: str, rows: list[dict[str, Any]], note: str) -> None:
    if not rows:
        raise DataError(
            f"no row is left: {note}. Raise sampling.temperature, or take another model"
        )
    write_text_whole(
        place.path / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    )
    write(place.console, f"{len(rows)} rows{place.written(name)}; {note}")
