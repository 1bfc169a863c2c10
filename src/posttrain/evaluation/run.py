"""Ask a model the problems of a task, keep every outcome, and compare two models on the same
problems.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from posttrain import registry
from posttrain.engines.base import Engine
from posttrain.errors import ConfigError, DataError, PosttrainError
from posttrain.evaluation.metrics import majority_at_k, pass_at_k, per_question
from posttrain.evaluation.statistics import (
    Difference,
    Interval,
    mcnemar,
    mean_interval,
    paired_bootstrap,
)
from posttrain.evaluation.strategy import Strategy
from posttrain.search.base import Candidate, Sampler
from posttrain.types import Example, Request, Sample, Sampling, Task, plain_text

NUM_TEXTS = 4


@dataclass(slots=True)
class Outcome:
    """One problem: whether each sample was right, its answer, its tokens; the first few texts.

    Under a search strategy there is one entry, the strategy's choice, and num_tokens holds all
    tokens it spent on the problem.
    """

    id: str
    prompt: str
    answer: str
    correct: list[int]
    answers: list[str | None]
    num_tokens: list[int]
    texts: list[str] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """Hash of prompt and answer. Id and fingerprint together say which question it is."""
        return hashlib.blake2b(
            json.dumps([self.prompt, self.answer]).encode(), digest_size=12
        ).hexdigest()


@dataclass(slots=True)
class Evaluation:
    """A model's outcomes on a task.

    num_available: problems that the task has, of which the first are asked. errors: verdicts that
    raised.
    search: the strategy that chose; strategy: the same in words. oracle: whether the gold chose
    (None: unknown).
    """

    task: str
    sampling: dict[str, Any]
    seed: int
    num_samples: int
    outcomes: list[Outcome]
    truncated: float = 0.0
    errors: int = 0
    search: str | None = None
    num_available: int | None = None
    prompts_dropped: int = 0
    task_settings: dict[str, Any] = field(default_factory=dict)
    search_settings: dict[str, Any] = field(default_factory=dict)
    strategy: str | None = None
    scorer: dict[str, Any] | None = None
    oracle: bool | None = False

    @property
    def problems(self) -> str:
        """How many problems were asked: "200 of 300 problems"."""
        return problems_text(len(self.outcomes), self.num_available)

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
        return mean_interval(
            [majority_at_k(o.answers, o.correct, k, seed=self.seed) for o in self.outcomes]
        )

    def metrics(self) -> dict[str, Any]:
        """All metrics, by name, as plain values.

        accuracy: mean over problems of the mean over samples (pass@1); under a search that of its
        choices. pass@k, maj@k: unbiased over k of the samples; a search has one outcome per
        problem, so none. mean_tokens: tokens per completion; under a search tokens per problem, all
        that it sampled. truncated: share of the completions, or candidates, that did not end by
        themselves. unparsed: share of the outcomes without an answer. errors: verdicts that raised.
        """
        ks = sorted(
            {k for k in (2, 4, 8, 16, 32, 64, 128) if k < self.num_samples}
            | {self.num_samples} - {1}
        )
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
            "task_settings": self.task_settings,
            "num_examples": len(self.outcomes),
            "num_available": self.num_available,
            "prompts_dropped": self.prompts_dropped,
            "num_samples": self.num_samples,
            "sampling": self.sampling,
            "seed": self.seed,
            "search": self.search,
            "search_settings": self.search_settings,
            "strategy": self.strategy,
            "scorer": self.scorer,
            "oracle": self.oracle,
            "metrics": self.metrics(),
            "truncated": self.truncated,
            "errors": self.errors,
            "examples": [{**asdict(o), "fingerprint": o.fingerprint} for o in self.outcomes],
        }

    @staticmethod
    def from_json(values: dict[str, Any]) -> Evaluation:
        """Read what `to_json` gave, also of older versions, which recorded less."""
        names = {f.name for f in fields(Outcome)}
        search = values["search"]
        # Of a plugin's search, unknown here, an older file does not say who chose.
        entries = registry.searches.entries()
        scored = search is not None and (search not in entries or "score" in entries[search].inputs)
        return Evaluation(
            values["task"],
            values["sampling"],
            values["seed"],
            values["num_samples"],
            [Outcome(**{k: v for k, v in o.items() if k in names}) for o in values["examples"]],
            values["truncated"],
            values["errors"],
            search,
            num_available=values.get("num_available"),
            prompts_dropped=values.get("prompts_dropped", 0),
            task_settings=values.get("task_settings") or {},
            search_settings=values.get("search_settings") or {},
            strategy=values.get("strategy") or (search.replace("_", " ") if search else None),
            scorer=values.get("scorer"),
            oracle=values.get("oracle", None if scored else False),
        )


def problems_text(asked: int, available: int | None) -> str:
    """A number of problems in words, with the number there is where it is another."""
    return f"{asked} problems" if available in (None, asked) else f"{asked} of {available} problems"


def example_seed(seed: int, example: Example) -> int:
    """A seed from the run's seed and the example's id, so that two models are asked with the
    same random numbers.
    """
    return int.from_bytes(
        hashlib.blake2b(f"{seed} {example.id}".encode(), digest_size=7).digest(), "big"
    )


class _Verifier:
    """A task's verdicts; a verifier that raises is counted, and its sample is wrong."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.errors = 0

    def grade(self, text: str, example: Example) -> float:
        return self._attempt(lambda: float(self.task.score(text, example)), 0.0)

    def correct(self, text: str, example: Example) -> int:
        return int(self.grade(text, example) >= 1.0)

    def answer(self, text: str) -> str | None:
        return self._attempt(lambda: self.task.extract(text), None)

    def _attempt(self, verdict: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return verdict()
        except (KeyboardInterrupt, PosttrainError):
            raise
        except BaseException:  # also SystemExit: a verifier does not end an evaluation
            self.errors += 1
            return otherwise


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
    requests = [
        Request(ids, sampling, n=num_samples, seed=example_seed(seed, e)) for e, ids in prompts
    ]
    verifier = _Verifier(task)
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
                [verifier.correct(t, example) for t in texts],
                [verifier.answer(t) for t in texts],
                [len(s.ids) for s in samples],
                texts[:NUM_TEXTS],
            )
        )
    total = max(len(prompts) * num_samples, 1)
    return Evaluation(
        task.name, asdict(sampling), seed, num_samples, outcomes, cut / total, verifier.errors
    )


