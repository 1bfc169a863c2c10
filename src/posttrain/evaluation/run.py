"""Ask a model the problems of a task, keep every outcome, and compare two models on the same problems."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from posttrain.engines.base import Engine
from posttrain.errors import DataError
from posttrain.evaluation.metrics import majority_at_k, pass_at_k, per_question
from posttrain.evaluation.statistics import Difference, Interval, mcnemar, mean_interval, paired_bootstrap
from posttrain.search.base import Sampler, Selection
from posttrain.types import Example, Request, Sample, Sampling, Task, plain_text

NUM_TEXTS = 4


@dataclass(slots=True)
class Outcome:
    """One problem: whether each sample was right, its answer, its tokens; the first few texts.

    Under a search strategy there is one entry, the strategy's choice, and num_tokens holds all tokens it spent.
    """

    id: str
    prompt: str
    answer: str
    correct: list[int]
    answers: list[str | None]
    num_tokens: list[int]
    texts: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Evaluation:
    """A model's outcomes on a task. errors: scorings that raised, which count as wrong."""

    task: str
    sampling: dict[str, Any]
    seed: int
    num_samples: int
    outcomes: list[Outcome]
    truncated: float = 0.0
    errors: int = 0
    search: str | None = None

    def accuracy(self) -> Interval:
        """Mean over questions of the mean over samples."""
        return mean_interval(self.means())

    def means(self) -> list[float]:
        """Mean correctness per question."""
        return [float(x) for x in per_question([o.correct for o in self.outcomes])]

    def pass_at(self, k: int) -> Interval:
        """Unbiased pass@k."""
        return mean_interval([pass_at_k(len(o.correct), sum(o.correct), k) for o in self.outcomes])

    def majority_at(self, k: int) -> Interval:
        """Expected accuracy of a majority vote over k samples."""
        return mean_interval([majority_at_k(o.answers, o.correct, k, seed=self.seed) for o in self.outcomes])

    def metrics(self) -> dict[str, Any]:
        """All metrics, by name, as plain values."""
        ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128) if 1 < k <= self.num_samples]
        count = max(sum(len(o.correct) for o in self.outcomes), 1)
        return {
            "accuracy": asdict(self.accuracy()),
            **{f"pass@{k}": asdict(self.pass_at(k)) for k in ks},
            **{f"maj@{k}": asdict(self.majority_at(k)) for k in ks},
            "mean_tokens": sum(sum(o.num_tokens) for o in self.outcomes) / count,
            "truncated": self.truncated,
            "unparsed": sum(a is None for o in self.outcomes for a in o.answers) / count,
            "errors": self.errors,
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values for evaluation.json."""
        return {
            "task": self.task,
            "num_examples": len(self.outcomes),
            "num_samples": self.num_samples,
            "sampling": self.sampling,
            "seed": self.seed,
            "search": self.search,
            "metrics": self.metrics(),
            "truncated": self.truncated,
            "errors": self.errors,
            "examples": [asdict(o) for o in self.outcomes],
        }

    @staticmethod
    def from_json(values: dict[str, Any]) -> Evaluation:
        """Read what `to_json` gave."""
        return Evaluation(
            values["task"],
            values["sampling"],
            values["seed"],
            values["num_samples"],
            [Outcome(**o) for o in values["examples"]],
            values["truncated"],
            values["errors"],
            values["search"],
        )


def example_seed(seed: int, example: Example) -> int:
    """A seed from the run's seed and the example's id, so that two models are asked with the same random numbers."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {example.id}".encode(), digest_size=7).digest(), "big")


