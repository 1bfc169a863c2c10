"""A generator, a verifier and a refiner that learn from what their answers lead to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

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
from posttrain.rewards.judge_questions import critique_prompt, revision_prompt
from posttrain.sources.collect import Prompt
from posttrain.terminal import write
from posttrain.training.plan import Job, Place, PreparedJob, check_positive
from posttrain.types import Example, Request, Sampling, Task, Text

Role = Literal["generator", "verifier", "refiner"]
ROLES: tuple[Role, ...] = ("generator", "verifier", "refiner")
PAIRS = "pairs.jsonl"


@methods.register
def malt(
    task: TaskLike,
    *,
    verifier: ModelLike | None = None,
    refiner: ModelLike | None = None,
    num_samples: int = 3,
    threshold: float = 0.5,
    principle: str = "The answer is correct, complete and to the point.",
    sampling: SamplingConfig = SamplingConfig(),
    critique_max_tokens: int = 256,
    batch_size: int = 32,
    limits: Limits = Limits(),
) -> Job:
    """Multi-agent data by value iteration over a tree (MALT, arXiv 2412.01928): rows for method sft
    and pairs for method dpo, for each of three roles.

    Of each prompt the generator writes num_samples answers, the verifier as many critiques of each,
    and the refiner as many revisions of each critique: a tree with num_samples^3 leaves.
        v(revision) = grade of the task;   v(critique), v(answer) = mean of the values below
    What has a value above the threshold is right for its role. samples.jsonl and ROLE.jsonl have
    the right ones; pairs.jsonl and ROLE_pairs.jsonl have the best right one against the worst
    wrong one below the same parent. Each row has role and value. The roles may share a model, which
    is told its role by the prompt.

    Search self_refine with two attempts plays the roles at test time (see
    recipes/pipelines/malt.yaml).

    Args:
        task: its prompts and its verdict.
        verifier, refiner: models of these roles; None is the model itself, which is the generator.
        num_samples: branches of every node.
        threshold: the value above which a text is right for its role.
        principle: what the verifier is asked about.
        sampling: of answers and revisions, and of critiques but for their length.
        critique_max_tokens: longest critique.
        batch_size: prompts that are worked on at a time and saved as a part.
        limits: how much may be dropped.
    """
    settings = dict(locals())
    check_positive(num_samples=num_samples, critique_max_tokens=critique_max_tokens)
    if not 0 <= threshold < 1:
        raise ConfigError(f"threshold: {threshold} must be from 0 to below 1")
    prompt_task = task_of(task)
    sampled = sampling_of(sampling, prompt_task)
    others = model_of(verifier), model_of(refiner)

    def prepare(spec: ModelSpec | None, seed: int) -> PreparedJob:
        policy = needed(spec)
        account = Account()
        prompts = encode_prompts(policy, prompt_task, sampled, limits=limits, account=account)

        def run(place: Place) -> list[Row]:
            model = policy.load()
            roles = [model, *(model if o is None else o.load_frozen() for o in others)]
            place.open()
            trees = _Trees(prompt_task, roles, sampled, critique_max_tokens, num_samples, principle)

            def part(some: Sequence[Prompt], number: int) -> Row:
                grown = trees.grown(some, (seed, number))
                return {
                    "rows": [row for node in grown for row in right_rows(node, threshold)],
                    "pairs": [row for node in grown for row in pair_rows(node, threshold)],
                    "values": [node.value for node in grown],
                }

            parts = make_parts(place.path, prompts, batch_size, part)
            rows = _write(place, parts)
            remove_parts(place.path)
            return rows

        leaves = f"{num_samples}^3 leaves"
        return PreparedJob(
            facts=[("task", f"{prompt_task.name}: {len(prompts)} prompts, trees of {leaves}")],
            run=run,
            account=account,
        )

    return Job(method="malt", settings=settings, prepare=prepare, leaves=SAMPLES)


@dataclass(slots=True)
class Node:
    """A text of the tree, and what follows from it.

    Attributes:
        prompt: what its role was given. text: what it wrote. grade: of a revision.
    """

    example: Example
    role: Role | None
    prompt: Text
    text: str = ""
    grade: float = 0.0
    children: list[Node] = field(default_factory=list)

    @property
    def value(self) -> float:
        """The grade of a revision; of any other text the mean value of what follows from it."""
        if not self.children:
            return self.grade
        return sum(child.value for child in self.children) / len(self.children)


def right_rows(root: Node, threshold: float) -> list[Row]:
    """The texts of a tree that are right for their roles, equal ones of a parent once."""
    rows = []
    for node in _inner(root):
        seen: set[str] = set()
        for child in node.children:
            if child.value > threshold and child.text.strip() and child.text not in seen:
                seen.add(child.text)
                rows.append({**_row(child), "completion": _told(child), "value": child.value})
    return rows


def pair_rows(root: Node, threshold: float) -> list[Row]:
    """Below each parent the best right text against the worst wrong one."""
    rows = []
    for node in _inner(root):
        best = max(node.children, key=lambda child: child.value)
        worst = min(node.children, key=lambda child: child.value)
        differ = best.text.strip() and worst.text.strip() and best.text != worst.text
        if best.value > threshold >= worst.value and differ:
            texts = {"chosen": _told(best), "rejected": _told(worst)}
            rows.append({**_row(best), **texts, "margin": best.value - worst.value})
    return rows


def _inner(root: Node) -> list[Node]:
    """The nodes of a tree that something follows from."""
    below = [inner for child in root.children for inner in _inner(child)]
    return [root, *below] if root.children else []


def _row(node: Node) -> Row:
    return {"prompt": node.prompt, "role": node.role, "id": node.example.id}


def _told(node: Node) -> Text:
    return as_completion(node.prompt, node.text)


class _Trees:
    """Grows the trees of some prompts, a role at a time.

    Args:
        models: of generator, verifier and refiner.
    """

    def __init__(
        self,
        task: Task,
        models: Sequence[LanguageModel],
        sampling: Sampling,
        critique_max_tokens: int,
        num_samples: int,
        principle: str,
    ) -> None:
        self.task, self.models, self.num = task, models, num_samples
        self.principle = principle
        critique = Sampling(
            max_tokens=critique_max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
        )
        self.samplings = [sampling, critique, sampling]

    def grown(self, prompts: Sequence[Prompt], entropy: tuple[int, int]) -> list[Node]:
        """The tree of each prompt, with its values."""
        roots = [Node(p.example, None, p.example.prompt) for p in prompts]
        answers = self._below(0, roots, [r.prompt for r in roots], entropy)
        asked = [critique_prompt(a.prompt, a.text, self.principle) for a in answers]
        critiques = self._below(1, answers, asked, entropy)
        parents = [a for a in answers for _ in range(self.num)]
        requests = [
            revision_prompt(a.prompt, a.text, self.principle, c.text.strip())
            for a, c in zip(parents, critiques, strict=True)
        ]
        for revision in self._below(2, critiques, requests, entropy):
            revision.grade = self.task.score(revision.text, revision.example)
        return roots

    def _below(
        self, role: int, parents: list[Node], prompts: list[Text], entropy: tuple[int, int]
    ) -> list[Node]:
        """The texts of a role below each parent."""
        model, system = self.models[role], self.task.system
        seeds = np.random.default_rng((*entropy, role)).integers(0, 2**62, size=len(parents))
        requests = [
            Request(
                tuple(encode_prompt(model.tokenizer, prompt, system=system)),
                self.samplings[role],
                n=self.num,
                seed=int(seed),
            )
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        written = TorchEngine(model).generate(requests)
        for parent, prompt, samples in zip(parents, prompts, written, strict=True):
            parent.children = [
                Node(parent.example, ROLES[role], prompt, decode_completion(model.tokenizer, s))
                for s in samples
            ]
        return [child for parent in parents for child in parent.children]


def _write(place: Place, parts: Sequence[Row]) -> list[Row]:
    """The files of a job from its parts; returns the rows of samples.jsonl."""
    rows, pairs = ([row for part in parts for row in part[name]] for name in ("rows", "pairs"))
    values = [value for part in parts for value in part["values"]]
    mean = sum(values) / len(values)
    if not rows:
        raise DataError(
            f"malt: no text is right for its role (mean value of {len(values)} trees {mean:.2f}); "
            "lower threshold, raise num_samples, or start from a better model"
        )
    files: dict[str, list[Row]] = {}
    for role in ROLES:
        files[f"{role}.jsonl"] = [row for row in rows if row["role"] == role]
        files[f"{role}_pairs.jsonl"] = [row for row in pairs if row["role"] == role]
    files |= {PAIRS: pairs, SAMPLES: rows}  # samples.jsonl last: it says that the job is done
    for name, some in files.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in some)
        write_text_whole(place.path / name, text)
    write(
        place.console,
        f"{len(rows)} rows and {len(pairs)} pairs{place.written(SAMPLES)}; mean grade of "
        f"{len(values)} trees {mean:.3f}",
    )
    return rows
