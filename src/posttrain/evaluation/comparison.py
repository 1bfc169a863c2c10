"""Two evaluations of the same problems, compared in pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.errors import DataError
from posttrain.evaluation.outcomes import Evaluation, read_evaluation
from posttrain.evaluation.statistics import Difference, mcnemar, paired_bootstrap


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
    if a.environment != b.environment:
        lines.append(f"environment: {a.environment or 'none'} and {b.environment or 'none'}")
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


def _refuse_unmeasured(a: Path, b: Path) -> None:
    """Refuse folders of runs that measured nothing.

    Raises:
        DataError: names the commands that measure their models and compare what they write.
    """
    runs = [p for p in (a, b) if (p / "model").is_dir() and not (p / "evaluation.json").is_file()]
    if not runs:
        return
    targets = {path: path.with_name(f"{path.name}-eval") for path in runs}
    commands = [
        f"posttrain eval --model {path} --task TASK --output {target}"
        for path, target in targets.items()
    ]
    commands.append(f"posttrain compare {targets.get(a, a)} {targets.get(b, b)}")
    lines = "".join(f"\n  {command}" for command in commands)
    raise DataError(
        f"{' and '.join(map(str, runs))}: a run that measured nothing (no evaluation.json). "
        f"Folders of evaluations are compared; make them from the models, with one TASK:{lines}"
    )


def compare_files(a: Path, b: Path) -> str:
    """What `posttrain compare` prints.

    Args:
        a, b: folders with an evaluation.json, or such files.
    """
    _refuse_unmeasured(a, b)
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