class _Scorer:
    """A task's verdicts; a verifier that raises is counted, and its sample is wrong."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.errors = 0

    def correct(self, text: str, example: Example) -> int:
        try:
            return int(self.task.score(text, example) >= 1.0)
        except Exception:
            self.errors += 1
            return 0

    def answer(self, text: str) -> str | None:
        try:
            return self.task.extract(text)
        except Exception:
            self.errors += 1
            return None


def evaluate(
    engine: Engine,
    prompts: Sequence[tuple[Example, tuple[int, ...]]],
    task: Task,
    decode: Callable[[Sample], str],
    *,
    num_samples: int,
    sampling: Sampling,
    seed: int,
) -> Evaluation:
    """Sample `num_samples` completions of each prompt and judge them.

    Args:
        prompts: examples with their prompts as ids. decode: sample -> text.
    """
    requests = [Request(ids, sampling, n=num_samples, seed=example_seed(seed, e)) for e, ids in prompts]
    scorer = _Scorer(task)
    outcomes: list[Outcome] = []
    cut = 0
    for (example, _), samples in zip(prompts, engine.generate(requests), strict=True):
        texts = [decode(s) for s in samples]
        cut += sum(s.finish_reason == "length" for s in samples)
        outcomes.append(
            Outcome(
                example.id,
                plain_text(example.prompt),
                str(example.answer),
                [scorer.correct(t, example) for t in texts],
                [scorer.answer(t) for t in texts],
                [len(s.ids) for s in samples],
                texts[:NUM_TEXTS],
            )
        )
    total = max(len(prompts) * num_samples, 1)
    return Evaluation(task.name, asdict(sampling), seed, num_samples, outcomes, cut / total, scorer.errors)


def evaluate_search(
    engine: Engine,
    prompts: Sequence[tuple[Example, tuple[int, ...]]],
    task: Task,
    decode: Callable[[Sample], str],
    strategy: Callable[..., list[Selection]],
    inputs: Sequence[str],
    *,
    name: str,
    sampling: Sampling,
    seed: int,
    value: Callable[[Sequence[tuple[int, ...]]], list[float]] | None = None,
    score: Callable[[Example, list[str]], list[float]] | None = None,
) -> Evaluation:
    """Judge what a search strategy chooses.

    Args:
        strategy: bound to its settings. inputs: its positional parameters. name: for the record.
        value: a critic's values of states, for strategies that ask for them.
        score: what the strategy is guided by; None: the task's own verdict, an oracle.
    """
    scorer = _Scorer(task)
    example_of = {ids: example for example, ids in prompts}
    judge = score or (lambda example, texts: [float(task.score(t, example)) for t in texts])
    given = {
        "prompts": [ids for _, ids in prompts],
        "generate": Sampler(engine, decode, sampling, [example_seed(seed, e) for e, _ in prompts]),
        "extract": scorer.answer,
        "score": lambda ids, texts: judge(example_of[ids], texts),
        "value": value,
        "decode": lambda ids: decode(Sample(list(ids), [], [], "stop")),
    }
    selections = strategy(*(given[i] for i in inputs))
    outcomes = [
        Outcome(
            e.id, plain_text(e.prompt), str(e.answer), [scorer.correct(s.text, e)], [s.answer], [s.num_tokens],
            [s.text, *(c.text for c in s.candidates)][:NUM_TEXTS],
        )
        for (e, _), s in zip(prompts, selections, strict=True)
    ]  # fmt: skip
    candidates = [c for s in selections for c in s.candidates]
    cut = sum(not c.ended for c in candidates) / max(len(candidates), 1)
    return Evaluation(task.name, asdict(sampling), seed, 1, outcomes, cut, scorer.errors, name)


@dataclass(frozen=True, slots=True)
class Comparison:
    """b against a on the same questions. mcnemar: exact p-value where both have one outcome a question, else None."""

    difference: Difference
    mcnemar: float | None

    @property
    def p_value(self) -> float:
        """McNemar's where it applies, else the bootstrap's."""
        return self.difference.p_value if self.mcnemar is None else self.mcnemar

    def __str__(self) -> str:
        d = self.difference
        test = "paired bootstrap" if self.mcnemar is None else "McNemar, exact"
        return f"difference {d.estimate:+.1%} [{d.low:+.1%}, {d.high:+.1%}] on {d.n} questions, p = {self.p_value:.2g} ({test})"


def compare(a: Evaluation, b: Evaluation, *, seed: int = 0) -> Comparison:
    """Is b better than a? Paired over questions.

    Raises:
        DataError: the two were not asked the same questions; tells how many are shared.
    """
    first = {o.id: mean for o, mean in zip(a.outcomes, a.means(), strict=True)}
    second = {o.id: mean for o, mean in zip(b.outcomes, b.means(), strict=True)}
    if a.task != b.task or first.keys() != second.keys():
        raise DataError(
            f"the evaluations are not of the same questions: {a.task} with {len(first)} and {b.task} with {len(second)}, "
            f"{len(first.keys() & second.keys())} shared. Evaluate both with the same task, num_examples and seed"
        )
    x, y = [first[i] for i in first], [second[i] for i in first]
    single = all(len(o.correct) == 1 for o in (*a.outcomes, *b.outcomes))
    return Comparison(paired_bootstrap(x, y, seed=seed), mcnemar(x, y) if single else None)


def read_evaluation(path: Path) -> Evaluation:
    """evaluation.json of a run folder, or the file itself.

    Raises:
        DataError: it is missing or broken.
    """
    file = path / "evaluation.json" if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"no evaluation at {file}; make one with `posttrain eval`")
    try:
        return Evaluation.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is not an evaluation ({type(error).__name__}: {error})") from error


def compare_files(a: Path, b: Path) -> str:
    """What `posttrain compare` prints."""
    first, second = read_evaluation(a), read_evaluation(b)
    lines = []
    for path, evaluation in ((a, first), (b, second)):
        x = evaluation.accuracy()
        lines.append(f"{path}: {x.estimate:.1%} [{x.low:.1%}, {x.high:.1%}] on {x.n} questions")
    return "\n".join([*lines, f"second minus first: {compare(first, second)}"])
