"""rStar: a tree of several kinds of steps, and answers that agree with completions of their own
beginnings.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Candidate, Selection, select
from posttrain.search.budget_forcing import put
from posttrain.search.mcts import Node, descended, expanded, uct
from posttrain.search.steps import Steps, at_least


@searches.register
async def rstar(
    prompt,
    ask,
    extract,
    decode,
    encode,
    *,
    num_rollouts: int = 16,
    exploration: float = 2.0,
    sub_question: str = "Sub-question: ",
    rephrased: str = "The problem in other words: ",
    consistency_checks: int = 4,
    least_share: float = 0.2,
    most_share: float = 0.5,
    separator: str = "\n",
    max_steps: int = 5,
) -> Selection:
    """rStar: self-play mutual reasoning (Qi et al., arXiv 2408.06195). Needs no scorer.

        tree: UCT over actions that a path may take
            one step | all the rest | a sub-question and its answer | the last step once more |
            the problem in other words (first step alone)
        value of a whole path: share of the whole paths so far that have its answer
        check: consistency_checks times, cut a whole path at 20 to 50 % of its tokens, complete it
               consistency = share of the completions with the same answer
        answer: the path with the highest share of its answer * consistency; ties go to the first

    Here the same model completes the beginnings; the paper's second model may be asked by a search
    of your own. Paths of one text are checked once.

    num_rollouts: simulations. exploration: c of UCT. sub_question, rephrased: texts that begin such
    a step; empty leaves the action out. consistency_checks: 0 leaves the check out. least_share,
    most_share: bounds of the part that is kept. separator: text that ends a step. max_steps: the
    last step runs to the end.
    """
    at_least("rstar", num_rollouts=num_rollouts)
    at_least("rstar", 0, consistency_checks=consistency_checks)
    _check_shares(least_share, most_share)
    steps = Steps("rstar", prompt, ask, decode, separator, max_steps)
    actions = _Actions(steps, *(encode(text) if text else () for text in (sub_question, rephrased)))
    root, whole, rollouts = Node(steps.root), dict[str, Candidate](), 0
    answers: Counter[str | None] = Counter()
    rule, finished = uct(exploration), list[Candidate]()

    def share(path: Candidate) -> float:
        answer = extract(path.text)
        return answers[answer] / max(answers.total(), 1) if answer is not None else 0.0

    while rollouts < num_rollouts and root.is_open and not (rollouts and ask.budget.is_spent):
        node = descended(root, rule, lambda parent, child: float("inf"))
        if node.parent is None or (node.visits and not steps.is_done(node.path)):
            node = expanded(node, await actions.of(node))[0]
        path = node.path
        if steps.is_done(path):
            node.is_open = False
        else:
            (path,) = await steps.continued(path, whole=True)
        finished.append(path)
        if steps.is_ended(path):
            whole.setdefault(path.text, path)
            answers[extract(path.text)] += 1
        node.backed_up(share(path))
        rollouts += 1
    paths = list(whole.values()) or finished
    checks = await _consistencies(
        steps, paths, extract, consistency_checks, (least_share, most_share)
    )
    worths = [share(path) * check for path, check in zip(paths, checks, strict=True)]
    return select(
        [path.scored(number) for path, number in zip(paths, worths, strict=True)],
        worths.index(max(worths)),
        extract,
        None,
        num_rollouts=rollouts,
        num_whole=len(whole),
        mean_consistency=sum(checks) / len(checks),
    )


def _check_shares(least: float, most: float) -> None:
    """Refuse bounds of a kept part that are not in order."""
    if not 0 <= least <= most <= 1:
        raise ConfigError(
            f"rstar: least_share {least} and most_share {most} must be in order, from 0 to 1"
        )


class _Actions:
    """What a path may do next. sub_question, rephrased: ids that begin such a step; () = never."""

    def __init__(
        self, steps: Steps, sub_question: tuple[int, ...], rephrased: tuple[int, ...]
    ) -> None:
        self.steps, self.sub_question, self.rephrased = steps, sub_question, rephrased

    async def of(self, node: Node) -> list[Candidate]:
        """The path of a node after each of its actions."""
        path, steps = node.path, self.steps
        calls: list[Any] = [steps.continued(path), steps.continued(path, whole=True)]
        if self.sub_question:
            calls.append(self._cued(path, self.sub_question))
        if node.parent is not None:
            calls.append(steps.continued(node.parent.path))
        elif self.rephrased:
            calls.append(self._cued(path, self.rephrased))
        return [path for group in await asyncio.gather(*calls) for path in group]

    async def _cued(self, path: Candidate, cue: tuple[int, ...]) -> list[Candidate]:
        """A step that begins with given ids; none where they leave no room for a token."""
        steps = self.steps
        room = steps.ask.sampling.max_tokens - len(path.ids) - len(cue)
        if room < 1:
            return []
        return await steps.continued(put(path, cue))


async def _consistencies(
    steps: Steps,
    paths: list[Candidate],
    extract: Callable[[str], str | None],
    consistency_checks: int,
    bounds: tuple[float, float],
) -> list[float]:
    """For each path, the share of completions of its beginnings that agree; 1 without any."""
    ask = steps.ask

    async def check(path: Candidate, part: float) -> bool | None:
        ids = path.ids[: max(1, int(part * len(path.ids)))]
        begun = replace(steps.root, ids=ids, given=path.given[: len(ids)])
        (completed,) = await steps.continued(begun, whole=True)
        if not steps.is_ended(completed):
            return None
        return extract(completed.text) == extract(path.text)

    parts = [[ask.random.uniform(*bounds) for _ in range(consistency_checks)] for _ in paths]
    if ask.budget.is_spent:
        return [1.0] * len(paths)
    checks = [check(path, part) for path, row in zip(paths, parts, strict=True) for part in row]
    results = iter(await asyncio.gather(*checks))
    shares = []
    for _ in paths:
        agreed = [r for r in (next(results) for _ in range(consistency_checks)) if r is not None]
        shares.append(sum(agreed) / len(agreed) if agreed else 1.0)
    return shares