def evaluate_search(
    engine: Engine,
    prompts: Sequence[tuple[Example, tuple[int, ...]]],
    task: Task,
    decode: Callable[[Sample], str],
    strategy: Strategy,
    *,
    sampling: Sampling,
    seed: int,
    value: Callable[[Sequence[tuple[int, ...]]], list[float]] | None = None,
) -> Evaluation:
    """Judge what a search strategy chooses.

    Args:
        strategy: with its settings and its scorer. value: a critic's values of states, for
        strategies that ask for them.
    """
    verifier = _Verifier(task)

    def score(index: int, candidates: Sequence[Candidate]) -> list[float]:
        if strategy.scorer is None:
            raise ConfigError(f"search {strategy.name!r} needs a scorer")
        if not isinstance(index, int):
            raise ConfigError(
                f"search {strategy.name!r} calls score with {type(index).__name__}; score(index, "
                "candidates) takes the place "
                "of the prompt among `prompts`, because two problems may have one prompt"
            )
        return strategy.scorer.score(prompts[index][0], candidates, verifier.grade)

    selections = strategy.select(
        {
            "prompts": [ids for _, ids in prompts],
            "generate": Sampler(
                engine, decode, sampling, [example_seed(seed, e) for e, _ in prompts]
            ),
            "extract": verifier.answer,
            "score": score,
            "value": value,
            "decode": lambda ids: decode(Sample(list(ids), [], [], "stop")),
        }
    )
    outcomes = [
        Outcome(
            e.id,
            plain_text(e.prompt),
            str(e.answer),
            [verifier.correct(s.text, e)],
            [s.answer],
            [s.num_tokens],
            [s.text, *(c.text for c in s.candidates)][:NUM_TEXTS],
        )
        for (e, _), s in zip(prompts, selections, strict=True)
    ]
    candidates = [c for s in selections for c in s.candidates]
    cut = sum(not c.ended for c in candidates) / max(len(candidates), 1)
    scorer = strategy.scorer
    return Evaluation(
        task.name,
        asdict(sampling),
        seed,
        1,
        outcomes,
        cut,
        verifier.errors,
        strategy.name,
        search_settings=dict(strategy.settings),
        strategy=str(strategy),
        scorer=None if scorer is None else {"name": scorer.name, **scorer.settings},
        oracle=strategy.oracle,
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """b against a on the same questions. mcnemar: exact p-value where both have one outcome a
    question, else None.
    """

    difference: Difference
    mcnemar: float | None

    @property
    def p_value(self) -> float:
        """McNemar's where it applies, else the bootstrap's."""
        return self.difference.p_value if self.mcnemar is None else self.mcnemar

    def __str__(self) -> str:
        d = self.difference
        test = "paired bootstrap" if self.mcnemar is None else "McNemar, exact"
        return (
            f"difference {d.estimate:+.1%} [{d.low:+.1%}, {d.high:+.1%}] on {d.n} questions, p = "
            f"{self.p_value:.2g} ({test})"
        )


def compare(a: Evaluation, b: Evaluation, *, seed: int = 0) -> Comparison:
    """Is b better than a? Paired over questions.

    Raises:
        DataError: the two were not asked the same questions, of the same ids, prompts and answers.
    """
    first, second = _by_question(a), _by_question(b)
    if a.task != b.task or sorted(first) != sorted(second):
        ids = [{name for name, _, _ in questions} for questions in (first, second)]
        shared = ids[0] & ids[1]
        changed = sorted({name for name, _, _ in first.keys() - second.keys()} & shared)
        why = (
            f" by id, {len(changed)} of them with another prompt or answer, first {changed[0]!r}"
            if changed
            else ""
        )
        raise DataError(
            f"the evaluations are not of the same questions: {a.task} with {len(first)} and "
            f"{b.task} with {len(second)}, "
            f"{len(shared)} shared{why}. Evaluate both with the same task, its settings and "
            "num_examples"
        )
    x, y = list(first.values()), [second[question] for question in first]
    single = all(len(o.correct) == 1 for o in (*a.outcomes, *b.outcomes))
    return Comparison(paired_bootstrap(x, y, seed=seed), mcnemar(x, y) if single else None)


def _by_question(evaluation: Evaluation) -> dict[tuple[str, str, int], float]:
    """Mean of each question by id and fingerprint, and a number where one is asked twice."""
    means: dict[tuple[str, str, int], float] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for outcome, mean in zip(evaluation.outcomes, evaluation.means(), strict=True):
        question = (outcome.id, outcome.fingerprint)
        means[(*question, counts[question])] = mean
        counts[question] += 1
    return means


def unlikeness(a: Evaluation, b: Evaluation) -> list[str]:
    """How two evaluations of the same questions differ beside the model; a line each."""
    lines = (
        [f"num_samples: {a.num_samples} and {b.num_samples}"]
        if a.num_samples != b.num_samples
        else []
    )
    lines += [f"seed: {a.seed} and {b.seed}"] if a.seed != b.seed else []
    for name, (x, y) in (
        ("sampling", (a.sampling, b.sampling)),
        ("task", (a.task_settings, b.task_settings)),
    ):
        lines += _differing(name, x, y)
    if (a.search, a.search_settings, a.scorer) != (b.search, b.search_settings, b.scorer):
        lines.append(f"search: {a.strategy or 'none'} and {b.strategy or 'none'}")
        lines += (
            _differing("search", a.search_settings, b.search_settings)
            if a.search == b.search
            else []
        )
        lines += (
            _differing("scorer", a.scorer or {}, b.scorer or {}) if a.search == b.search else []
        )
    for name, evaluation in (("the first", a), ("the second", b)):
        if evaluation.oracle:
            lines.append(
                f"{name} is an oracle: the gold chose its answers; no deployed system can reach "
                "this"
            )
        elif evaluation.oracle is None:
            lines.append(
                f"{name} does not say what its search chose by, and may be an oracle (an older "
                "file)"
            )
    return lines


def _differing(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    if not a or not b:
        return []  # an older file, which did not record it
    names = [k for k in dict.fromkeys([*a, *b]) if _plain(a.get(k)) != _plain(b.get(k))]
    return [f"{name}.{k}: {a.get(k)} and {b.get(k)}" for k in names]


def _plain(value: Any) -> Any:
    """A value as JSON gives it back: tuples are lists there."""
    return list(value) if isinstance(value, tuple) else value


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
        by = f" by {evaluation.strategy}" if evaluation.strategy else ""
        lines.append(f"{path}: {x.estimate:.1%} [{x.low:.1%}, {x.high:.1%}] on {x.n} questions{by}")
    lines.append(f"second minus first: {compare(first, second)}")
    unlike = unlikeness(first, second)
    if unlike:
        lines += ["not alike, beside the model:", *(f"  {line}" for line in unlike)]
    return "\n".join(lines)
