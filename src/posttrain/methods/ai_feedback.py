"""Rows from a model's own judgement: preferences by a judge, and answers revised after a
critique.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain.config import Component, ModelConfig, SamplingConfig
from posttrain.data.templates import decode_completion, encode_prompt
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError, DataError
from posttrain.methods.parts import make_parts, remove_parts
from posttrain.methods.prompting import encode_prompts, make_sampling, make_task
from posttrain.methods.run import SAMPLES, Job, Run
from posttrain.models.language_model import LanguageModel
from posttrain.registry import methods
from posttrain.rewards.base import as_completion
from posttrain.rewards.judge import Judge
from posttrain.rollouts.collect import Prompt
from posttrain.terminal import write
from posttrain.training.checkpoint import write_text_whole
from posttrain.types import Request, Sampling, Text


@methods.register
def label_preferences(
    run,
    *,
    task: Component,
    judge: ModelConfig | None = None,
    instruction: str | None = None,
    chat: bool | None = None,
    min_probability: float = 0.5,
    sampling: SamplingConfig = {},  # type: ignore[assignment]
    batch_size: int = 32,
) -> Job:
    """Two completions of every prompt, compared by a judge: preference rows in samples.jsonl
    (RLAIF, arXiv 2309.00267).

    The judge is a model that is told `instruction`, what good means, and asked which of the two is
    better, in both orders; left out, the model judges its own work (arXiv 2401.10020). A row has
    prompt, chosen, rejected, probability (that the chosen one is better, for loss
    soft_bradley_terry) and id. Prompts whose two completions are equal or empty, or whose
    probability is below min_probability, are left out and counted.
    """
    if not 0.5 <= min_probability < 1:
        raise ConfigError(f"min_probability: {min_probability} must be at least 0.5 and below 1")
    made = make_task(run, task)
    sampled = make_sampling(sampling, made)
    prompts = encode_prompts(run, made, sampled)
    facts = [
        ("task", f"{made.name}: {len(prompts)} prompts, two completions each"),
        ("judge", judge.path if judge else "the model itself"),
    ]

    def execute() -> None:
        model = run.load_model()
        asked = TorchEngine(run.load_frozen(judge) if judge else model)
        run.open()
        voice = Judge(asked, asked.model.tokenizer, instruction=instruction, chat=chat)

        def judged(part: Sequence[Prompt], number: int) -> dict[str, Any]:
            rows: list[dict[str, Any]] = []
            unsure = 0
            texts = _sample(run, model, [p.ids for p in part], sampled, 2, number * batch_size)
            kept = [
                (p, a, b)
                for p, (a, b) in zip(part, texts, strict=True)
                if a.strip() != b.strip() and a.strip() and b.strip()
            ]
            asked_of = [p.example.prompt for p, _, _ in kept]
            verdicts = (
                voice.prefer(asked_of, [a for _, a, _ in kept], [b for _, _, b in kept])
                if kept
                else []
            )
            for (p, a, b), x in zip(kept, verdicts, strict=True):
                if max(x, 1 - x) < min_probability:
                    unsure += 1
                    continue
                chosen, rejected = (a, b) if x >= 0.5 else (b, a)
                rows.append(
                    {
                        "prompt": p.example.prompt,
                        "chosen": as_completion(p.example.prompt, chosen),
                        "rejected": as_completion(p.example.prompt, rejected),
                        "probability": max(x, 1 - x),
                        "id": p.example.id,
                    }
                )
            return {"rows": rows, "equal": len(part) - len(kept), "unsure": unsure}

        parts = make_parts(run, prompts, batch_size, judged)
        rows = [row for p in parts for row in p["rows"]]
        equal, unsure = (sum(p[name] for p in parts) for name in ("equal", "unsure"))
        _write(
            run,
            SAMPLES,
            rows,
            f"{equal} prompts with equal or empty completions and {unsure} unsure verdicts left "
            "out",
        )
        remove_parts(run)

    return Job(facts, execute)


@methods.register
def critique_revise(
    run,
    *,
    task: Component,
    principles: list[str] = ["The answer is correct, complete and to the point."],
    num_revisions: int = 1,
    sampling: SamplingConfig = {},  # type: ignore[assignment]
    critique_max_tokens: int = 256,
    batch_size: int = 32,
) -> Job:
    """The model answers, criticises its answer by a principle, and rewrites it (Constitutional AI,
    arXiv 2212.08073).

    Each of num_revisions rounds draws one of the principles. samples.jsonl has prompt and the last
    revision as completion, for method sft; pairs.jsonl has the last revision as chosen and the
    first answer as rejected, with critique and principle. Prompts whose revision is empty or the
    answer unchanged are left out and counted.
    """
    if num_revisions < 1 or not principles:
        raise ConfigError(
            f"num_revisions: {num_revisions} must be at least 1, and principles name at least one"
        )
    made = make_task(run, task)
    sampled = make_sampling(sampling, made)
    prompts = encode_prompts(run, made, sampled)
    facts = [
        ("task", f"{made.name}: {len(prompts)} prompts"),
        ("revisions", f"{num_revisions} by {len(principles)} principles"),
    ]

    def execute() -> None:
        model = run.load_model()
        run.open()

        def revised(part: Sequence[Prompt], number: int) -> dict[str, Any]:
            start = number * batch_size
            return {
                "rows": _revised(
                    run, model, part, principles, num_revisions, sampled, critique_max_tokens, start
                )
            }

        rows = [row for p in make_parts(run, prompts, batch_size, revised) for row in p["rows"]]
        kept = [
            r
            for r in rows
            if r["chosen"].strip()
            and r["chosen"].strip() != r["rejected"].strip()
            and r["rejected"].strip()
        ]
        shaped = [
            {**r, **{k: as_completion(r["prompt"], r[k]) for k in ("chosen", "rejected")}}
            for r in kept
        ]
        note = f"{len(rows) - len(kept)} prompts with an empty or unchanged revision left out"
        _write(run, "pairs.jsonl", shaped, note)
        _write(
            run,
            SAMPLES,
            [{"prompt": r["prompt"], "completion": r["chosen"], "id": r["id"]} for r in shaped],
            note,
        )
        remove_parts(run)

    return Job(facts, execute)


def _revised(
    run: Run,
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
        texts[0] for texts in _sample(run, model, [p.ids for p in prompts], sampling, 1, start)
    ]
    first, critiques, drawn = list(answers), [""] * len(prompts), [""] * len(prompts)
    thinking = Sampling(
        max_tokens=critique_max_tokens, temperature=sampling.temperature, top_p=sampling.top_p
    )
    for number in range(num_revisions):
        drawn = [
            random.Random(f"{run.recipe.seed} {p.example.id} {number}").choice(principles)
            for p in prompts
        ]
        talks = [
            _talk(p.example.prompt, a, d, None)
            for p, a, d in zip(prompts, answers, drawn, strict=True)
        ]
        ids = [tuple(encode_prompt(model.tokenizer, talk)) for talk in talks]
        critiques = [
            t[0].strip() for t in _sample(run, model, ids, thinking, 1, start, 2 * number + 1)
        ]
        talks = [
            _talk(p.example.prompt, a, d, c)
            for p, a, d, c in zip(prompts, answers, drawn, critiques, strict=True)
        ]
        ids = [tuple(encode_prompt(model.tokenizer, talk)) for talk in talks]
        answers = [t[0] for t in _sample(run, model, ids, sampling, 1, start, 2 * number + 2)]
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


def _talk(prompt: Text, answer: str, principle: str, critique: str | None) -> Text:
    """What is asked for a critique, or (critique) for a revision: in turns where the prompt has
    turns.
    """
    wanted = f"Say briefly where the answer above falls short of this principle: {principle}"
    rewrite = "Now rewrite the answer so that it follows the principle. Write the answer alone."
    if not isinstance(prompt, str):
        talk = [
            *prompt,
            {"role": "assistant", "content": answer},
            {"role": "user", "content": wanted},
        ]
        if critique is not None:
            talk += [
                {"role": "assistant", "content": critique},
                {"role": "user", "content": rewrite},
            ]
        return talk
    text = f"{prompt}{answer}\n\n{wanted}\n"
    return text if critique is None else f"{text}{critique}\n\n{rewrite}\n\n{prompt}"


def _sample(
    run: Run,
    model: LanguageModel,
    ids: Sequence[tuple[int, ...]],
    sampling: Sampling,
    num: int,
    start: int,
    turn: int = 0,
) -> list[list[str]]:
    """Texts of `num` completions of each prompt."""
    seeds = np.random.default_rng((run.recipe.seed, start, turn)).integers(0, 2**62, size=len(ids))
    requests = [Request(i, sampling, n=num, seed=int(s)) for i, s in zip(ids, seeds, strict=True)]
    return [
        [decode_completion(model.tokenizer, s) for s in row]
        for row in TorchEngine(model).generate(requests)
    ]


def _write(run: Run, name: str, rows: list[dict[str, Any]], note: str) -> None:
    if not rows:
        raise DataError(
            f"no row is left: {note}. Raise sampling.temperature, or take another model"
        )
    write_text_whole(
        run.folder / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    )
    write(run.console, f"{len(rows)} rows written to {run.folder / name}; {note}")
