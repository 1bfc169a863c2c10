"""What an evaluation gives: the outcome of each problem, metrics with intervals, and a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from posttrain import registry
from posttrain.errors import DataError
from posttrain.evaluation.metrics import majority_at_k, pass_at_k, per_question
from posttrain.evaluation.statistics import Interval, mean_interval
from posttrain.files import write_text_whole
from posttrain.report.notebook import evaluation_html
from posttrain.search.scorer import gold_inputs
from posttrain.search.strategy import oracle_text


@dataclass(slots=True)
class Outcome:
    """One problem: whether each sample was right, its answer, its tokens; the first few texts.

    Under a search strategy there is one entry, the strategy's choice, and num_tokens holds all
    tokens it spent on the problem. Of episodes there are the environment's rewards (empty: it gives
    none; None: the episode failed) and the numbers of turns. notes: numbers that the
    search reports, or those of `overthinking`.
    """

    id: str
    prompt: str
    answer: str
    correct: list[int]
    answers: list[str | None]
    num_tokens: list[int]
    texts: list[str] = field(default_factory=list)
    rewards: list[float | None] = field(default_factory=list)
    num_turns: list[int] = field(default_factory=list)
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Hash of prompt and answer. Id and fingerprint together say which question it is."""
        return hashlib.blake2b(
            json.dumps([self.prompt, self.answer]).encode(), digest_size=12
        ).hexdigest()


