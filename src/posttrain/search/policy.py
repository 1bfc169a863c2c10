"""Compute-optimal search: a cheap pilot says how hard a problem is, and a policy what to do."""

from __future__ import annotations

import functools
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from posttrain import registry
from posttrain.errors import ConfigError, DataError
from posttrain.files import write_text_whole
from posttrain.registry import searches
from posttrain.search.base import Candidate, Ids, Selection
from posttrain.search.strategy import strategy
from posttrain.search.vote import vote

OFFERED = ("prompt", "ask", "extract", "score", "decode", "encode", "problem", "render")
"""Inputs that a strategy of a policy may ask for."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A strategy by name, with its settings."""

    search: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return str(strategy(self.search, **self.settings))


@dataclass(frozen=True, slots=True)
class Rule:
    """What to do at one budget. edges: of the bins of difficulty, ascending; bin i holds
    edges[i - 1] <= difficulty < edges[i]. choices: one per bin, from easy to hard.
    """

    edges: tuple[float, ...]
    choices: tuple[Choice, ...]

    def choice(self, difficulty: float) -> tuple[int, Choice]:
        """The bin of a problem, and its strategy."""
        place = bisect_right(self.edges, difficulty)
        return place, self.choices[place]


@dataclass(frozen=True, slots=True)
class Policy:
    """Strategies by difficulty and budget.

    Attributes:
        pilot: samples by which a problem's difficulty is judged; their tokens count.
        difficulty: "disagreement" is 1 - the share of the most frequent answer among them, "score"
            minus their mean score.
        rules: by budget in tokens. The one of the largest budget that is not above the search's
            own applies, else the smallest.
        record: what it was fitted on, and its cross-fitted estimate; plain values.
    """

    pilot: int
    difficulty: Literal["disagreement", "score"]
    rules: Mapping[int, Rule]
    record: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.pilot < 1 or not self.rules:
            raise ConfigError(
                f"a policy needs at least 1 pilot sample (pilot: {self.pilot}) and a rule "
                f"(rules: {len(self.rules)})"
            )
        for rule in self.rules.values():
            if len(rule.choices) != len(rule.edges) + 1 or list(rule.edges) != sorted(rule.edges):
                raise ConfigError(
                    f"a policy's rule has {len(rule.edges)} edges {list(rule.edges)} and "
                    f"{len(rule.choices)} choices; edges ascend, and there is one choice more"
                )
            for choice in rule.choices:
                check_choice(choice, scored=self.difficulty == "score")

    def rule(self, budget: float) -> Rule:
        """The rule for a budget in tokens."""
        within = [b for b in self.rules if b <= budget]
        return self.rules[max(within) if within else min(self.rules)]

    def save(self, path: str | Path) -> Path:
        """Write the policy as JSON; `load_policy` reads it."""
        rules = {
            str(budget): {"edges": list(r.edges), "choices": [asdict(c) for c in r.choices]}
            for budget, r in sorted(self.rules.items())
        }
        values = {"policy": 1, "pilot": self.pilot, "difficulty": self.difficulty, "rules": rules}
        text = json.dumps({**values, "record": dict(self.record)}, indent=1, default=str)
        write_text_whole(Path(path), text + "\n")
        return Path(path)


def check_choice(choice: Choice, *, scored: bool) -> None:
    """Refuse a strategy that a policy cannot run. scored: there is a scorer.

    Raises:
        ConfigError: no such strategy or setting, or it asks for what there is not.
    """
    chosen = strategy(choice.search, **choice.settings)
    offered = OFFERED if scored else tuple(name for name in OFFERED if name != "score")
    missing = [name for name in chosen.inputs if name not in offered]
    if choice.search in ("compute_optimal", "scored_compute_optimal"):
        raise ConfigError("a policy cannot choose a policy; name other strategies")
    if missing:
        raise ConfigError(
            f"a policy whose difficulty is {'score' if scored else 'disagreement'} cannot run "
            f"{choice.search!r}, which asks for {', '.join(missing)}"
            + ("; fit it with a scorer" if missing == ["score"] else "; leave it out")
        )


DEFAULT = Policy(
    4,
    "disagreement",
    {0: Rule((0.2, 0.6), tuple(Choice("majority_vote", {"num_samples": n}) for n in (4, 8, 16)))},
)
"""Where there is no file: more votes for problems on which the pilot disagrees."""

SCORED_DEFAULT = Policy(
    4,
    "score",
    {0: Rule((), (Choice("best_of_n", {"num_samples": 8}),))},
)
"""Where there is no file: best-of-N."""


