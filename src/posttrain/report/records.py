"""What a report shows, as plain records: completions, evaluations, the stages of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Said:
    """A message that the model did not write."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool. arguments: as JSON. result, error: one of them is None."""

    name: str
    arguments: str
    result: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """A completion within an episode.

    messages: said before it, since the turn before. reward: of this step. is_trained: whether
    losses count it. starts_branch: its context rewrites that of the turn before.
    """

    messages: tuple[Said, ...]
    text: str
    calls: tuple[Call, ...] = ()
    reward: float | None = None
    num_tokens: int | None = None
    is_trained: bool = True
    starts_branch: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion. reward, rewards: None where no reward applied, or where it failed (then
    `error` says why).

    role: "chosen" or "rejected" in a row of preferences, else empty. turns, stop_reason: of an
    episode, whose `text` is that of its last turn.
    """

    text: str
    reward: float | None = None
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    advantage: float | None = None
    num_tokens: int | None = None
    finish_reason: str | None = None
    error: str | None = None
    role: str = ""
    turns: tuple[TurnRecord, ...] = ()
    stop_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """The completions of one prompt: a line of rollouts.jsonl, or the rows of samples.jsonl with
    that prompt (then step is None).
    """

    step: int | None
    id: str
    prompt: str
    answer: str | None
    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of evaluation.json.

    correct: 0 or 1 for each sample; one entry under a search, whose choice it judges.
    texts: of the first few samples; under a search the chosen text, then the first candidates.
    """

    id: str
    prompt: str
    answer: str | None
    correct: tuple[int, ...]
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """evaluation.json.

    intervals: accuracy, pass@k and maj@k by name. numbers: the metrics without an interval.
    num_available: problems in the task. strategy: the search in words. search_settings, scorer:
    all their settings. oracle: whether the gold answer chose.
    """

    task: str
    num_examples: int
    num_samples: int
    intervals: Mapping[str, Interval]
    numbers: Mapping[str, float]
    problems: tuple[Problem, ...]
    search: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    prompts_dropped: int = 0
    num_available: int | None = None
    strategy: str = ""
    search_settings: Mapping[str, Any] = field(default_factory=dict)
    scorer: Mapping[str, Any] | None = None
    oracle: bool = False

    @property
    def problems_text(self) -> str:
        """Number of problems evaluated: "200 of 300 problems"."""
        partial = self.num_available is not None and self.num_available != self.num_examples
        available = f" of {self.num_available:,}" if partial else ""
        return f"{self.num_examples:,}{available} problems"

    def by_k(self, name: str) -> dict[int, Interval]:
        """The intervals of "pass" or "maj" by number of samples, ascending."""
        intervals = {
            int(key.partition("@")[2]): value
            for key, value in self.intervals.items()
            if key.startswith(f"{name}@")
        }
        return dict(sorted(intervals.items()))


@dataclass(frozen=True, slots=True)
class BestOf:
    """Best of n completions by a reward model's score.

    reward: the gold reward of the choice. ceiling: the gold reward of the best completion.
    kl: bound of KL(best-of-n || policy) in nats. score: the choice's score.
    """

    n: int
    reward: Interval
    ceiling: float
    kl: float
    score: float


@dataclass(frozen=True, slots=True)
class RewardMeasured:
    """reward_evaluation.json: how good the scores of a reward model are.

    on_rows: measures on held-out rows by name, with an interval where there is one.
    gain: best of num_samples against one sample, in gold reward.
    """

    rows: int = 0
    format: str = ""
    on_rows: Mapping[str, Interval | float] = field(default_factory=dict)
    problems: int = 0
    left_out: int = 0
    num_samples: int = 0
    curve: tuple[BestOf, ...] = ()
    gain: Interval | None = None
    p_value: float | None = None


@dataclass(frozen=True, slots=True)
class StageRow:
    """A row of summary.json.

    p_value: paired test against the previous stage, None for the first. note: the search in
    words. search: with all its settings. oracle: whether the gold answer chose.
    num_samples: the number of candidates it chose among.
    """

    stage: str
    accuracy: float
    low: float
    high: float
    p_value: float | None = None
    pass_at: Mapping[int, float] = field(default_factory=dict)
    maj_at: Mapping[int, float] = field(default_factory=dict)
    mean_tokens: float | None = None
    seconds: float | None = None
    note: str = ""
    folder: str = ""
    search: str = ""
    oracle: bool = False
    num_samples: int | None = None

    @property
    def label(self) -> str:
        """The stage's title; "(oracle)" is added where the gold answer chose."""
        if self.oracle and "oracle" not in self.stage.lower():
            return f"{self.stage} (oracle)"
        return self.stage

    @property
    def short_label(self) -> str:
        """The label in 28 characters. A long title is cut; "(oracle)" never is."""
        if len(self.label) <= 28:
            return self.label
        end = self.label.removeprefix(self.stage)
        return f"{self.stage[: 27 - len(end)]}…{end}"


@dataclass(frozen=True, slots=True)
class Summary:
    """summary.json: the table of a pipeline's stages."""

    title: str
    command: str
    rows: tuple[StageRow, ...]


@dataclass(slots=True)
class RunFolder:
    """A run as its files show it.

    metrics: one mapping per step. samples: rows of samples.jsonl, grouped by prompt.
    num_samples: all rows of that file. cut_off: files whose last line is half written.
    stages: of a pipeline. forgetting: what forgetting.json holds.
    continual: what continual.json holds. sequences: what sequences.json holds.
    """

    path: Path
    recipe: str = ""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    rollouts: list[Group] = field(default_factory=list)
    samples: list[Group] = field(default_factory=list)
    num_samples: int = 0
    evaluation: Measured | None = None
    reward: RewardMeasured | None = None
    summary: Summary | None = None
    stages: list[RunFolder] = field(default_factory=list)
    cut_off: list[str] = field(default_factory=list)
    forgetting: dict[str, Any] | None = None
    continual: dict[str, Any] | None = None
    sequences: dict[str, Any] | None = None

    @property
    def command(self) -> str:
        """The command line of the run, from the first line of recipe.yaml."""
        first = self.recipe.split("\n", 1)[0]
        return first.removeprefix("#").strip() if first.startswith("#") else ""

    @property
    def title(self) -> str:
        """The pipeline's title, else the recipe's, else the folder's name."""
        if self.summary:
            return self.summary.title
        for line in self.recipe.splitlines():
            if line.startswith("title:"):
                return line.removeprefix("title:").strip().strip("'\"") or self.path.name
        return self.path.resolve().name