@dataclass(slots=True)
class Evaluation:
    """A model's outcomes on a task. `print` shows accuracy, pass@k, and a warning of an oracle.

    num_available: problems that the task has, of which the first are asked. errors: verdicts that
    raised.
    search: the strategy that chose; strategy: the same in words. oracle: whether the gold chose
    (None: unknown). environment: what the model acted in, in words. accounts: means over problems
    of what a search spent (`search.base.Ledger`) and of the numbers it reports ("notes/..."); its
    budget in tokens is max_tokens. failures: why searches failed.
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
    environment: str | None = None
    accounts: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

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

    def reward(self) -> Interval | None:
        """Mean over questions of the environment's mean reward; None where it gives none."""
        rewards = [[r for r in o.rewards if r is not None] for o in self.outcomes]
        means = [sum(of_question) / len(of_question) for of_question in rewards if of_question]
        return mean_interval(means, are_shares=False) if means else None

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
        themselves. unparsed: share of the outcomes without an answer. errors: verdicts that raised,
        and episodes that failed. Where it was asked for: tokens_after_right, tokens of a completion
        after its first right beginning; outcome_efficiency, the share of tokens up to it; undone,
        the share of completions that had it right and end wrong. Of episodes: reward: the
        environment's, mean over problems; mean_turns.
        """
        ks = sorted(
            {k for k in (2, 4, 8, 16, 32, 64, 128) if k < self.num_samples}
            | {self.num_samples} - {1}
        )
        count = max(sum(len(o.correct) for o in self.outcomes), 1)
        reward, turns = self.reward(), [n for o in self.outcomes for n in o.num_turns]
        return {
            "accuracy": asdict(self.accuracy()),
            **({"reward": asdict(reward)} if reward is not None else {}),
            **{f"pass@{k}": asdict(self.pass_at(k)) for k in ks},
            **{f"maj@{k}": asdict(self.majority_at(k)) for k in ks},
            "mean_tokens": sum(sum(o.num_tokens) for o in self.outcomes) / count,
            **({"mean_turns": sum(turns) / len(turns)} if turns else {}),
            **self._overthinking(),
            "truncated": self.truncated,
            "unparsed": sum(a is None for o in self.outcomes for a in o.answers) / count,
            "errors": self.errors,
        }

    def _overthinking(self) -> dict[str, float]:
        """Means over problems of where their completions are right first, if that was found."""
        means = {}
        for name in ("tokens_after_right", "outcome_efficiency", "undone"):
            values = [o.notes[name] for o in self.outcomes if name in o.notes]
            if values and self.search is None:
                means[name] = sum(values) / len(values)
        return means

    def details(self) -> list[str]:
        """The search with all its settings; pass@k, maj@k, tokens and what did not count."""
        lines = []
        if self.search is not None:
            lines.append(f"search {_with_settings(self.search, self.search_settings)}")
        if self.scorer is not None:
            settings = {k: v for k, v in self.scorer.items() if k != "name"}
            lines[-1] += f"; scorer {_with_settings(self.scorer['name'], settings)}"
            lines[-1] += f"; oracle: {str(bool(self.oracle)).lower()}"
        metrics = self.metrics()
        parts = []
        if self.environment is not None:
            lines.append(f"environment {self.environment}")
        if "reward" in metrics:
            low, high = metrics["reward"]["low"], metrics["reward"]["high"]
            parts.append(f"reward {metrics['reward']['estimate']:.3f} ({low:.3f} to {high:.3f})")
        if "mean_turns" in metrics:
            parts.append(f"{metrics['mean_turns']:.1f} turns")
        for name, value in metrics.items():
            if name.startswith(("pass@", "maj@")):
                parts.append(f"{name} {value['estimate']:.1%}")
        unit = "problem" if self.search else "episode" if self.environment else "completion"
        parts.append(f"{metrics['mean_tokens']:.0f} tokens per {unit}")
        if "tokens_after_right" in metrics:
            parts.append(f"{metrics['tokens_after_right']:.1f} after the first right answer")
        parts.append(f"{metrics['truncated']:.1%} cut off")
        parts.append(f"{metrics['unparsed']:.1%} without an answer")
        if self.errors:
            parts.append(f"{self.errors} failure{'s' * (self.errors > 1)} of the verifier")
        return [*lines, ", ".join(parts)]

    def headline(self) -> str:
        """The accuracy with its interval, the number of problems, and the search."""
        interval = self.accuracy()
        by = f" by {self.strategy}" if self.strategy else ""
        dropped = self.prompts_dropped
        lost = f"; {dropped} prompts too long for the context dropped" if dropped else ""
        return (
            f"{self.task}: accuracy {interval.estimate:.1%} (95 % interval {interval.low:.1%} to "
            f"{interval.high:.1%}) on {self.problems}{by}{lost}"
        )

    def warning(self) -> str:
        """What is printed where the gold chose, or may have chosen; else empty."""
        if self.oracle:
            scorer = str((self.scorer or {}).get("name", "oracle"))
            gold = () if scorer not in registry.rewards.names() else tuple(gold_inputs(scorer))
            return oracle_text(scorer, gold, self.search_settings)
        if self.oracle is None:
            return "the file does not say what the search chose by; it may be an oracle"
        return ""

    def _repr_html_(self) -> str:
        """The accuracy and its details in a notebook's cell."""
        return str(evaluation_html(self.to_json()))

    def __str__(self) -> str:
        lines = [self.headline(), *(f"  {line}" for line in self.details()), self.warning()]
        return "\n".join(line for line in lines if line)

    def save(self, path: str | Path, **more: Any) -> Path:
        """Write the evaluation as JSON, whole or not at all; `read_evaluation` reads it.

        Args:
            path: a file, or a folder for evaluation.json.
            more: further plain values of the file, such as seconds.
        """
        file = Path(path)
        file = file / "evaluation.json" if file.is_dir() else file
        text = json.dumps({**self.to_json(), **more}, default=str)
        write_text_whole(file, text)
        return file

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
            "environment": self.environment,
            "accounts": self.accounts,
            "failures": self.failures,
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
            environment=values.get("environment"),
            accounts=values.get("accounts") or {},
            failures=values.get("failures") or [],
        )


def _with_settings(name: str, settings: Mapping[str, Any]) -> str:
    """A name with its settings: "best_of_n (num_samples 8)"."""
    parts = []
    for key, value in settings.items():
        parts.append(f"{key} {value!r}" if isinstance(value, str) else f"{key} {value}")
    return f"{name} ({', '.join(parts)})" if parts else name


def problems_text(number: int, available: int | None) -> str:
    """A number of problems in words, with the number there is where it is another."""
    return (
        f"{number} problems" if available in (None, number) else f"{number} of {available} problems"
    )


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