def load_policy(path: str | Path) -> Policy:
    """The policy of a file.

    Raises:
        DataError: it is missing or broken. ConfigError: it names what there is not.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"no policy at {file}; make one with `posttrain tradeoff --policy FILE`")
    return _loaded(str(file.resolve()), file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _loaded(path: str, changed: int) -> Policy:
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        rules = {
            int(budget): Rule(
                tuple(map(float, rule["edges"])),
                tuple(Choice(c["search"], c["settings"]) for c in rule["choices"]),
            )
            for budget, rule in values["rules"].items()
        }
        return Policy(values["pilot"], values["difficulty"], rules, values.get("record") or {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no policy ({type(error).__name__}: {error})") from error


@searches.register
async def compute_optimal(
    prompt, ask, extract, decode, encode, problem, render, *, path: str = ""
) -> Selection:
    """Compute-optimal search (Snell et al., arXiv 2408.03314): the strategy that was best on
    validation problems of the same difficulty and budget.

        pilot = k samples; difficulty = 1 - share of their most frequent answer
        run the strategy that the policy has for (difficulty, budget)

    The pilot's tokens count. A strategy that samples the prompt itself first, such as a vote, gets
    the pilot's samples as its first ones. The difficulty never reads the gold.

    path: a file that `posttrain tradeoff --policy FILE` or pt.fit_policy has written; without one
    the vote is of 4, 8 or 16 samples, by how far 4 of them disagree.
    """
    policy = load_policy(path) if path else DEFAULT
    if policy.difficulty == "score":
        raise ConfigError(
            f"{path} is a policy by scores; use scored_compute_optimal with its scorer"
        )
    return await run_policy(policy, ask, offered(locals()))


@searches.register
async def scored_compute_optimal(
    prompt, ask, extract, score, decode, encode, problem, render, *, path: str = ""
) -> Selection:
    """Compute-optimal search by a scorer: difficulty = minus the mean score of the pilot's samples
    (Snell et al., arXiv 2408.03314). See compute_optimal.

    path: a file of a policy that was fitted with a scorer; without one it is best-of-8.
    """
    policy = load_policy(path) if path else SCORED_DEFAULT
    return await run_policy(policy, ask, offered(locals()))


def offered(given: Mapping[str, Any]) -> dict[str, Any]:
    """Of what a search was given, the inputs that a strategy of a policy may ask for."""
    return {name: given[name] for name in OFFERED if name in given}


async def run_policy(policy: Policy, ask: Any, inputs: Mapping[str, Any]) -> Selection:
    """What a policy chooses for one prompt. inputs: by name; the pilot's `ask` takes the place of
    theirs.
    """
    prompt, extract = inputs["prompt"], inputs["extract"]
    pilot = list(await ask(prompt, policy.pilot))
    if policy.difficulty == "score":
        numbers = await inputs["score"](pilot)
        difficulty = -sum(numbers) / max(len(numbers), 1)
        pilot = [c.scored(number) for c, number in zip(pilot, numbers, strict=True)]
    else:
        difficulty = disagreement([extract(c.text) for c in pilot])
    place, choice = policy.rule(ask.budget.max_tokens or 0).choice(difficulty)
    notes = {
        "difficulty": difficulty,
        "bin": float(place),
        "pilot_tokens": float(sum(len(c.ids) for c in pilot)),
    }
    if ask.budget.is_spent:
        return vote(pilot, [1.0] * len(pilot), extract, **notes)
    chosen = strategy(choice.search, **choice.settings)
    selection = await chosen.run({**inputs, "ask": PilotAsk(ask, prompt, pilot)})
    selection.notes.update(notes)
    return selection


def disagreement(answers: Sequence[str | None]) -> float:
    """1 - the share of the most frequent answer, from 0 to 1; what has no answer agrees with
    nothing.
    """
    counts = Counter(a for a in answers if a is not None)
    return 1.0 - max(counts.values(), default=0) / max(len(answers), 1)


_NUMBERS = ("temperature", "max_tokens")  # options of a call of which 0 is not the default


class PilotAsk:
    """An `Ask` whose first plain call about the prompt gets the pilot's samples first."""

    def __init__(self, ask: Any, prompt: Ids, pilot: Sequence[Candidate]) -> None:
        self.sampling, self.seed, self.random = ask.sampling, ask.seed, ask.random
        self.budget, self.ledger = ask.budget, ask.ledger
        self.stop_ids, self.context_length = ask.stop_ids, ask.context_length
        self._ask, self._prompt, self._pilot = ask, tuple(prompt), list(pilot)

    async def __call__(self, context: Ids, n: int = 1, **options: Any) -> list[Candidate]:
        """See `Ask`."""
        # Temperature 0 is an option as well: a greedy call gets no sample of the pilot.
        options = {k: v for k, v in options.items() if v is not None and (v or k in _NUMBERS)}
        is_plain = tuple(context) == self._prompt and not options
        ready = self._pilot[:n] if is_plain else []
        self._pilot = self._pilot[len(ready) :]
        more = n - len(ready)
        rest: list[Candidate] = await self._ask(context, more, **options) if more else []
        return [*ready, *rest]


def piloted(choice: Choice, pilot: int, *, scored: bool) -> Callable[..., Any]:
    """A search that runs the pilot and then always the same strategy: what a policy's choice costs
    and gains, difficulty and all.
    """
    rules = {0: Rule((), (choice,))}
    policy = Policy(pilot, "score" if scored else "disagreement", rules)
    name = registry.searches.entry(choice.search).name

    async def plain(prompt, ask, extract, decode, encode, problem, render) -> Selection:
        return await run_policy(policy, ask, offered(locals()))

    async def by_score(prompt, ask, extract, score, decode, encode, problem, render) -> Selection:
        return await run_policy(policy, ask, offered(locals()))

    search: Any = by_score if scored else plain
    search.__name__ = f"piloted_{name}"
    return search
